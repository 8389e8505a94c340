"""text_to_video.generate_video: a short silent video of what a text describes.

A size, length or rate that is not given is the engine's own: each network has one that it is trained for.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.engine import Engine, EngineKind, EngineSpec, ModelSpec
from models.span_weights import SPAN_WEIGHTS
from models.text_to_video.preset_table import SHAPES
from models.text_to_video.shapes_weights import SHAPES_WEIGHTS
from models.weights import ModelFolder

MAX_PROMPT_CHARS = 4_000
MIN_SIDE_PX, MAX_SIDE_PX = 64, 2_048
MAX_FRAMES = 1_024
MAX_SEED = 2**63 - 1
_SPACES = "\t\n\v\f\r\x85"  # the control characters that are white space


class GenerateInputs(BaseModel):
    """What to show, and how carefully. An engine rounds sizes to its own grid and says so in `notes`."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(
        min_length=1, max_length=MAX_PROMPT_CHARS, pattern=r"\S", description="What the video shows."
    )
    negative_prompt: str | None = Field(
        None, max_length=MAX_PROMPT_CHARS, description="What it must not show."
    )
    num_frames: int | None = Field(
        None,
        ge=1,
        le=MAX_FRAMES,
        description="Length in frames; of each scene where a long prompt has several.",
    )
    width: int | None = Field(None, ge=MIN_SIDE_PX, le=MAX_SIDE_PX, description="Width in pixels.")
    height: int | None = Field(None, ge=MIN_SIDE_PX, le=MAX_SIDE_PX, description="Height in pixels.")
    fps: int | None = Field(None, ge=1, le=60, description="Frames per second.")
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Noise seed; the same seed gives the same video."
    )
    num_inference_steps: int | None = Field(None, ge=1, le=200, description="Denoising steps.")
    guidance_scale: float | None = Field(
        None, ge=0, le=30, allow_inf_nan=False, description="How strictly the video follows the text."
    )
    cache: Literal["exact", "first_block_cache", "mag_cache"] | None = Field(
        None,
        description="Whether denoising may reuse what it computed a step before: faster and less exact; the "
        "result says how much. Not given: what the operator set for the model, else exact.",
    )

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _refuse_control_characters(cls, text: str | None) -> str | None:
        for char in text or "":
            if unicodedata.category(char) == "Cc" and char not in _SPACES:
                raise ValueError(
                    f"U+{ord(char):04X} is a control character: only spaces and line ends may be"
                )
        return text


def _diffusers_engine() -> Engine:
    from models.text_to_video.engine import DiffusersEngine

    return DiffusersEngine()


def _shapes_engine() -> Engine:
    from models.text_to_video.engine import DiffusersEngine

    return DiffusersEngine(SHAPES)


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="text_to_video.generate_video",
        title="Makes a video of a text",
        inputs=GenerateInputs,
        engines=(
            EngineSpec(
                name="diffusers",
                kind=EngineKind.FULL,
                make=_diffusers_engine,
                version="diffusers 0.42.1",
                folders=(ModelFolder("text_to_video/*", ("model_index.json",)),),
                optional_endpoint="chat",
                needs_gpu=True,
                licence="of the model in the folder",
                is_commercial_use_allowed=False,
            ),
            EngineSpec(
                name="shapes",
                kind=EngineKind.EMBEDDED,
                make=_shapes_engine,
                version="mediaray shapes 1",
                weights=(*SHAPES_WEIGHTS, *SPAN_WEIGHTS),
                optional_endpoint="chat",
            ),
        ),
        run_timeout_s=4 * 3600.0,
    ),
)
