"""A video's way through the networks, chunk by chunk and tile by tile, in memory that no length changes.

Each tile has streams of its own: projector, transformer, decoder. The noise of a chunk is drawn from the
seed and the chunk's number for the whole canvas, on the CPU, so that neither tiles nor device nor a break
changes it. The variants tiny and tiny_long are one here: upstream's tiny keeps all frames on the GPU, which
changes no pixel. full has the Wan VAE's decoder, which is a stream here too.

A stream that is to go on after a break remembers too much to be stored (6 GB at 768x1408). It is replayed
instead, without decoder and encoder as long as it can be, and not from the beginning: a layer of the
transformer sees three slices back, so 3 chunks for each layer before the one to go on with decide all of its
values (91 chunks, 728 frames), and a few more those of projector and decoder. From there on it is the stream
that was never broken, bit by bit where the device's kernels are deterministic.

Facts: OpenImagingLab/FlashVSR, diffsynth/pipelines/flashvsr_tiny.py at
0a4ff08ab04bd24b745804befe32803ae53b5208.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.flashvsr.caches import brought_to
from models.flashvsr.geometry import (
    AHEAD_FRAMES,
    FIRST_FRAMES,
    NEXT_FRAMES,
    Canvas,
    Tile,
    canvas_of,
    grids_of,
)
from models.flashvsr.memory_plan import MemoryPlan
from models.flashvsr.networks import FlashVsrNetworks
from models.flashvsr.stage_clock import StageClock
from models.flashvsr.vae_stream import VaeStream
from models.networks.flashvsr_attention import BACKENDS, backend_for
from models.networks.flashvsr_config import LATENT_SIDE_PX, TOKEN_SIDE_PX
from models.networks.flashvsr_decoder import DecoderStream
from models.networks.flashvsr_windows import KEPT_SLICES, WINDOW_TOKENS

FIRST_LATENTS, NEXT_LATENTS = 6, 2
_PROJECTOR_CHUNKS = 1
# How far the decoders see back: nine memory blocks, 7.5 latent frames; the VAE's causal convolutions, 38.
_TINY_CHUNKS, _VAE_CHUNKS = 5, 21
_FRAMES_AT_ONCE = 8
_WARM_WINDOWS = 66  # of a slice at 768x1408


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a caller may choose."""

    seed: int
    sparse_ratio: float
    local_range: int
    is_full: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """Which chunks go through the networks: from `first` on for the caches, from `decoded` on decoded."""

    first: int = 0
    decoded: int = 0
    shown: int = 0


def span_from(shown: int, layers: int, *, is_full: bool) -> Span:
    """What must be replayed for chunk `shown` to come out as if all before it had been."""
    decoded = max(0, shown - (_VAE_CHUNKS if is_full else _TINY_CHUNKS))
    first = max(0, decoded - (KEPT_SLICES - 1) * layers - _PROJECTOR_CHUNKS)
    return Span(first, decoded, shown)


