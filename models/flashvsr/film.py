"""From a video file to its enlarged parts: decoding, networks and encoding at the same time.

One thread decodes, reduces and draws noise, one drives the device, one encodes. The device's frames are bytes
before they leave it, and it works on the next chunk while they are copied and encoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.engine import PermanentFailure, RunContext
from models.flashvsr.color import COLOR_FIXES
from models.flashvsr.geometry import Canvas, chunks_of, frames_before
from models.flashvsr.kept_parts import KeptParts
from models.flashvsr.memory_plan import MemoryPlan
from models.flashvsr.networks import FlashVsrNetworks
from models.flashvsr.pipeline import Finish, Recipe, Restorer, Span, chunk_noise, enlarged, span_from
from models.flashvsr.stage_clock import StageClock
from models.flashvsr.tone import Tone
from models.frame_pipeline import RunAhead, RunBehind
from models.media import Color
from models.networks.upscaler import resized
from models.video_streams import decode_video

_CHUNKS_AHEAD, _CHUNKS_BEHIND = 1, 2
_NO_NUMBERS = "the network made pictures that are not numbers (NaN or infinite): its weights are damaged"


@dataclass(frozen=True, slots=True)
class Job:
    """One video to enlarge; sizes are (width, height)."""

    path: Path
    num_frames: int
    color: Color
    preprocessed_px: tuple[int, int]
    output_px: tuple[int, int]
    canvas: Canvas
    recipe: Recipe


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    """A chunk in main memory, pinned where a GPU waits for it."""

    number: int
    frames: Tensor  # (n, h, w, 3) uint8, reduced
    noise: Tensor  # (1, C, t, H/8, W/8) float32
    times_s: tuple[Fraction, ...]


class _Landing:
    """Frames on their way to main memory."""

    def __init__(self, chunk: _Decoded, made: Tensor, are_numbers: Tensor) -> None:
        self._chunk = chunk
        self._frames = _to_host(made)
        self._are_numbers = _to_host(are_numbers)
        self._arrival: Any = torch.cuda.Event() if made.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrival is not None:
            self._arrival.record()

    def write_to(self, parts: KeptParts) -> None:
        """Waits for the frames and encodes those that the video has."""
        if self._arrival is not None:
            self._arrival.synchronize()
        if not self._are_numbers:
            raise PermanentFailure(_NO_NUMBERS)
        times_s = self._chunk.times_s
        parts.write(self._chunk.number, self._frames[: len(times_s)].numpy(), times_s)


class Film:
    """Makes the parts of one job that are not there yet; may be run again under another plan."""

    def __init__(self, networks: FlashVsrNetworks, job: Job, clock: StageClock) -> None:
        self.encode_s = 0.0
        self._networks, self._job, self._clock = networks, job, clock
        self._device, self._dtype = networks.prompt.device, networks.prompt.dtype
        self._finish = Finish(job.canvas, job.output_px, COLOR_FIXES[networks.version])
        self._tone = Tone(job.color, self._device)

    def run(self, parts: KeptParts, plan: MemoryPlan, context: RunContext) -> None:
        """From the first chunk that `parts` lacks to the last. Raises torch.OutOfMemoryError."""
        if parts.is_whole:
            return
        recipe = self._job.recipe
        span = span_from(parts.next_chunk, self._networks.config.layers, is_full=recipe.is_full)
        restorer = Restorer(self._networks, plan, recipe, span, self._clock)

        def encode(landing: _Landing) -> None:
            begin_s = time.monotonic()
            landing.write_to(parts)
            self.encode_s += time.monotonic() - begin_s

        with (
            parts,
            RunBehind[_Landing](encode, _CHUNKS_BEHIND) as encoder,
            RunAhead(self._decoded(span, context), _CHUNKS_AHEAD) as chunks,
        ):
            self._report(context, frames_before(span.shown))
            for chunk in chunks:
                landing = self._restored(chunk, restorer, context)
                if landing is not None:
                    encoder.put(landing)
                    self._report(context, frames_before(chunk.number) + len(chunk.times_s))

    def _report(self, context: RunContext, done: int) -> None:
        context.report(done, max(done, self._job.num_frames), stage="upscale", unit="frames")

    def _restored(self, chunk: _Decoded, restorer: Restorer, context: RunContext) -> _Landing | None:
        """None for a chunk that only fills caches."""
        context.check()
        with self._clock.stage("prepare"), torch.no_grad():
            frames = chunk.frames.to(self._device, non_blocking=True)
            clip = enlarged(frames, self._job.canvas, self._dtype, self._tone)
            noise = chunk.noise.to(self._device, non_blocking=True).to(self._dtype)
        made = restorer.push(chunk.number, clip, noise, context.check)
        if made is None:
            return None
        with self._clock.stage("finish"), torch.no_grad():
            return _Landing(chunk, self._finish.frames(*made), torch.isfinite(made[0]).all())

    def _decoded(self, span: Span, context: RunContext) -> Iterator[_Decoded]:
        frames = self._reduced(frames_before(span.first), context)
        for chunk in chunks_of(frames, span.first):
            noise = chunk_noise(
                self._job.recipe.seed, chunk.number, self._job.canvas, self._networks.config.latent_channels
            )
            yield _Decoded(
                chunk.number, self._pinned(torch.stack(chunk.frames)), self._pinned(noise), chunk.times_s
            )

    def _reduced(self, num_skipped: int, context: RunContext) -> Iterator[tuple[Tensor, Fraction]]:
        """Frames (h, w, 3) uint8 of the preprocessed size; but for those that are skipped."""
        for index, (frame, time_s) in enumerate(decode_video(self._job.path)):
            context.check()
            picture = torch.from_numpy(frame)
            yield (picture if index < num_skipped else self._reduce(picture)), time_s

    def _reduce(self, frame: Tensor) -> Tensor:
        return resized(frame.permute(2, 0, 1)[None], self._job.preprocessed_px)[0].permute(1, 2, 0)

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._device.type == "cuda" else tensor


def _to_host(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
