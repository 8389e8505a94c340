"""The models this server knows: one explicit tuple. Adding a model is one zoo file and one line here."""

from __future__ import annotations

from collections.abc import Iterable

from models.engine import ModelSpec
from models.zoo import (
    audio_separator,
    diagnostics,
    faster_whisper,
    ffmpeg,
    flashvsr,
    hallo2,
    indextts,
    paddleocr,
    pyannote_audio,
    text_to_video,
    wservice,
)

MODELS: tuple[ModelSpec, ...] = (
    *ffmpeg.MODELS,
    *faster_whisper.MODELS,
    *audio_separator.MODELS,
    *pyannote_audio.MODELS,
    *paddleocr.MODELS,
    *indextts.MODELS,
    *wservice.MODELS,
    *flashvsr.MODELS,
    *hallo2.MODELS,
    *text_to_video.MODELS,
    *diagnostics.MODELS,
)


def by_name(models: Iterable[ModelSpec]) -> dict[str, ModelSpec]:
    """Models by task name; raises ValueError for a name that is listed twice."""
    table: dict[str, ModelSpec] = {}
    for model in models:
        if model.name in table:
            raise ValueError(f"two models are named {model.name}")
        table[model.name] = model
    return table


CATALOG = by_name(MODELS)
SERVICES: tuple[str, ...] = tuple(dict.fromkeys(model.service for model in MODELS))
SERVICES_WITH_ENGINES: tuple[str, ...] = tuple(dict.fromkeys(m.service for m in MODELS if m.engines))
"""The services that replicas can serve; the tasks of the others are refused as not ready."""
