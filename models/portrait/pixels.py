"""Reading and writing a picture's pixels between and around their middles. Positions as in geometry.py."""

from __future__ import annotations

import cv2
import numpy as np


def sampled(picture: np.ndarray, at_px: np.ndarray) -> np.ndarray:
    """(h, w, C) of the picture's type: the picture at (h, w, 2) px; its edge goes on outside it."""
    places = np.ascontiguousarray(at_px, np.float32)
    return cv2.remap(picture, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def box_of(points_px: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of an array of that shape which hold the (N, 2) points; empty where it has none."""
    limit = np.array((shape[1], shape[0]))
    low = np.clip(np.floor(points_px.min(axis=0)), 0, limit).astype(int)
    high = np.clip(np.ceil(points_px.max(axis=0)) + 1, 0, limit).astype(int)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def as_bytes(colours: np.ndarray) -> np.ndarray:
    """uint8 from floats 0..255 and a little beyond."""
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8)
