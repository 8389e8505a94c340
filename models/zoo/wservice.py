"""The wservice service: its three models, each in a file of its own."""

from __future__ import annotations

from models.engine import ModelSpec
from models.zoo import wservice_correct, wservice_optimize, wservice_subtitles

MODELS: tuple[ModelSpec, ...] = (
    *wservice_subtitles.MODELS,
    *wservice_correct.MODELS,
    *wservice_optimize.MODELS,
)
