"""The paddleocr service: its two models, each in a file of its own."""

from __future__ import annotations

from models.engine import ModelSpec
from models.zoo import paddleocr_area, paddleocr_text

MODELS: tuple[ModelSpec, ...] = (*paddleocr_area.MODELS, *paddleocr_text.MODELS)
