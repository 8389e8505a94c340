"""Sixty captions in wordings that training never sees, English and Chinese, with what they ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from training.shapes.scenes import Scene, scene_of


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A caption, its language ("en" or "zh") and the scene that it tells."""

    language: str
    text: str
    scene: Scene


def held_out_captions() -> list[HeldOut]:
    told = json.loads(Path(__file__).with_name("held_out.json").read_text(encoding="utf-8"))
    return [HeldOut(row["language"], row["text"], scene_of(row)) for row in told]
