"""Which preset a folder gets, and what clip a request becomes under it. Pure: no torch.

An operator may put `mediaray.json` beside model_index.json; every key of it is optional:

    {"preset": "wan2.1-distilled-4-step",   a name of `PRESETS`, where the folder's files do not tell
     "cache": "first_block_cache",          a name of acceleration.CACHES; "exact" without it
     "mag_ratios": [1.0, 1.02, ...],        what "mag_cache" needs: they belong to one checkpoint
     "warm_shapes": [[832, 480, 81]]}       width, height, frames to compile for; [] compiles nothing

Step-distilled checkpoints have the files of their teachers, so they are told by that file or by the folder's
name ("distill" or "lightx2v" in it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.engine import InvalidInput, ModelNotReady
from models.text_to_video.checkpoint import MODEL_INDEX, check_whole, read_json
from models.text_to_video.preset_table import PRESETS, SHAPES, Guidance, Preset, Trait

if TYPE_CHECKING:
    from models.zoo.text_to_video import GenerateInputs

__all__ = [
    "PRESETS",
    "SHAPES",
    "Clip",
    "FolderSettings",
    "Guidance",
    "Preset",
    "Trait",
    "call_arguments",
    "clip_of",
    "folder_settings",
    "preset_of",
    "scheduler_settings",
    "seed_of",
]

SETTINGS_FILE = "mediaray.json"
MAX_SEED = 2**63 - 1
_MIN_SHOWN_SIDE_PX = 64
# Pipelines that want a picture, a video or a sound beside the text.
_NOT_OF_TEXT = (
    "ImageToVideo", "Image2Video", "I2V", "VideoToVideo", "Inpaint", "Upsample", "Condition", "Control",
    "WanAnimate", "StableVideoDiffusion", "I2VGen", "InContext", "LucyEdit",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What one run makes. `shown_side_px` is the shorter side after enlarging; None: frames as they are."""

    width_px: int
    height_px: int
    num_frames: int
    fps: int
    steps: int
    guidance_scale: float
    seed: int
    prompt: str
    negative_prompt: str = ""
    shown_side_px: int | None = None

    @property
    def pixels(self) -> int:
        """Width x height x frames."""
        return self.width_px * self.height_px * self.num_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSettings:
    """What an operator's mediaray.json says; `warm_shapes` None: the preset's own size."""

    preset: str | None = None
    cache: str = "exact"
    mag_ratios: tuple[float, ...] = ()
    warm_shapes: tuple[tuple[int, int, int], ...] | None = None


def preset_of(folder: Path) -> Preset:
    """The preset of a diffusers folder; a text-to-video pipeline that is not known gets a generic one.

    Raises ModelNotReady naming what is missing, cut short or unreadable in it.
    """
    index = check_whole(folder)
    named = folder_settings(folder).preset
    if named is not None:
        return _preset_named(folder, named)
    pipeline = str(index.get("_class_name"))
    fitting = (preset for preset in PRESETS if pipeline in preset.pipelines and _fits(folder, preset))
    found = next(fitting, None)
    return found if found is not None else _generic(folder, pipeline)


