"""A real engine for hallo2.animate_portrait, small enough for tests: a picture that stands still."""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping
from dataclasses import replace

from PIL import Image

from models.catalog import CATALOG
from models.engine import Engine, EngineKind, EngineSpec, ModelSpec, PermanentFailure, Result, RunContext
from models.media import ffmpeg_path
from models.zoo.hallo2 import AnimateInputs

NAME = "hallo2.animate_portrait"
SOUND_S = 0.4
FAILING_STEPS = 199


class StillPortrait(Engine):
    """Writes a real mp4 of the given picture and sound; fails when asked for 199 steps."""

    def run(self, inputs: AnimateInputs, context: RunContext) -> Result:
        context.logger.info("Starting inference...")
        context.report(1, 2, stage="inference", unit="clips")
        if inputs.inference_steps == FAILING_STEPS:
            raise PermanentFailure("no face was found")
        video = context.output_dir / "talking.mp4"
        context.run_process(
            [
                ffmpeg_path(), "-nostdin", "-v", "error", "-loop", "1", "-i", inputs.image_path,
                "-i", inputs.audio_path, "-shortest", "-r", "10", "-pix_fmt", "yuv420p",
                "-preset", "ultrafast", str(video),
            ]
        )  # fmt: skip
        context.report(2, 2, stage="mux", unit="clips")
        return Result({"video_path": video, "steps": inputs.inference_steps})


def still_portraits() -> Mapping[str, ModelSpec]:
    """The catalogue with an engine for portraits."""
    spec = EngineSpec(name="still", kind=EngineKind.EMBEDDED, make=StillPortrait, version="1")
    return CATALOG | {NAME: replace(CATALOG[NAME], engines=(spec,))}


def no_portraits() -> Mapping[str, ModelSpec]:
    """The catalogue without any engine for portraits, whatever this version has."""
    return CATALOG | {NAME: replace(CATALOG[NAME], engines=())}


def picture(kind: str = "png", size_px: int = 64) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (size_px, size_px), (180, 140, 120)).save(content, kind)
    return content.getvalue()


def sound(duration_s: float = SOUND_S) -> bytes:
    """Silence as a WAV file."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2 * int(16_000 * duration_s)))
    return content.getvalue()
