"""One engine for every diffusers text-to-video folder: the operator's full models and the small one we ship.

Text encoder, denoising, decoding and encoding to H.264; a GPU goes on while pictures are copied and encoded.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from torch import Tensor, nn

from models.engine import Engine, InvalidInput, ModelNotReady, Resources, Result, RunContext
from models.memory_errors import memory_errors
from models.networks.upscaler import Upscaler
from models.span_weights import span_files
from models.text_to_video.acceleration import (
    CACHES,
    check_cache,
    compile_blocks,
    compile_cache_folder,
    fastest_attention,
    step_cache,
)
from models.text_to_video.decode import decoded_frames, gives_latents, picture_frames
from models.text_to_video.denoising import StepWatch, denoised
from models.text_to_video.film import Film, write_film
from models.text_to_video.layout import Layout, SecondChance
from models.text_to_video.memory_plan import Offload, geometry_of
from models.text_to_video.presets import (
    Clip,
    FolderSettings,
    Guidance,
    Preset,
    clip_of,
    folder_settings,
    preset_of,
    scheduler_settings,
)
from models.text_to_video.prompt_cache import PromptCache, PromptEncoder
from models.text_to_video.storyboard import Storyboard, scene_writer, storyboard
from models.video_streams import even

if TYPE_CHECKING:
    from models.zoo.text_to_video import GenerateInputs

log = logging.getLogger(__name__)

_INDEX = "model_index.json"
_EXACT = "exact"
_WARM_UP_STEPS = 2
Shape = tuple[int, int, int]  # width, height, frames


class DiffusersEngine(Engine):
    """Runs one diffusers folder; for one task at a time. `preset` None: the folder tells."""

    def __init__(self, preset: Preset | None = None) -> None:
        self._given = preset
        self._compiled: frozenset[Shape] = frozenset()

    def load(self, resources: Resources) -> None:
        """Raises ModelNotReady for a folder that is not whole, before the device is touched."""
        begin_s = time.monotonic()
        torch.set_num_threads(resources.threads)
        self._threads = resources.threads
        self._device = torch.device(resources.device)
        self._folder = model_folder(resources.weights)
        self._preset = self._given or preset_of(self._folder)
        self._settings = folder_settings(self._folder)
        self._pipeline = _load_pipeline(self._folder, self._preset, self._device)
        self._networks = _networks(self._pipeline)
        check_cache(self._networks, self._settings.cache, self._settings.mag_ratios)
        self._encoder = PromptEncoder(self._pipeline.encode_prompt, PromptCache(), self._device)
        self._pipeline.encode_prompt = self._encoder
        self._layout = Layout(self._pipeline, self._device)
        self._upscaler = _load_upscaler(resources.weights, self._device)
        self._chat = scene_writer(resources.endpoints)
        with memory_errors():
            self._warm_up(compile_cache_folder(resources.models_dir))
        self._load_s = time.monotonic() - begin_s

    def run(self, inputs: GenerateInputs, context: RunContext) -> Result:
        begin_s = time.monotonic()
        clip, notes = clip_of(inputs, self._preset, context.task_id)
        cache = self._cache_of(inputs)
        story = storyboard(clip, self._chat, context)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        plan = self._layout.fit(clip, passes=self._passes(clip))
        chance = SecondChance(self._layout)
        seconds = defaultdict[str, float](float, {"load": self._load_s, **story.seconds})
        context.report(0, len(story.clips), stage="encode", unit="prompts")
        made = [
            chance.run(partial(self._denoise, story, number, cache, context, seconds))
            for number in range(len(story.clips))
        ]
        film = chance.run(lambda: self._film(made, clip, context, seconds), for_decode=True)
        seconds["total"] = time.monotonic() - begin_s
        said = [*notes, *story.notes, CACHES[cache].quality, _memory_note(plan.words), *chance.notes]
        facts = self._facts(clip, film) | {"scenes": story.scenes, "cache": cache}
        facts |= {"stage_seconds": {name: round(took_s, 4) for name, took_s in seconds.items()}}
        return Result(facts | {"notes": [note for note in said if note]})

    def _denoise(
        self,
        story: Storyboard,
        number: int,
        cache: str,
        context: RunContext,
        seconds: defaultdict[str, float],
    ) -> Tensor:
        """Latents or pictures of one scene, see `denoised`; in main memory where there are several."""
        clip = story.clips[number]
        steps_before, all_steps = number * clip.steps, len(story.clips) * clip.steps
        begin_s, encoded_s = time.monotonic(), self._encoder.seconds
        watch = StepWatch(
            self._device,
            clip.steps,
            lambda done: context.report(steps_before + done, all_steps, stage="denoise", unit="steps"),
            context.check,
        )
        with (
            self._eager_unless_compiled(clip, cache),
            step_cache(self._networks, cache, clip.steps, self._settings.mag_ratios),
        ):
            made = denoised(self._pipeline, self._preset, clip, watch)
        encode_s = self._encoder.seconds - encoded_s
        seconds["encode"] += encode_s
        seconds["denoise"] += watch.ended_s - begin_s - encode_s
        seconds["denoise_per_step"] = seconds["denoise"] / (steps_before + clip.steps)
        seconds["decode"] += time.monotonic() - watch.ended_s  # where the pipeline decodes by itself
        return made if len(story.clips) == 1 else made.cpu()

    def _film(
        self, made: Sequence[Tensor], clip: Clip, context: RunContext, seconds: defaultdict[str, float]
    ) -> Film:
        """What `_denoise` gave, scene after scene, as one video."""
        begin_s = ended_s = time.monotonic()
        num_frames = len(made) * clip.num_frames

        def on_frame(number: int) -> None:
            nonlocal ended_s
            ended_s = time.monotonic()
            context.report(number, max(number, num_frames), stage="decode", unit="frames")

        context.report(0, num_frames, stage="decode", unit="frames")
        pictures = chain.from_iterable(self._frames(scene, context) for scene in made)
        frames = self._enlarged(pictures, clip, context)
        path, threads = context.output_dir / "video.mp4", max(1, self._threads // 2)
        film = write_film(frames, path, clip.fps, threads=threads, on_frame=on_frame)
        seconds["decode"] += ended_s - begin_s
        seconds["mux"] = time.monotonic() - ended_s
        return film

    def _frames(self, made: Tensor, context: RunContext) -> Iterator[np.ndarray]:
        if gives_latents(self._pipeline):
            return decoded_frames(self._pipeline, made, context.check)
        return picture_frames(made, context.check)

    def _enlarged(
        self, frames: Iterator[np.ndarray], clip: Clip, context: RunContext
    ) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 with the shorter side that the clip is shown at."""
        if self._upscaler is None or clip.shown_side_px is None:
            yield from frames
            return
        factor = Fraction(clip.shown_side_px, min(clip.width_px, clip.height_px))
        size = (even(clip.width_px * factor), even(clip.height_px * factor))
        for frame in frames:
            yield self._upscaler.enlarge(frame[np.newaxis], size, context.check)[0]

    def _facts(self, clip: Clip, film: Film) -> dict[str, Any]:
        """What a result says of the video and how it came about."""
        is_cuda = self._device.type == "cuda"
        return {
            "video_path": film.path,
            "width": film.width_px,
            "height": film.height_px,
            "num_frames": film.num_frames,
            "fps": film.fps,
            "duration": round(film.duration_s, 3),
            "drawn_width": clip.width_px,
            "drawn_height": clip.height_px,
            "prompt": clip.prompt,
            "negative_prompt": clip.negative_prompt,
            "seed": clip.seed,
            "num_inference_steps": clip.steps,
            "guidance_scale": clip.guidance_scale,
            "model": self._folder.name,
            "preset": self._preset.name,
            "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(self._device) if is_cuda else None,
        }

    def _cache_of(self, inputs: GenerateInputs) -> str:
        """The cache that the task asks for, else the folder's; raises InvalidInput where it cannot be had."""
        if inputs.cache is None:
            return self._settings.cache
        try:
            check_cache(self._networks, inputs.cache, self._settings.mag_ratios)
        except ModelNotReady as error:
            raise InvalidInput(str(error), field="cache") from error
        return inputs.cache

    def _passes(self, clip: Clip) -> int:
        """Wan and its kin run the two passes of guidance one after the other, the others as one batch."""
        is_one_batch = self._preset.guidance is Guidance.TWO_PASSES and not gives_latents(self._pipeline)
        return 2 if is_one_batch and clip.guidance_scale > 1 else 1

    # Preparation

    def _warm_up(self, compiled: Path) -> None:
        """Lay the networks out; on a GPU also choose their attention and compile the declared shapes."""
        shapes = _warm_shapes(self._settings, self._preset)
        clips = [_trial_clip(self._preset, shape) for shape in shapes]
        try:
            for clip in clips:
                self._layout.fit(clip, passes=self._passes(clip))
        except InvalidInput as error:
            log.warning("no warm-up, %s", error)
            return
        if self._device.type == "cpu":
            return
        largest = max((geometry_of(self._pipeline).tokens(clip) for clip in clips), default=1)
        log.info("attention: %s", fastest_attention(self._networks, self._device, largest))
        if self._settings.cache == _EXACT and self._is_resident and clips:
            is_compiled = compile_blocks(self._networks, lambda: self._try(clips), compiled)
            self._compiled = frozenset(shapes) if is_compiled else frozenset()

    def _try(self, clips: list[Clip]) -> None:
        for clip in clips:
            watch = StepWatch(self._device, clip.steps, lambda _done: None, lambda: None)
            made = denoised(self._pipeline, self._preset, clip, watch)
            if gives_latents(self._pipeline):
                deque(decoded_frames(self._pipeline, made, lambda: None), maxlen=0)

    @property
    def _is_resident(self) -> bool:
        return self._layout.plan is not None and self._layout.plan.offload is Offload.NONE

    def _eager_unless_compiled(self, clip: Clip, cache: str) -> AbstractContextManager[object]:
        """A shape that is not warm would compile while its caller waits; hooks cannot be compiled at all."""
        shape = (clip.width_px, clip.height_px, clip.num_frames)
        if not self._compiled or (shape in self._compiled and cache == _EXACT and self._is_resident):
            return nullcontext()
        return torch.compiler.set_stance("force_eager")


