"""Clips of Hallo2 from random weights, in our way and in a plain one.

`python -m benchmarks.hallo2_clips SHAPE ROUNDS` prints a line of JSON.

Both do the same work and give the same video but for rounding. The plain way is what the published formulas
say when they are written down: the reference network in every step, the halves of the guidance one after the
other, attention as matrix products, frames decoded one by one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.hallo2.pipeline import CLIP_FRAMES, MOTION_FRAMES, Clip, ClipPipeline, Look, Recipe, Thrift
from models.hallo2.solvers import SOLVERS
from models.networks.hallo2 import FULL, ClipConditions, Hallo2Config, RegionMasks, build_networks

SEED = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """What is measured: networks of random weights and a picture of `side_px`; `vae` {} is SD 1.5's."""

    config: Hallo2Config
    device: str
    side_px: int
    steps: int
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)


SMALL = Hallo2Config(
    block_widths=(32, 32, 64, 64),
    context_width=64,
    audio_layers=2,
    audio_width=64,
    audio_hidden_width=64,
)
SHAPES = {
    "small": Shape(SMALL, "cpu", 64, 4, (32, 32, 32, 32)),
    "full": Shape(FULL, "cuda", 512, 40),
}


class PlainPipeline(ClipPipeline):
    """The same clips, slowly."""

    def __init__(self, networks: Any, vae: Any) -> None:
        super().__init__(networks, vae)
        self.thrift = Thrift(decoded_frames=1, halves_at_once=False)

    def _velocity(  # `reference` is how to make it here
        self,
        latents: Tensor,
        timestep: Tensor,
        conditions: ClipConditions,
        reference: Callable[[], Any],
        guidance_scale: float,
    ) -> Tensor:
        return super()._velocity(latents, timestep, conditions, reference(), guidance_scale)

    def _reference(self, *asked: Any) -> Any:  # type: ignore[override]
        make = super()._reference
        return lambda: make(*asked)


@dataclass(slots=True)
class Figures:
    """Of one way: seconds of each round's clip and its steps, and the most memory of the device."""

    clip_s: list[float] = field(default_factory=list)
    denoise_s: list[float] = field(default_factory=list)
    peak_gpu_memory_bytes: int = 0


def measure(shape: Shape, rounds: int) -> dict[str, Any]:
    """Both ways in turns, after one clip of each to warm up."""
    networks, vae = _networks(shape)
    ways = {
        "ours": _clips(ClipPipeline(networks, vae), shape),
        "plain": _plainly(_clips(PlainPipeline(networks, vae), shape)),
    }
    figures = {name: Figures() for name in ways}
    frames: dict[str, np.ndarray] = {}
    for number in range(rounds + 1):
        for name, make in ways.items():
            begin_s = time.perf_counter()
            with _peak_memory(figures[name]):
                clip = make(number)
            frames[name] = clip.frames
            if number:
                figures[name].clip_s.append(time.perf_counter() - begin_s)
                figures[name].denoise_s.append(clip.denoise_s)
    difference = frames["ours"].astype(np.float32) - frames["plain"]
    return {
        "rounds": {
            name: [each.clip_s, each.denoise_s, each.peak_gpu_memory_bytes] for name, each in figures.items()
        },
        "steps": shape.steps,
        "likeness_db": float(20 * np.log10(255 / max(1e-3, float(np.sqrt(np.mean(difference**2)))))),
    }


def _networks(shape: Shape) -> tuple[Any, Any]:
    """Half precision on a GPU, as replicas load them."""
    torch.manual_seed(SEED)
    dtype = torch.float16 if shape.device == "cuda" else torch.float32
    with torch.device(shape.device):
        networks = build_networks(shape.config)
        vae: Any = AutoencoderKL(  # type: ignore[no-untyped-call]
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=shape.vae_widths,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=min(32, shape.vae_widths[0]),
        )
    parts: tuple[Any, ...] = (*networks.by_prefix().values(), vae)
    for network in parts:
        nn.Module.to(network.requires_grad_(False).eval(), dtype)
    networks.denoising_unet.drop_idle()
    return networks, vae


def _look(shape: Shape) -> Look:
    """A random picture with a face in its middle."""
    draw, side_px = torch.Generator().manual_seed(SEED), shape.side_px
    face = torch.zeros((side_px, side_px), dtype=torch.bool)
    face[side_px // 4 : side_px * 3 // 4, side_px // 4 : side_px * 3 // 4] = True
    sides = [side_px // 8 // 2**depth for depth in range(len(shape.config.block_widths))]
    masks = tuple(torch.rand(side * side, generator=draw) for side in sides)
    return Look(
        torch.rand((3, side_px, side_px), generator=draw) * 2 - 1,
        face,
        RegionMasks(masks, masks, masks),
        torch.zeros(shape.config.face_embedding_width),
    )


def _clips(pipeline: ClipPipeline, shape: Shape) -> Callable[[int], Clip]:
    """Clip number n, as if another had gone before."""
    look, config = _look(shape), shape.config
    recipe = Recipe(SOLVERS["ddim"], shape.steps, 3.5, SEED)
    sizes = (CLIP_FRAMES, config.audio_window_frames, config.audio_layers, config.audio_width)
    motion = look.picture.expand(MOTION_FRAMES, -1, -1, -1)

    def make(number: int) -> Clip:
        windows = torch.randn(sizes, generator=torch.Generator().manual_seed(number))
        return pipeline.clip(number, look, windows, motion, recipe, lambda _done: None)

    return make


def _plainly(make: Callable[[int], Clip]) -> Callable[[int], Clip]:
    def plainly(number: int) -> Clip:
        with sdpa_kernel(SDPBackend.MATH):
            return make(number)

    return plainly


@contextmanager
def _peak_memory(figures: Figures) -> Iterator[None]:
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.reset_peak_memory_stats()
    yield
    figures.peak_gpu_memory_bytes = max(figures.peak_gpu_memory_bytes, torch.cuda.max_memory_allocated())


def main() -> None:
    print(json.dumps(measure(SHAPES[sys.argv[1]], int(sys.argv[2]))))


if __name__ == "__main__":
    main()
