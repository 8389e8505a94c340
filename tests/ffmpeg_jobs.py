"""Runs models of the ffmpeg service on real files, and makes such files."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.engine import ModelSpec
from models.media import ffmpeg_path, probe
from models.zoo import ffmpeg
from tests.run_context import LocalRunContext

SAMPLES = Path(__file__).parent.parent / "samples"
BUNNY = SAMPLES / "bigbuckbunny.mp4"  # 5.28 s, 132 frames of 1280x720, sound in 5.1
CARPHONE = SAMPLES / "carphone_pristine.mp4"  # 120 frames of 176x144, no sound
TALK = SAMPLES / "conversation.wav"  # 30 s, 16 kHz, mono


def model(name: str) -> ModelSpec:
    return next(spec for spec in ffmpeg.MODELS if spec.name == f"ffmpeg.{name}")


def run(name: str, context: LocalRunContext, **inputs: Any) -> dict[str, Any]:
    """The values that one run of the model returns."""
    spec = model(name)
    given = {key: str(value) if isinstance(value, Path) else value for key, value in inputs.items()}
    return spec.engines[0].make().run(spec.inputs(**given), context).values


def check(name: str, **inputs: Any) -> None:
    """What submit does: validate, probe, check."""
    spec = model(name)
    assert spec.check is not None
    given = {key: str(value) if isinstance(value, Path) else value for key, value in inputs.items()}
    media = {key: probe(value) for key, value in inputs.items() if key in {"video_path", "audio_path"}}
    spec.check(spec.inputs(**given), media)


def picture(path: Path) -> np.ndarray:
    """Luma of an image file, (H, W) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def make(target: Path, *arguments: str) -> Path:
    """A file written by ffmpeg."""
    subprocess.run(
        [ffmpeg_path(), "-nostdin", "-loglevel", "error", "-y", *arguments, str(target)], check=True
    )
    return target


def make_video(target: Path, *, seconds: float, fps: int = 10, size: str = "128x96", gop: int = 40) -> Path:
    source = f"testsrc2=s={size}:r={fps}:d={seconds}"
    return make(
        target, "-f", "lavfi", "-i", source, "-g", str(gop), "-pix_fmt", "yuv420p", "-preset", "ultrafast"
    )


def make_long_video(target: Path) -> Path:
    """Some minutes of the sample in a row, without encoding: decoding it takes far longer than a test."""
    return make(target, "-stream_loop", "40", "-i", str(BUNNY), "-c", "copy")


def corrupted(target: Path) -> Path:
    """The sample with a good first frame and index, and noise for the rest."""
    make(target, "-i", str(BUNNY), "-c", "copy", "-movflags", "+faststart")
    content = bytearray(target.read_bytes())
    half = len(content) // 8
    for position in range(half, len(content), 3):
        content[position] = position * 37 % 251
    target.write_bytes(content)
    return target