def folder_settings(folder: Path) -> FolderSettings:
    """What mediaray.json says, or the defaults without it; raises ModelNotReady for what it cannot mean."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        return FolderSettings()
    said = read_json(path)
    try:
        known = {key: _SETTINGS[key](value) for key, value in said.items()}
    except KeyError as error:
        raise _unclear(path, f"{error} is not one of {', '.join(_SETTINGS)}") from error
    except (TypeError, ValueError) as error:
        raise _unclear(path, str(error)) from error
    return FolderSettings(**known)


def _shapes(value: Any) -> tuple[tuple[int, int, int], ...]:
    shapes = tuple((int(width), int(height), int(frames)) for width, height, frames in value)
    if any(number < 1 for shape in shapes for number in shape):
        raise ValueError("warm_shapes has a number below 1")
    return shapes


_SETTINGS: Mapping[str, Any] = {
    "preset": str,
    "cache": str,
    "mag_ratios": lambda value: tuple(float(ratio) for ratio in value),
    "warm_shapes": _shapes,
}


def _unclear(path: Path, what: str) -> ModelNotReady:
    return ModelNotReady(f"{path.parent.name}/{path.name} is not clear: {what}")


def _preset_named(folder: Path, name: str) -> Preset:
    named = {preset.name: preset for preset in (*PRESETS, SHAPES)}
    if name not in named:
        raise _unclear(folder / SETTINGS_FILE, f"no preset {name!r}; there are {', '.join(sorted(named))}")
    return named[name]


def _fits(folder: Path, preset: Preset) -> bool:
    name = folder.name.lower()
    if preset.folder_words and not any(word in name for word in preset.folder_words):
        return False
    return all(_has(folder, trait) for trait in preset.traits)


def _has(folder: Path, trait: Trait) -> bool:
    path = folder / trait.file
    if not path.exists():
        return False
    value = read_json(path).get(trait.key)
    if isinstance(value, list):  # a component's [library, class]; [null, null] where there is none
        value = value[-1] if value else None
    return value is not None if trait.value is None else value == trait.value


def _generic(folder: Path, pipeline: str) -> Preset:
    """What is safe for most video networks: 8n + 1 frames (also 4n + 1), sides of 32, a small clip."""
    if not pipeline.endswith("Pipeline") or any(word in pipeline for word in _NOT_OF_TEXT):
        text = f"{folder.name}/{MODEL_INDEX} names {pipeline}, which is not a text-to-video pipeline"
        raise ModelNotReady(f"{text} of diffusers")
    return Preset(
        name=pipeline,
        pipelines=(pipeline,),
        side_multiple_px=32,
        frame_step=8,
        width_px=832,
        height_px=480,
        num_frames=49,
        max_frames=161,
        max_px=1280 * 704 * 121,
        fps=16,
        steps=50,
        guidance_scale=5.0,
        notes=(f"{pipeline} has no preset here: its size, frames and steps are general ones.",),
    )


def clip_of(inputs: GenerateInputs, preset: Preset, task_id: str) -> tuple[Clip, list[str]]:
    """The clip that a request becomes, and a sentence for each thing that is not as asked.

    Raises InvalidInput for what is beyond the preset. A seed that is not given comes from the task id, so
    that a repeated attempt makes the same video.
    """
    notes: list[str] = []
    clip = Clip(
        width_px=preset.width_px,
        height_px=preset.height_px,
        num_frames=_frames(inputs.num_frames, preset, notes),
        fps=_fps(inputs.fps, preset, notes),
        steps=_steps(inputs.num_inference_steps, preset, notes),
        guidance_scale=_guidance(inputs.guidance_scale, preset, notes),
        seed=inputs.seed if inputs.seed is not None else seed_of(task_id),
        prompt=_text(inputs.prompt),
        negative_prompt=_negative(inputs.negative_prompt, preset, notes),
        shown_side_px=preset.shown_side_px,
    )
    clip = _sized(clip, inputs, preset, notes)
    _check_size(clip, preset)
    return clip, [*notes, *preset.notes, *filter(None, [preset.knows])]


def seed_of(task_id: str) -> int:
    """A seed that belongs to a task."""
    return int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:8], "big") % (MAX_SEED + 1)


def _frames(wanted: int | None, preset: Preset, notes: list[str]) -> int:
    """The wanted number, or the next larger of the rule: a clip is never shorter than asked."""
    if wanted is None:
        return preset.num_frames
    if wanted > preset.max_frames:
        text = f"num_frames {wanted} is more than the {preset.max_frames} that {preset.name} makes"
        raise InvalidInput(text, field="num_frames")
    frames = -(-(wanted - 1) // preset.frame_step) * preset.frame_step + 1
    if frames != wanted:
        notes.append(f"{preset.name} makes {preset.frame_step}n + 1 frames: {frames} instead of {wanted}.")
    return frames


def _fps(wanted: int | None, preset: Preset, notes: list[str]) -> int:
    if wanted is not None and wanted != preset.fps and not preset.takes_frame_rate:
        notes.append(
            f"Played at {wanted} frames a second; {preset.name} draws motion for {preset.fps}, "
            f"so that it looks {'faster' if wanted > preset.fps else 'slower'}."
        )
    return preset.fps if wanted is None else wanted


def _steps(wanted: int | None, preset: Preset, notes: list[str]) -> int:
    if wanted is None or wanted == preset.steps:
        return preset.steps
    if preset.are_steps_fixed:
        notes.append(f"{preset.name} is distilled for {preset.steps} steps: they are used, not {wanted}.")
        return preset.steps
    return wanted


def _guidance(wanted: float | None, preset: Preset, notes: list[str]) -> float:
    if wanted is None or wanted == preset.guidance_scale:
        return preset.guidance_scale
    if preset.guidance is Guidance.DISTILLED:
        notes.append(f"{preset.name} has its guidance in the weights: guidance_scale {wanted:g} is not used.")
        return preset.guidance_scale
    return wanted


def _negative(wanted: str | None, preset: Preset, notes: list[str]) -> str:
    if preset.guidance in (Guidance.DISTILLED, Guidance.EMBEDDED):
        if wanted:
            notes.append(f"{preset.name} has no pass for a negative prompt: it is not used.")
        return ""
    if wanted is None:
        return preset.negative_prompt
    return _text(wanted)


def _text(text: str) -> str:
    """With one space for each run of spaces and line ends; inputs have no other control characters."""
    return " ".join(text.split())


def _sized(clip: Clip, inputs: GenerateInputs, preset: Preset, notes: list[str]) -> Clip:
    if inputs.width is None and inputs.height is None:
        return clip
    if preset.is_size_fixed:
        return replace(clip, shown_side_px=_shown_side(inputs, preset, notes))
    width, height = _wanted_size(inputs, preset)
    snapped = (_snapped(width, preset.side_multiple_px), _snapped(height, preset.side_multiple_px))
    if snapped != (inputs.width or snapped[0], inputs.height or snapped[1]):
        text = f"{preset.name} draws sides that are multiples of {preset.side_multiple_px} px"
        notes.append(f"{text}: {snapped[0]}x{snapped[1]} instead of {width}x{height}.")
    return replace(clip, width_px=snapped[0], height_px=snapped[1])


def _wanted_size(inputs: GenerateInputs, preset: Preset) -> tuple[int, int]:
    """A side that is not given follows from the other in the preset's shape."""
    width, height = inputs.width, inputs.height
    if width is None:
        width = round((height or 0) * preset.width_px / preset.height_px)
    if height is None:
        height = round(width * preset.height_px / preset.width_px)
    return width, height


