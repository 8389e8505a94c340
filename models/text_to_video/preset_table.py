"""What is known of each text-to-video checkpoint, as data: sizes, frame rule, steps, guidance, flow shift.

Sources: the call signatures and checks of diffusers 0.42.1 (`pipelines/*/pipeline_*.py`) and the model cards
of the checkpoints. A value that the checkpoint's own files carry (a scheduler's shift) is left to them: None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any


class Guidance(StrEnum):
    """How a pipeline is told how strictly to follow the text."""

    TWO_PASSES = "two passes"  # `guidance_scale` > 1 runs the network with and without the text in each step
    EMBEDDED = "embedded"  # `guidance_scale` is an input of the network: one pass
    GUIDER = (
        "guider"  # the pipeline's `guider` component has the scale: `pipeline.guider.new(guidance_scale=…)`
    )
    DISTILLED = "distilled"  # trained into the weights: the scale is 1 and a caller's is not used


@dataclass(frozen=True, slots=True)
class Trait:
    """A fact in a JSON file of the folder: `key` has `value`, or is there at all where `value` is None."""

    file: str
    key: str
    value: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How one kind of checkpoint wants to be called.

    `pipelines` are values of model_index.json's `_class_name`; the first preset whose pipeline and `traits`
    fit a folder is its preset. `folder_words`: one of them must be part of the folder's name.
    A video has `frame_step * n + 1` frames. `max_px` bounds width x height x frames.
    `call` are further arguments of the pipeline's call, `scheduler` settings that replace the checkpoint's.
    `takes_guidance_scale` is false where guidance is the `guider` component's alone.
    """

    name: str
    pipelines: tuple[str, ...]
    traits: tuple[Trait, ...] = ()
    folder_words: tuple[str, ...] = ()
    side_multiple_px: int
    frame_step: int
    width_px: int
    height_px: int
    num_frames: int
    max_frames: int
    max_px: int
    fps: int
    steps: int
    guidance_scale: float
    guidance: Guidance = Guidance.TWO_PASSES
    guidance_scale_2: float | None = None
    flow_shift: float | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    max_sequence_length: int | None = None
    negative_prompt: str = ""
    call: Mapping[str, Any] = field(default_factory=dict)
    takes_frame_rate: bool = False
    takes_guidance_scale: bool = True
    is_size_fixed: bool = False
    are_steps_fixed: bool = False
    shown_side_px: int | None = None
    knows: str = ""
    notes: tuple[str, ...] = ()


_INDEX, _NETWORK = "model_index.json", "transformer/config.json"
_UNWANTED = (
    "low quality, blurry, overexposed, static picture, distorted, deformed hands, subtitles, watermark"
)

