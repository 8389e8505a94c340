"""The full engine: Hallo2's published weights in our own code, clip after clip.

A GPU draws the next clip while the last one is encoded and committed.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from torch import Tensor
from transformers import Wav2Vec2Model

from models.disk import disk_errors
from models.engine import Engine, ModelNotReady, OutOfMemory, Resources, Result, RunContext
from models.faces import load_face_finder
from models.frame_pipeline import RunBehind
from models.hallo2.audio_windows import FPS, AudioWindows, Sound, decode_sound
from models.hallo2.checkpoint import load_networks
from models.hallo2.face_embedding import load_face_embedder
from models.hallo2.kept_clips import Finished, KeptClips
from models.hallo2.manifest import HALLO2_FOLDER, VAE_FOLDER, WAV2VEC_FOLDER, net_file
from models.hallo2.pipeline import CLIP_FRAMES, Clip, ClipPipeline, Look, Recipe
from models.hallo2.portrait_reader import Portrait, PortraitReader, file_digest
from models.hallo2.solvers import SOLVERS, steps_of
from models.memory_errors import first_line, memory_errors, out_of_memory
from models.networks.hallo2 import FULL, Hallo2Config
from models.video_streams import mux

if TYPE_CHECKING:
    from models.zoo.hallo2 import AnimateInputs

SIDE_PX = 512
_PARTS_VERSION = 2  # counts up when the same inputs give other pixels
_CLIPS_BEHIND = 2  # that may wait for the encoder
_VOCALS_NOTE = (
    "Hallo2 was trained on clean English speech: for a song or a noisy recording, separate the voice first "
    "(audio_separator) and animate that."
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Film:
    """All that one task's clips are made of."""

    look: Look
    sound: Sound
    windows: AudioWindows
    recipe: Recipe
    kept: KeptClips


class Hallo2Engine(Engine):
    """For one task at a time. The defaults are the published sizes."""

    def __init__(self, config: Hallo2Config = FULL, side_px: int = SIDE_PX) -> None:
        self._config, self._side_px = config, side_px

    def load(self, resources: Resources) -> None:
        """Half precision on a GPU. Raises ModelNotReady naming what is missing or damaged."""
        begin_s = time.monotonic()
        torch.set_num_threads(resources.threads)
        self._device = torch.device(resources.device)
        dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        folder = resources.weights[HALLO2_FOLDER.path]
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        with memory_errors():
            networks = load_networks(folder, device=self._device, dtype=dtype, config=self._config)
            vae = _pretrained(AutoencoderKL, folder / VAE_FOLDER, dtype).to(self._device)
            self._hearing = _pretrained(Wav2Vec2Model, folder / WAV2VEC_FOLDER).to(self._device)
        self._pipeline = ClipPipeline(networks, vae)
        finder = load_face_finder(resources.weights, threads=resources.threads)
        embedder = load_face_embedder(folder, device=resources.device, threads=resources.threads)
        self._portraits = PortraitReader(finder, embedder, self._side_px)
        self._model = (
            f"{net_file(folder).stat().st_size} {type(embedder).__name__} {self._device.type} {dtype}"
        )
        self._load_s = time.monotonic() - begin_s

    def run(self, inputs: AnimateInputs, context: RunContext) -> Result:
        begin_s = time.monotonic()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        seconds = defaultdict[str, float](float, load=self._load_s)
        chance = _SecondChance(self._pipeline)
        portrait, film = self._film(inputs, context, seconds)
        num_before = self._clips(film, context, seconds, chance)
        video_path = _joined(film, Path(inputs.audio_path), context, seconds)
        seconds["total"] = time.monotonic() - begin_s
        resumed = f"{num_before} clips were there from an earlier attempt." if num_before else ""
        notes = [*portrait.notes, film.recipe.solver.quality, _VOCALS_NOTE, *chance.notes, resumed]
        return Result(
            self._facts(film)
            | {
                "video_path": video_path,
                "notes": [note for note in notes if note],
                "stage_seconds": {name: round(took_s, 4) for name, took_s in seconds.items()},
            }
        )

    def _film(
        self, inputs: AnimateInputs, context: RunContext, seconds: defaultdict[str, float]
    ) -> tuple[Portrait, _Film]:
        """Look at the picture and decode the sound. Raises InvalidInput."""
        begin_s = time.monotonic()
        context.report(0, 1, stage="faces", unit="pictures")
        portrait = self._portraits.read(
            Path(inputs.image_path), use_cache=inputs.use_cache, check=context.check
        )
        seconds["faces"] = time.monotonic() - begin_s
        context.report(0, 1, stage="audio", unit="files")
        sound = decode_sound(Path(inputs.audio_path), context.scratch_dir / "sound.f32", context.check)
        windows = AudioWindows(self._hearing, sound, clip_frames=CLIP_FRAMES, check=context.check)
        seconds["audio"] = time.monotonic() - begin_s - seconds["faces"]
        steps = steps_of(inputs.solver, inputs.inference_steps)
        recipe = Recipe(SOLVERS[inputs.solver], steps, inputs.guidance_scale, inputs.seed)
        kept = KeptClips(context, self._key(inputs, recipe))
        return portrait, _Film(portrait.look, sound, windows, recipe, kept)

    def _clips(
        self,
        film: _Film,
        context: RunContext,
        seconds: defaultdict[str, float],
        chance: _SecondChance,
    ) -> int:
        """Draw and keep the clips that are not there yet; how many there were."""
        begun = film.kept.begun()
        motion, num_before = begun.motion, begun.num_clips
        with RunBehind[Finished](film.kept.keep, _CLIPS_BEHIND) as keeper:
            for number in range(num_before, film.windows.num_clips):
                clip = chance.run(lambda: self._clip(film, number, motion, context, seconds))  # noqa: B023 - runs now
                motion = clip.motion
                num_frames = min(CLIP_FRAMES, film.sound.num_frames - number * CLIP_FRAMES)
                keeper.put(Finished(number, clip.frames[:num_frames], motion))
                seconds["denoise"] += clip.denoise_s
                seconds["decode"] += clip.decode_s
        num_steps = (film.windows.num_clips - num_before) * film.recipe.steps
        seconds["denoise_per_step"] = seconds["denoise"] / num_steps if num_steps else 0.0
        return num_before

    def _clip(
        self,
        film: _Film,
        number: int,
        motion: Tensor | None,
        context: RunContext,
        seconds: defaultdict[str, float],
    ) -> Clip:
        num_clips, steps = film.windows.num_clips, film.recipe.steps
        begin_s = time.monotonic()
        windows = film.windows.clip(number)
        seconds["audio"] += time.monotonic() - begin_s

        def on_step(done: int) -> None:
            stage = f"clip {number + 1}/{num_clips}"
            context.report(number * steps + done, num_clips * steps, stage=stage, unit="steps")

        return self._pipeline.clip(number, film.look, windows, motion, film.recipe, on_step)

    def _key(self, inputs: AnimateInputs, recipe: Recipe) -> str:
        """Stands for all that decides the pixels of a film's clips."""
        told = (
            _PARTS_VERSION,
            self._model,
            self._side_px,
            file_digest(Path(inputs.image_path)),
            file_digest(Path(inputs.audio_path)),
            recipe.solver.name,
            recipe.steps,
            recipe.guidance_scale,
            recipe.seed,
        )
        return hashlib.sha256(repr(told).encode()).hexdigest()[:12]

    def _facts(self, film: _Film) -> dict[str, Any]:
        """What a result says of the video and how it came about."""
        is_cuda = self._device.type == "cuda"
        num_frames = film.sound.num_frames
        return {
            "width": self._side_px,
            "height": self._side_px,
            "num_frames": num_frames,
            "fps": FPS,
            "duration": round(num_frames / FPS, 3),
            "seed": film.recipe.seed,
            "model": "Hallo2",
            "solver": film.recipe.solver.name,
            "inference_steps": film.recipe.steps,
            "guidance_scale": film.recipe.guidance_scale,
            "num_clips": film.windows.num_clips,
            "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(self._device) if is_cuda else None,
        }


