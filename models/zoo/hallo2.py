"""hallo2.animate_portrait: a portrait that speaks what is heard (Hallo2, arXiv 2410.07718, MIT).

The defaults are those of the published inference configuration: 40 DDIM steps, guidance 3.5.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.engine import Engine, EngineKind, EngineSpec, InputFile, MediaKind, ModelSpec
from models.face_weights import FACE_WEIGHTS
from models.hallo2.manifest import HALLO2_FOLDER
from models.portrait.limits import check

MAX_SEED = 2**63 - 1

GuidanceScale = Annotated[
    float,
    Field(ge=1, le=20, allow_inf_nan=False, description="How strictly the face follows the sound; 1: not."),
]
InferenceSteps = Annotated[int, Field(ge=1, le=200, description="Denoising steps of each clip of 16 frames.")]


class AnimateInputs(BaseModel):
    """Whom to animate, with which sound, and how carefully."""

    model_config = ConfigDict(extra="forbid")

    image_path: Annotated[str, InputFile(MediaKind.IMAGE)] = Field(
        description="The portrait: one frontal face, best as a square that the face fills by half or more."
    )
    audio_path: Annotated[str, InputFile(MediaKind.AUDIO)] = Field(
        description="The speech that drives the face; the video becomes as long as it."
    )
    use_cache: bool = Field(
        True, description="Reuse what an earlier task computed from the same portrait and sound."
    )
    guidance_scale: GuidanceScale = 3.5
    inference_steps: InferenceSteps | None = Field(
        None,
        description="Denoising steps of each clip of 16 frames. Not given: what the solver needs, 40 of ddim "
        "and 20 of the others.",
    )
    solver: Literal["ddim", "dpm++", "unipc"] = Field(
        "ddim", description="How noise is removed: ddim is the published way, the others take half the steps."
    )
    seed: int = Field(42, ge=0, le=MAX_SEED, description="Noise seed; the same seed gives the same video.")


def _hallo2_engine() -> Engine:
    from models.hallo2.engine import Hallo2Engine

    return Hallo2Engine()


def _portrait_engine() -> Engine:
    from models.portrait.engine import PortraitEngine

    return PortraitEngine()


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="hallo2.animate_portrait",
        title="Makes a portrait speak a recording",
        inputs=AnimateInputs,
        engines=(
            EngineSpec(
                name="hallo2",
                kind=EngineKind.FULL,
                make=_hallo2_engine,
                version="Hallo2",
                weights=FACE_WEIGHTS,
                folders=(HALLO2_FOLDER,),
                needs_gpu=True,
                gpu_memory_bytes=12 << 30,
                licence="MIT",
            ),
            EngineSpec(
                name="portrait-warp",
                kind=EngineKind.EMBEDDED,
                make=_portrait_engine,
                version="mediaray portrait 1",
                weights=FACE_WEIGHTS,
            ),
        ),
        check=check,
        run_timeout_s=24 * 3600.0,
    ),
)