# Wan: sizes and frames of github.com/Wan-Video; 16 frames a second; network sides are 8 (VAE) x 2 (patch).
_WAN_1_3B = Preset(
    name="wan2.1-1.3b",
    pipelines=("WanPipeline",),
    traits=(Trait(_NETWORK, "num_layers", 30), Trait(_NETWORK, "num_attention_heads", 12)),
    side_multiple_px=16,
    frame_step=4,
    width_px=832,
    height_px=480,
    num_frames=81,
    max_frames=161,
    max_px=1280 * 720 * 81,
    fps=16,
    steps=50,
    guidance_scale=5.0,
    flow_shift=3.0,
    max_sequence_length=512,
    negative_prompt=_UNWANTED,
)
_WAN_14B = replace(
    _WAN_1_3B,
    name="wan2.1-14b",
    traits=(Trait(_NETWORK, "num_layers", 40), Trait(_NETWORK, "num_attention_heads", 40)),
    max_px=1280 * 720 * 121,
)
_WAN = replace(_WAN_1_3B, name="wan", traits=())  # of a size that is not known here
# Two experts of 14B: `transformer` for the noisy part of the way, `transformer_2` for the rest.
_WAN_2_2_A14B = replace(
    _WAN_14B,
    name="wan2.2-t2v-a14b",
    traits=(Trait(_INDEX, "transformer_2"),),
    steps=40,
    guidance_scale=4.0,
    guidance_scale_2=3.0,
    flow_shift=None,
)
# Its VAE reduces 16 times, so that with patches of 2 sides are multiples of 32.
_WAN_2_2_5B = replace(
    _WAN_1_3B,
    name="wan2.2-ti2v-5b",
    traits=(Trait(_INDEX, "expand_timesteps", True), Trait(_NETWORK, "in_channels", 48)),
    side_multiple_px=32,
    width_px=1280,
    height_px=704,
    num_frames=121,
    max_px=1280 * 704 * 161,
    fps=24,
    flow_shift=5.0,
)
# LightX2V's step distillation: from 1000, 750, 500, 250 before the shift of 5, Euler steps: what UniPC makes
# with order 1 and without its corrector.
_DISTILLED_WORDS = ("distill", "lightx2v")
_FOUR_STEPS: dict[str, Any] = {
    "folder_words": _DISTILLED_WORDS,
    "steps": 4,
    "guidance_scale": 1.0,
    "guidance": Guidance.DISTILLED,
    "flow_shift": 5.0,
    "are_steps_fixed": True,
    "scheduler": {"solver_order": 1, "disable_corrector": [0, 1, 2, 3]},
    "negative_prompt": "",
}
_WAN_DISTILLED = replace(_WAN_14B, name="wan2.1-distilled-4-step", traits=(), **_FOUR_STEPS)
_WAN_2_2_DISTILLED = replace(
    _WAN_2_2_A14B, name="wan2.2-distilled-4-step", **_FOUR_STEPS, guidance_scale_2=None
)

# LTX: VAE 32 x 32 x 8. The decoder of 0.9.1 and later makes the last denoising step; older ones ignore the
# two arguments for it.
_LTX = Preset(
    name="ltx-video",
    pipelines=("LTXPipeline",),
    side_multiple_px=32,
    frame_step=8,
    width_px=704,
    height_px=512,
    num_frames=161,
    max_frames=257,
    max_px=1280 * 704 * 257,
    fps=25,
    steps=50,
    guidance_scale=3.0,
    max_sequence_length=128,
    negative_prompt=_UNWANTED,
    call={"decode_timestep": 0.05, "decode_noise_scale": 0.025},
    takes_frame_rate=True,
)
_LTX_DISTILLED = replace(
    _LTX,
    name="ltx-video-distilled",
    folder_words=_DISTILLED_WORDS,
    steps=8,
    guidance_scale=1.0,
    guidance=Guidance.DISTILLED,
    negative_prompt="",
)
_LTX_2 = replace(
    _LTX,
    name="ltx-2",
    pipelines=("LTX2Pipeline",),
    width_px=768,
    num_frames=121,
    max_px=1920 * 1088 * 257,
    fps=24,
    steps=30,
    max_sequence_length=1024,
    call={},
    notes=("LTX-2 makes sound beside the picture; this service returns silent videos, so it is left out.",),
)
# The sigmas that it was distilled for (diffusers, pipelines/ltx2/utils.py); guidance in all its kinds is off.
_LTX_2_DISTILLED = replace(
    _LTX_2,
    name="ltx-2-distilled",
    folder_words=_DISTILLED_WORDS,
    steps=8,
    guidance_scale=1.0,
    guidance=Guidance.DISTILLED,
    negative_prompt="",
    are_steps_fixed=True,
    call={
        "sigmas": [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875],
        "stg_scale": 0.0,
        "modality_scale": 1.0,
        "guidance_rescale": 0.0,
        "audio_guidance_scale": 1.0,
        "audio_stg_scale": 0.0,
        "audio_modality_scale": 1.0,
        "audio_guidance_rescale": 0.0,
    },
)

