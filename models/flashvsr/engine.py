"""The full engine of flashvsr.upscale_video: FlashVSR's published weights in our own code.

It gives exactly the frames of its input, at exactly the size that the embedded engine would give.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from models.disk import disk_errors
from models.engine import Engine, InvalidInput, ModelNotReady, OutOfMemory, Resources, Result, RunContext
from models.flashvsr.checkpoint import load_networks, load_vae
from models.flashvsr.film import Film, Job
from models.flashvsr.geometry import canvas_of, network_factor
from models.flashvsr.kept_parts import KeptParts
from models.flashvsr.manifest import decoder_shapes, projector_shapes, transformer_shapes
from models.flashvsr.memory_plan import (
    FreeBytes,
    MemoryPlan,
    PixelBytes,
    check_device,
    pixel_bytes,
    plan_memory,
    smaller_plan,
)
from models.flashvsr.networks import FlashVsrNetworks, Variant
from models.flashvsr.pipeline import Recipe, warm_up
from models.flashvsr.stage_clock import StageClock
from models.flashvsr.tone import shown_color, tone_notes
from models.media import MediaInfo, VideoFacts, count_frames, probe
from models.memory_errors import first_line
from models.networks.flashvsr_attention import backend_for
from models.networks.flashvsr_config import FULL, FlashVsrConfig
from models.video_streams import VideoForm, mux, tick_of
from models.zoo.flashvsr import (
    Sizes,
    UpscaleInputs,
    check,
    notes_of,
    output_name,
    predicted_size,
    video_info,
    video_of,
)

_PARTS_VERSION = 2  # counts up when the same inputs give other pixels
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One video, looked at."""

    inputs: UpscaleInputs
    path: Path
    info: MediaInfo
    video: VideoFacts
    sizes: Sizes
    job: Job

    @property
    def form(self) -> VideoForm:
        """Of the result."""
        return VideoForm(
            *self.sizes.output,
            self.video.fps,
            tick_of(self.path),
            color=shown_color(self.video.color),
            sample_aspect_ratio=self.video.sample_aspect_ratio,
        )


@dataclass(frozen=True, slots=True)
class _Made:
    """Under which plan a video was made, in the end, and what is to be said of it."""

    plan: MemoryPlan
    notes: tuple[str, ...]


