"""Picture files as arrays of pixels: upright, 8 bits, RGB, whatever the file holds."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from models.engine import InvalidInput

MAX_PIXELS = 8192 * 8192
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_DAMAGES = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # what Pillow raises
_DIGITS = re.compile(r"(\d+)")
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def is_picture(path: Path) -> bool:
    """Whether a file claims to be a picture of a format that `read_picture` knows; reads its head only."""
    try:
        with _opened(path):
            return True
    except InvalidInput:
        return False


def has_more_pixels(source: Path | BinaryIO, limit: int) -> bool:
    """Whether a file claims to be a picture of more pixels; reads its head only."""
    try:
        with Image.open(source, formats=_FORMATS) as image:
            return image.width * image.height > limit
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except _DAMAGES:
        return False


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB as shown: turned by its EXIF, from any depth and colour space.

    Depths beyond 8 bits are stretched from darkest to brightest. See-through parts show white, or black where
    what is drawn is bright. Raises InvalidInput for what is no still picture, is damaged or too large.
    """
    with _opened(path) as image:
        width_px, height_px = image.size
        if width_px * height_px > MAX_PIXELS:
            text = f"{path.name}: {width_px}x{height_px} pixels are more than the {MAX_PIXELS} accepted"
            raise InvalidInput(text)
        try:
            if getattr(image, "n_frames", 1) > 1:
                raise InvalidInput(f"{path.name} is an animation, not a still picture")
            upright = ImageOps.exif_transpose(image)
            return np.ascontiguousarray(_rgb(upright))
        except _DAMAGES as error:
            raise InvalidInput(f"{path.name} is damaged: {error}") from error


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and its subfolders, in order of their names, numbers in them by value."""
    return sorted(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda path: _natural(folder, path)
    )


def _opened(path: Path) -> Image.Image:
    """The picture, not decoded yet."""
    try:
        return Image.open(path, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"{path.name} has more than the {MAX_PIXELS} pixels accepted") from error
    except _DAMAGES as error:
        raise InvalidInput(f"{path.name} is not a picture") from error


def _rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8."""
    if image.mode in {"F", "I"} or image.mode.startswith("I;"):
        return np.repeat(_stretched(np.asarray(image))[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        return _on_contrast(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _stretched(values: np.ndarray) -> np.ndarray:
    """(H, W) uint8 from (H, W) of any depth."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    return ((values - low) * (255 / (high - low or 1))).round().astype(np.uint8)


def _on_contrast(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 from (H, W, 4): black or white behind it, whichever what is drawn stands out from."""
    rgb, alpha = rgba[:, :, :3].astype(np.float32), rgba[:, :, 3:].astype(np.float32) / 255
    drawn = alpha.sum()
    brightness = float((rgb.mean(axis=2, keepdims=True) * alpha).sum() / drawn) if drawn else 0.0
    behind = np.array(_WHITE if brightness < 128 else _BLACK, np.float32)
    return (rgb * alpha + behind * (1 - alpha)).round().astype(np.uint8)


def _natural(folder: Path, path: Path) -> list[tuple[int, int, str]]:
    name = path.relative_to(folder).as_posix()
    parts: Iterator[str] = iter(_DIGITS.split(name))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