def chunk_noise(seed: int, number: int, canvas: Canvas, channels: int) -> Tensor:
    """Of a chunk: (1, C, latent frames, H / 8, W / 8) float32 on the CPU."""
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    frames = NEXT_LATENTS if number else FIRST_LATENTS
    size = (1, channels, frames, canvas.height_px // LATENT_SIDE_PX, canvas.width_px // LATENT_SIDE_PX)
    return torch.randn(size, generator=generator)


def enlarged(frames: Tensor, canvas: Canvas, dtype: torch.dtype, tone: Callable[[Tensor], Tensor]) -> Tensor:
    """Frames (n, h, w, 3) as the networks see them: (1, 3, n, H, W) of -1..1, bicubic.

    `tone` makes values of 0..1 of some frames at a time.
    """
    clip = frames.new_empty((3, len(frames), canvas.height_px, canvas.width_px), dtype=dtype)
    size = (canvas.picture_height_px, canvas.picture_width_px)
    beside = (0, canvas.width_px - size[1], 0, canvas.height_px - size[0])
    for source, target in zip(
        torch.split(frames, _FRAMES_AT_ONCE), torch.split(clip, _FRAMES_AT_ONCE, dim=1), strict=True
    ):
        picture = F.interpolate(tone(source).permute(0, 3, 1, 2), size, mode="bicubic", align_corners=False)
        picture = picture.clamp_(0, 1).mul_(2).sub_(1)  # (m, 3, picture's height, width)
        target.copy_(F.pad(picture, beside, mode="replicate").transpose(0, 1))
    return clip[None]


@dataclass(frozen=True, slots=True, eq=False)
class Finish:
    """How the networks' pictures become the video's frames: cut, colours set right, resized, as bytes."""

    canvas: Canvas
    size_px: tuple[int, int]  # width, height
    fix_colors: Callable[[Tensor, Tensor], Tensor]

    def frames(self, made: Tensor, low: Tensor) -> Tensor:
        """Pictures and their low-quality frames (1, 3, m, H, W) of -1..1 to (m, height, width, 3) uint8."""
        parts = (torch.split(clip[0], _FRAMES_AT_ONCE, dim=1) for clip in (made, low))
        pairs = zip(*parts, strict=True)
        return torch.cat([self._part(self._cut(part), self._cut(reference)) for part, reference in pairs])

    def _cut(self, part: Tensor) -> Tensor:
        """(3, m, H, W) to (m, 3, picture's height, width)."""
        return part[..., : self.canvas.picture_height_px, : self.canvas.picture_width_px].transpose(0, 1)

    def _part(self, pictures: Tensor, reference: Tensor) -> Tensor:
        fixed = self.fix_colors(pictures, reference)
        size = self.size_px[::-1]
        if fixed.shape[-2:] != size:
            fixed = F.interpolate(fixed, size, mode="bicubic", antialias=True, align_corners=False)
        return fixed.add(1).mul_(127.5).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous()


class _TileStream:
    """One tile's way through the networks."""

    def __init__(
        self, networks: FlashVsrNetworks, tile: Tile, recipe: Recipe, span: Span, clock: StageClock
    ) -> None:
        self.tile = tile
        self._span, self._clock = span, clock
        self._projector = networks.projector.stream()
        self._transformer = networks.transformer.start(
            networks.prompt,
            tile.height_px // TOKEN_SIDE_PX,
            tile.width_px // TOKEN_SIDE_PX,
            sparse_ratio=recipe.sparse_ratio,
            local_range=recipe.local_range,
            backend=backend_for(networks.prompt.device),
        )
        self._decoder = _decoder_stream(networks, recipe)

    def push(self, number: int, seen: Tensor, shown: Tensor, noise: Tensor) -> Tensor | None:
        """The tile's pictures (1, 3, m, h, w) of -1..1; None while only caches are filled.

        `seen` (1, 3, n, h, w) goes to the projector, `shown` (1, 3, m, h, w) is what the pictures are of.
        """
        with self._clock.stage("projector"):
            tokens = self._projector.push(seen)
        if tokens is None:
            raise ValueError(
                "a chunk has more frames than the first, which only fills the projector's caches"
            )
        with self._clock.stage("transformer"):
            latents = noise - self._transformer.step(noise, tokens, number)
        if number < self._span.decoded:
            return None
        if number and number == self._span.decoded:
            shown = shown[:, :, AHEAD_FRAMES - 1 :]  # the decoder takes it for a clip's beginning
        with self._clock.stage("decoder"):
            return self._decoder.push(latents, shown)


class Restorer:
    """All tiles of one video. For one thread; what it gives may still be under way on the device."""

    def __init__(
        self,
        networks: FlashVsrNetworks,
        plan: MemoryPlan,
        recipe: Recipe,
        span: Span,
        clock: StageClock,
    ) -> None:
        self._device = networks.prompt.device
        self._span, self._clock = span, clock
        self._is_parked = plan.is_parked
        self._tiles = [
            self._begun(_TileStream(networks, tile, recipe, span, clock)) for tile in plan.grid.tiles
        ]
        self._weights = [
            torch.outer(*(torch.from_numpy(side).to(self._device) for side in sides))  # (h, w)
            for sides in plan.grid.weights()
        ]
        self._held: Tensor | None = None  # (1, 3, 4, H, W): seen by the projector, not yet shown

    @torch.no_grad()
    def push(
        self, number: int, clip: Tensor, noise: Tensor, check: Callable[[], None]
    ) -> tuple[Tensor, Tensor] | None:
        """The pictures of a chunk and its low-quality frames, both (1, 3, m, H, W); None before `span.shown`.

        `clip` (1, 3, n, H, W) are the chunk's frames as `chunks_of` has them; `check` is called before each
        tile and may raise to stop.
        """
        seen, shown = self._seen_and_shown(number, clip)
        made = self._blank(shown) if number >= self._span.shown and len(self._tiles) > 1 else None
        for stream, weight in zip(self._tiles, self._weights, strict=True):
            check()
            with self._caches(stream):
                area = _area(stream.tile)
                tile_noise = noise[(..., *_area(stream.tile, LATENT_SIDE_PX))]
                pictures = stream.push(number, seen[(..., *area)], shown[(..., *area)], tile_noise)
            if made is not None and pictures is not None:
                made[(..., *area)].add_(pictures * weight)
        if number < self._span.shown or pictures is None:
            return None
        return (pictures if made is None else made), shown

    def _seen_and_shown(self, number: int, clip: Tensor) -> tuple[Tensor, Tensor]:
        """What of the frames goes to the projector, and what the pictures of this chunk are of."""
        if self._held is not None:
            seen, clip = clip, torch.cat([self._held, clip], dim=2)
        else:  # a projector's first frame only fills its caches
            seen = clip[:, :, AHEAD_FRAMES - 1 :] if number else clip
        self._held = clip[:, :, -AHEAD_FRAMES:].clone()
        return seen, clip[:, :, :-AHEAD_FRAMES]

    def _begun(self, stream: _TileStream) -> _TileStream:
        """Out of the way of the next one."""
        with self._caches(stream):
            return stream

    def _caches(self, stream: _TileStream) -> AbstractContextManager[None]:
        return brought_to(self._device, stream) if self._is_parked else nullcontext()

    @staticmethod
    def _blank(shown: Tensor) -> Tensor:
        return torch.zeros_like(shown, dtype=torch.float32)


def warm_up(networks: FlashVsrNetworks) -> None:
    """Runs the smallest picture: kernels are compiled and chosen before a caller waits for them."""
    canvas, device = canvas_of(1, 1, 1), networks.prompt.device
    _attend_once(networks)
    plan = MemoryPlan(grid=next(grids_of(canvas)), is_parked=False, device_bytes=0, host_bytes=0)
    recipe = Recipe(seed=0, sparse_ratio=2.0, local_range=11)
    restorer = Restorer(networks, plan, recipe, Span(), StageClock(device))
    for number, num_frames in enumerate((FIRST_FRAMES + AHEAD_FRAMES, NEXT_FRAMES)):
        clip = torch.zeros(1, 3, num_frames, canvas.height_px, canvas.width_px).to(networks.prompt)
        noise = chunk_noise(recipe.seed, number, canvas, networks.config.latent_channels)
        restorer.push(number, clip, noise.to(networks.prompt), lambda: None)


@torch.no_grad()
def _attend_once(networks: FlashVsrNetworks) -> None:
    """Attention at a usual size: its kernel is chosen by its first call, which must fill the device."""
    config, like = networks.config, networks.prompt
    queries, keys = (
        torch.randn(count * WINDOW_TOKENS, config.heads, config.head_width).to(like)
        for count in (_WARM_WINDOWS, KEPT_SLICES * _WARM_WINDOWS)
    )
    windows = torch.arange(KEPT_SLICES * _WARM_WINDOWS, dtype=torch.int32, device=like.device)
    kept = (windows % 2 == 0).expand(config.heads, _WARM_WINDOWS, -1)  # about what is kept of this size
    BACKENDS[backend_for(like.device)](queries, keys, keys, kept, windows)


def _decoder_stream(networks: FlashVsrNetworks, recipe: Recipe) -> DecoderStream | VaeStream:
    if recipe.is_full:
        if networks.vae is None:
            raise ValueError("these networks were loaded without the VAE")
        return VaeStream(networks.vae)
    if networks.decoder is None:
        raise ValueError("these networks were loaded without the tiny decoder")
    return networks.decoder.stream()


def _area(tile: Tile, step_px: int = 1) -> tuple[slice, slice]:
    """Rows and columns of a tile, in steps."""
    return (
        slice(tile.top_px // step_px, (tile.top_px + tile.height_px) // step_px),
        slice(tile.left_px // step_px, (tile.left_px + tile.width_px) // step_px),
    )