class _SecondChance:
    """A clip that runs out of memory is drawn again with less at once, once in a task."""

    def __init__(self, pipeline: ClipPipeline) -> None:
        self.notes: list[str] = []
        self._pipeline = pipeline

    def run(self, work: Callable[[], T]) -> T:
        """Raises OutOfMemory for the second time, and when there is no cheaper way."""
        try:
            return work()
        except torch.OutOfMemoryError as error:
            if self.notes:
                raise out_of_memory(error) from error
            reason = first_line(error)
        # Not inside `except`: the error's frames hold the tensors that are in the way.
        gc.collect()
        torch.cuda.empty_cache()
        cheaper = self._pipeline.thrift.next()
        if cheaper is None:
            raise OutOfMemory(f"out of memory, and there is no cheaper way: {reason}")
        self._pipeline.thrift = cheaper
        self.notes.append(f"Out of memory at first, so it was done again with less at once: {cheaper.words}.")
        return self.run(work)


def _joined(film: _Film, audio: Path, context: RunContext, seconds: defaultdict[str, float]) -> Path:
    """The clips as one MP4 with the whole sound."""
    begin_s = time.monotonic()
    num_steps = film.windows.num_clips * film.recipe.steps
    context.report(num_steps, num_steps, stage="mux", unit="steps")
    output = context.output_dir / "talking-portrait.mp4"
    with disk_errors():
        mux(film.kept.chunks, audio, output, check=context.check)
    seconds["mux"] = time.monotonic() - begin_s
    return output


def _pretrained(kind: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A model of diffusers or transformers, frozen. Raises ModelNotReady naming its folder."""
    try:
        model = kind.from_pretrained(folder, local_files_only=True, dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        text = f"the folder {folder.name} cannot be loaded as {kind.__name__}: {first_line(error)}"
        raise ModelNotReady(text) from error
    return model.requires_grad_(False).eval()
