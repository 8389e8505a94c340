"""Draws what the OCR tests read: frames with burnt-in subtitles, logos, credits, and videos of them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from models.media import ffmpeg_path

FONT = Path(__file__).parent / "fonts" / "NotoSansSC-subset.otf"
Ink = tuple[int, int, int, int]  # x1, y1, x2, y2 of what was drawn


@cache
def font(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONT, size_px)


def scene(width_px: int, height_px: int, number: int = 0) -> Image.Image:
    """A soft colourful background, another one for each number."""
    blots = np.random.default_rng(number).integers(0, 255, (5, 8, 3), dtype=np.uint8)
    return Image.fromarray(blots).resize((width_px, height_px), Image.Resampling.BICUBIC)


def write(
    image: Image.Image, text: str, at: tuple[float, float], size_px: int = 40, anchor: str = "mm"
) -> Ink:
    """Draws white text with a dark edge; the box of the pixels that changed."""
    before = image.copy()
    ImageDraw.Draw(image).text(
        at, text, "white", font(size_px), anchor, stroke_width=max(1, size_px // 14), stroke_fill="black"
    )
    ink = ImageChops.difference(image, before).getbbox()
    assert ink is not None
    return ink


def around(inks: Sequence[Ink]) -> Ink:
    corners = np.array(inks)
    x1, y1 = corners[:, :2].min(axis=0)
    x2, y2 = corners[:, 2:].max(axis=0)
    return int(x1), int(y1), int(x2), int(y2)


def save_all(images: Sequence[Image.Image], folder: Path, pattern: str = "keyframe_{:09d}ms.jpg") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        image.save(folder / pattern.format(number * 500), quality=95)
    return folder


def video_of(images: Sequence[Image.Image], target: Path, *, fps: int = 2) -> Path:
    """An H.264 file that shows each image for one frame."""
    width_px, height_px = images[0].size
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width_px}x{height_px}", "-r", str(fps), "-i", "-")
    codec = ("-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-preset", "ultrafast")
    subprocess.run(
        [ffmpeg_path(), "-loglevel", "error", "-y", *raw, *codec, str(target)],
        input=b"".join(np.asarray(image.convert("RGB")).tobytes() for image in images),
        check=True,
    )
    return target
