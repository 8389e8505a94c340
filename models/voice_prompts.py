"""Recordings of somebody's voice, as speech engines take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from models.audio_streams import decode_audio
from models.engine import InvalidInput

MIN_PROMPT_S = 1.0
_QUIET = 0.01  # peak


def read_prompt(
    path: Path, field: str, *, rate_hz: int, max_s: float, check: Callable[[], None]
) -> np.ndarray:
    """The beginning of a recording of somebody's voice, (L,) float32.

    Raises InvalidInput naming `field` for silence, and for less than a second.
    """
    blocks = decode_audio(path, rate_hz=rate_hz, channels=1, block_s=max_s, check=check)
    try:
        samples = next(blocks, np.zeros((1, 0), np.float32))[0]
    except InvalidInput as error:
        raise InvalidInput(str(error), field=field) from error
    if len(samples) < MIN_PROMPT_S * rate_hz:
        text = f"{field} has {len(samples) / rate_hz:.2f} s of sound; at least {MIN_PROMPT_S:g} s is needed"
        raise InvalidInput(text, field=field)
    if np.abs(samples).max() < _QUIET:
        raise InvalidInput(f"{field} is silent", field=field)
    return samples