# CogVideoX: VAE 8 x 8 x 4, frames in groups of 8. 1.0 was trained at one size; 1.5 has patches of 2 in time.
_COGVIDEOX_2B = Preset(
    name="cogvideox-2b",
    pipelines=("CogVideoXPipeline",),
    traits=(Trait(_NETWORK, "num_layers", 30),),
    side_multiple_px=16,
    frame_step=8,
    width_px=720,
    height_px=480,
    num_frames=49,
    max_frames=49,
    max_px=720 * 480 * 49,
    fps=8,
    steps=50,
    guidance_scale=6.0,
    max_sequence_length=226,
)
_COGVIDEOX_5B = replace(
    _COGVIDEOX_2B,
    name="cogvideox-5b",
    traits=(Trait(_NETWORK, "num_layers", 42),),
    call={"use_dynamic_cfg": True},
)
_COGVIDEOX_1_5 = replace(
    _COGVIDEOX_5B,
    name="cogvideox1.5-5b",
    traits=(Trait(_NETWORK, "patch_size_t", 2),),
    frame_step=16,
    width_px=1360,
    height_px=768,
    num_frames=81,
    max_frames=161,
    max_px=1360 * 768 * 161,
    fps=16,
)

# HunyuanVideo-1.5: VAE 16 x 16 x 4; `target_size` is 640 for 480p checkpoints and 960 for 720p.
_HUNYUAN_1_5 = Preset(
    name="hunyuanvideo-1.5",
    pipelines=("HunyuanVideo15Pipeline",),
    side_multiple_px=16,
    frame_step=4,
    width_px=848,
    height_px=480,
    num_frames=121,
    max_frames=241,
    max_px=1280 * 720 * 241,
    fps=24,
    steps=50,
    guidance_scale=6.0,
    guidance=Guidance.GUIDER,
    negative_prompt=_UNWANTED,
    takes_guidance_scale=False,
)
_HUNYUAN_1_5_720P = replace(
    _HUNYUAN_1_5,
    name="hunyuanvideo-1.5-720p",
    traits=(Trait(_NETWORK, "target_size", 960),),
    width_px=1280,
    height_px=720,
)
_HUNYUAN_1_5_DISTILLED = replace(
    _HUNYUAN_1_5,
    name="hunyuanvideo-1.5-distilled",
    traits=(Trait("guider/guider_config.json", "guidance_scale", 1.0),),
    guidance_scale=1.0,
    guidance=Guidance.DISTILLED,
    negative_prompt="",
)
_HUNYUAN = Preset(
    name="hunyuanvideo",
    pipelines=("HunyuanVideoPipeline",),
    side_multiple_px=16,
    frame_step=4,
    width_px=1280,
    height_px=720,
    num_frames=129,
    max_frames=129,
    max_px=1280 * 720 * 129,
    fps=24,
    steps=50,
    guidance_scale=6.0,
    guidance=Guidance.EMBEDDED,
    max_sequence_length=256,
)

SHAPES = replace(
    _WAN_1_3B,
    name="shapes",
    traits=(),
    width_px=64,
    height_px=64,
    num_frames=17,
    max_frames=17,
    max_px=64 * 64 * 17,
    fps=8,
    steps=30,
    guidance_scale=3.0,
    max_sequence_length=48,
    negative_prompt="",
    is_size_fixed=True,
    shown_side_px=384,
    knows="The embedded model knows only coloured shapes and simple motions: whatever else the prompt asks "
    "for is not in the video.",
)

# Special cases stand before the general ones of the same pipeline: the first that fits is taken.
PRESETS: tuple[Preset, ...] = (
    _WAN_2_2_DISTILLED,
    _WAN_2_2_A14B,
    _WAN_2_2_5B,
    _WAN_DISTILLED,
    _WAN_1_3B,
    _WAN_14B,
    _WAN,
    _LTX_DISTILLED,
    _LTX,
    _LTX_2_DISTILLED,
    _LTX_2,
    _COGVIDEOX_1_5,
    _COGVIDEOX_2B,
    _COGVIDEOX_5B,
    _HUNYUAN_1_5_DISTILLED,
    _HUNYUAN_1_5_720P,
    _HUNYUAN_1_5,
    _HUNYUAN,
)