def model_folder(weights: Mapping[str, Path]) -> Path:
    """The diffusers folder among an engine's weights: a ModelFolder, or where model_index.json lies."""
    for path in weights.values():
        if path.is_dir():
            return path
    return next(path for path in weights.values() if path.name == _INDEX).parent


def _load_pipeline(folder: Path, preset: Preset, device: torch.device) -> Any:
    """In main memory; safetensors only, since pickles run code. Raises ModelNotReady."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True, use_safetensors=True, dtype=dtype
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelNotReady(f"the model folder {folder.name} cannot be loaded: {error}") from error
    scheduler = pipeline.scheduler
    changed = scheduler_settings(preset, scheduler.config)
    if changed:
        pipeline.scheduler = type(scheduler).from_config(scheduler.config, **changed)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _load_upscaler(weights: Mapping[str, Path], device: torch.device) -> Upscaler | None:
    """None where the engine's spec has no SPAN weights: frames are then shown as they are drawn."""
    files = span_files(weights)
    return Upscaler.load(files, device) if files else None


def _networks(pipeline: Any) -> list[nn.Module]:
    found = (getattr(pipeline, name, None) for name in ("transformer", "transformer_2", "unet"))
    return [network for network in found if isinstance(network, nn.Module)]


def _warm_shapes(settings: FolderSettings, preset: Preset) -> tuple[Shape, ...]:
    if settings.warm_shapes is not None:
        return settings.warm_shapes
    return ((preset.width_px, preset.height_px, preset.num_frames),)


def _trial_clip(preset: Preset, shape: Shape) -> Clip:
    return Clip(
        width_px=shape[0],
        height_px=shape[1],
        num_frames=shape[2],
        fps=preset.fps,
        steps=_WARM_UP_STEPS,
        guidance_scale=preset.guidance_scale,
        seed=0,
        prompt="warm up",
    )


def _memory_note(words: str) -> str:
    return f"To fit into memory: {words}." if words else ""