def _snapped(side_px: int, multiple_px: int) -> int:
    return max(1, (side_px + multiple_px // 2) // multiple_px) * multiple_px


def _shown_side(inputs: GenerateInputs, preset: Preset, notes: list[str]) -> int:
    """The even side of the square that fits into what is wanted."""
    sides = [side for side in (inputs.width, inputs.height) if side is not None]
    shown = max(_MIN_SHOWN_SIDE_PX, min(sides) // 2 * 2)
    text = f"The model draws {preset.width_px}x{preset.height_px} px, shown enlarged to {shown}x{shown}"
    wanted = f"; {sides[0]}x{sides[-1]} was asked for" if {*sides} != {shown} else ""
    notes.append(f"{text}{wanted}.")
    return shown


def _check_size(clip: Clip, preset: Preset) -> None:
    if clip.pixels <= preset.max_px:
        return
    size = f"{clip.width_px}x{clip.height_px}"
    most = preset.max_px // (clip.width_px * clip.height_px)
    frames = (most - 1) // preset.frame_step * preset.frame_step + 1
    if frames <= 1:
        raise InvalidInput(f"{size} pixels are more than {preset.name} draws", field="width")
    text = f"{clip.num_frames} frames of {size} pixels are more than {preset.name} draws"
    raise InvalidInput(f"{text}: at this size it makes up to {frames}", field="num_frames")


def call_arguments(preset: Preset, clip: Clip) -> dict[str, Any]:
    """What the pipeline's call gets beside texts or embeddings, generator, callback and output type."""
    arguments: dict[str, Any] = {
        "width": clip.width_px,
        "height": clip.height_px,
        "num_frames": clip.num_frames,
        "num_inference_steps": clip.steps,
    }
    if preset.takes_guidance_scale:
        arguments["guidance_scale"] = clip.guidance_scale
    if preset.guidance_scale_2 is not None:
        is_default = clip.guidance_scale == preset.guidance_scale
        arguments["guidance_scale_2"] = preset.guidance_scale_2 if is_default else clip.guidance_scale
    if preset.takes_frame_rate:
        arguments["frame_rate"] = clip.fps
    if preset.max_sequence_length is not None:
        arguments["max_sequence_length"] = preset.max_sequence_length
    return {**arguments, **preset.call}


def scheduler_settings(preset: Preset, config: Mapping[str, Any]) -> dict[str, Any]:
    """What `type(scheduler).from_config(config, **settings)` gets: only settings that its config has.

    Merged into `config` they would be lost: diffusers drops keys that it once filled with defaults.

    UniPC and DPM call the shift of the noise schedule `flow_shift`, the flow-matching schedulers `shift`.
    """
    wanted = dict(preset.scheduler)
    if preset.flow_shift is not None:
        wanted["flow_shift" if "flow_shift" in config else "shift"] = preset.flow_shift
    return {key: value for key, value in wanted.items() if key in config and config[key] != value}