class FlashVsrEngine(Engine):
    """For one task at a time; the defaults are the published sizes."""

    def __init__(self, config: FlashVsrConfig = FULL) -> None:
        self._config = config

    def load(self, resources: Resources) -> None:
        """bfloat16 on a GPU. Raises ModelNotReady for damaged weights and for a GPU that is too small."""
        begin_s = time.monotonic()
        torch.set_num_threads(resources.threads)
        self._device = torch.device(resources.device)
        self._dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        self._folder = next(path for path in resources.weights.values() if path.is_dir())
        if self._device.type == "cuda":
            total_bytes = torch.cuda.mem_get_info(self._device)[1]
            check_device(self._weight_bytes, self._pixel_bytes("tiny_long"), total_bytes)
        try:
            self._networks = self._load()
            if self._device.type == "cuda":
                warm_up(self._networks)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"the GPU has no memory for the weights: {first_line(error)}") from error
        self._load_s = time.monotonic() - begin_s

    def run(self, inputs: UpscaleInputs, context: RunContext) -> Result:
        begin_s = time.monotonic()
        task = self._look_at(inputs)
        networks = self._networks_for(inputs.model_variant)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        clock = StageClock(self._device)
        film = Film(networks, task.job, clock)
        with disk_errors():
            parts = KeptParts(context, task.form, self._key(task, networks, context.check))
            parts.find()
            num_before = parts.num_frames
            made = self._enlarge(film, parts, task, context)
            output = context.output_dir / output_name(task.path, context.task_id)
            mux_s = _join(parts, task, output, context)
        seconds = {"load": self._load_s, **clock.seconds(), "encode": film.encode_s, "mux": mux_s}
        seconds["total"] = time.monotonic() - begin_s
        resumed = f"{num_before} frames were there from an earlier attempt" if num_before else ""
        notes = [*_notes(task, parts.num_frames), *made.notes, resumed, *networks.notes]
        facts = self._facts(task, networks, made.plan)
        facts["stage_seconds"] = {name: round(took_s, 4) for name, took_s in seconds.items()}
        return Result(_video_facts(task, parts, output) | facts | {"notes": [note for note in notes if note]})

    def _look_at(self, inputs: UpscaleInputs) -> _Task:
        """Raises InvalidInput."""
        path = Path(inputs.video_path)
        info = probe(path)
        check(inputs, {"video_path": info})
        video = video_of(info)
        sizes = predicted_size(video.width_px, video.height_px, inputs)
        is_full = _has_vae(inputs.model_variant)
        recipe = Recipe(inputs.seed, inputs.sparse_ratio, inputs.local_range, is_full=is_full)
        canvas = canvas_of(*sizes.preprocessed, inputs.scale)
        job = Job(
            path=path,
            num_frames=count_frames(path),
            color=video.color,
            preprocessed_px=sizes.preprocessed,
            output_px=sizes.output,
            canvas=canvas,
            recipe=recipe,
        )
        return _Task(inputs, path, info, video, sizes, job)

    def _enlarge(self, film: Film, parts: KeptParts, task: _Task, context: RunContext) -> _Made:
        """Make the parts that are not there, if need be in smaller tiles from the last finished part on.

        Raises InvalidInput or PermanentFailure with the figure that decided before anything is on the device.
        """
        variant, canvas = task.inputs.model_variant, task.job.canvas
        plan = plan_memory(canvas, self._pixel_bytes(variant), self._free_bytes())
        try:
            film.run(parts, plan, context)
        except torch.OutOfMemoryError as error:
            reason = first_line(error)
        else:
            return _Made(plan, (_plan_note(plan),))
        # Not inside `except`: the error's frames hold the tensors that are in the way.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = smaller_plan(canvas, plan, self._pixel_bytes(variant), self._free_bytes())
        if smaller is None:
            raise OutOfMemory(f"the device has no memory for this video, and no plan takes less: {reason}")
        try:
            film.run(parts, smaller, context)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"the device has no memory for this video: {first_line(error)}") from error
        note = f"out of memory at first ({plan.words or 'in one tile'}), so the rest was done with less"
        return _Made(smaller, (f"{note}: {smaller.words}",))

    def _networks_for(self, variant: Variant) -> FlashVsrNetworks:
        """With the decoder of this variant: the VAE is read when a task first asks for `full`, and kept."""
        if not _has_vae(variant) or self._networks.vae is not None:
            return self._networks
        try:
            vae = load_vae(self._folder, device=self._device, dtype=self._dtype, config=self._config)
        except ModelNotReady as error:
            raise InvalidInput(f"full cannot run here: {error}", field="model_variant") from error
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"the GPU has no memory for the VAE: {first_line(error)}") from error
        self._networks = replace(self._networks, vae=vae)
        return self._networks

    def _key(self, task: _Task, networks: FlashVsrNetworks, check_stop: Callable[[], None]) -> str:
        """Stands for all that decides the pixels of the parts, except how the canvas was cut.

        Tiles are left out: a video that ran out of memory goes on in smaller ones from its last part.
        """
        decides = {
            "version": _PARTS_VERSION,
            "input": _digest(task.path, check_stop),
            "sizes": asdict(task.sizes),
            "recipe": asdict(task.job.recipe),
            "weights": [networks.version, networks.digest],
            "device": [self._device.type, str(self._dtype), backend_for(self._device)],
        }
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]

    def _load(self) -> FlashVsrNetworks:
        return load_networks(
            self._folder, variant="tiny_long", device=self._device, dtype=self._dtype, config=self._config
        )

    def _pixel_bytes(self, variant: Variant) -> PixelBytes:
        return pixel_bytes(self._config, number_bytes=self._dtype.itemsize, has_vae=_has_vae(variant))

    @property
    def _weight_bytes(self) -> int:
        """Of what is loaded first, and the prompt's keys and values, which are made once."""
        config = self._config
        tables = (transformer_shapes, projector_shapes, decoder_shapes)
        values = sum(math.prod(shape) for shapes in tables for shape in shapes(config).values())
        values += 2 * config.layers * config.text_tokens * config.width
        return values * self._dtype.itemsize

    def _free_bytes(self) -> FreeBytes:
        """Beside the weights, which are there already."""
        host_bytes = int(psutil.virtual_memory().available)
        if self._device.type != "cuda":
            return FreeBytes(device=host_bytes)
        unused_bytes = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return FreeBytes(device=torch.cuda.mem_get_info(self._device)[0] + unused_bytes, host=host_bytes)

    def _facts(self, task: _Task, networks: FlashVsrNetworks, plan: MemoryPlan) -> dict[str, Any]:
        """How the video came about."""
        is_cuda, grid = self._device.type == "cuda", plan.grid
        return {
            "variant": task.inputs.model_variant,
            "version": networks.version,
            "attention": backend_for(self._device),
            "seed": task.inputs.seed,
            "sparse_ratio": task.inputs.sparse_ratio,
            "local_range": task.inputs.local_range,
            "network_scale": network_factor(task.inputs.scale),
            "tiles": {
                "count": len(grid.tiles),
                "width": grid.tile_width_px,
                "height": grid.tile_height_px,
                "parked": plan.is_parked,
            },
            "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(self._device) if is_cuda else None,
        }


def _has_vae(variant: Variant) -> bool:
    return variant == "full"


def _video_facts(task: _Task, parts: KeptParts, output: Path) -> dict[str, Any]:
    """What the embedded engine says, too."""
    return {
        "video_path": output,
        "width": task.sizes.output_width_px,
        "height": task.sizes.output_height_px,
        "total_frames": parts.num_frames,
        "fps": round(float(task.video.fps), 3),
        "duration": probe(output).duration_s,
        "scale": task.inputs.scale,
        "has_audio": task.info.audio is not None,
        "video_info": video_info(task.inputs, task.info, task.sizes, parts.num_frames),
    }


def _join(parts: KeptParts, task: _Task, output: Path, context: RunContext) -> float:
    """The parts as one video with its sound; how many seconds that took."""
    begin_s = time.monotonic()
    if not parts.num_frames:
        raise InvalidInput(f"{task.path.name} has no frame that can be decoded", field="video_path")
    context.report(parts.num_frames, parts.num_frames, stage="mux", unit="frames")
    mux(parts.paths, task.path if task.info.audio else None, output, check=context.check)
    return time.monotonic() - begin_s


def _notes(task: _Task, num_frames: int) -> list[str]:
    factor = network_factor(task.inputs.scale)
    is_resized = task.sizes.output != tuple(side * factor for side in task.sizes.preprocessed)
    text = f"the network enlarged {factor} times, and the result was resized to {task.inputs.scale:g} times"
    notes = notes_of(task.inputs, task.video, task.sizes, num_frames)
    return [*notes, *tone_notes(task.video), text if is_resized else ""]


def _plan_note(plan: MemoryPlan) -> str:
    return f"to fit into memory: {plan.words}" if plan.words else ""


def _digest(path: Path, check_stop: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            check_stop()
            digest.update(block)
    return digest.hexdigest()
