"""One clip of Hallo2: 16 frames from a portrait, the frames before, and what is heard.

The order of things is that of the published inference (fudan-generative-vision/hallo:
hallo/animate/face_animate.py at 1002056; upstarter/hallo2: scripts/inference_long.py at e90685c). What
differs changes no picture but by rounding: the denoiser's state is float32 whatever the networks' dtype, both
halves of the guidance are one batch, and several frames are decoded at once. The noise of each clip is drawn
from the seed and the clip's number, so a film that goes on after a break is the one that was never broken.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.hallo2.solvers import Solver
from models.networks.hallo2 import (
    ClipConditions,
    Hallo2Networks,
    ReferenceFeatures,
    RegionMasks,
    audio_tokens,
    image_tokens,
    pose_features,
    reference_features,
)

CLIP_FRAMES = 16
MOTION_FRAMES = 2
DROP_SHARE = 0.25
# At 512 pixels four frames fill a GPU, and their largest features take 0.5 GB each; 16 would take 2.1 GB, and
# the decoder holds three at once: more than all that a step takes.
DECODED_FRAMES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What all clips of a film share, float32 on the CPU."""

    picture: Tensor  # (3, H, W) of -1..1
    face_box: Tensor  # (H, W) bool
    masks: RegionMasks
    embedding: Tensor  # (512,)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How clips are denoised. With a guidance of 1 there is no unconditional half."""

    solver: Solver
    steps: int
    guidance_scale: float
    seed: int

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale > 1.0


@dataclass(frozen=True, slots=True)
class Thrift:
    """How much is done at once: more needs more memory, and the result is the same but for rounding."""

    decoded_frames: int = DECODED_FRAMES
    halves_at_once: bool = True
    words: str = ""

    def next(self) -> Thrift | None:
        """The next cheaper way; None: there is none."""
        if not self.halves_at_once:
            return None
        words = "the halves of the guidance one after the other, frames decoded one by one"
        return replace(self, decoded_frames=1, halves_at_once=False, words=words)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A finished clip."""

    frames: np.ndarray  # (F, H, W, 3) uint8
    motion: Tensor  # (2, 3, H, W) float32 of -1..1 on the CPU: the last frames, for the next clip
    denoise_s: float
    decode_s: float


@dataclass(frozen=True, slots=True, eq=False)
class _Chance:
    """What is drawn by lot for one clip."""

    noise: Tensor  # (1, 4, F, h, w)
    kept: Tensor  # (H, W) bool: the pixels of earlier frames that are not dropped


class ClipPipeline:
    """Hallo2's networks and Stable Diffusion's VAE on one device; for one thread."""

    def __init__(self, networks: Hallo2Networks, vae: Any) -> None:
        self.thrift = Thrift()
        self._networks, self._vae = networks, vae
        parameter = next(networks.denoising_unet.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    @torch.inference_mode()
    def clip(
        self,
        number: int,
        look: Look,
        windows: Tensor,
        motion: Tensor | None,
        recipe: Recipe,
        on_step: Callable[[int], None],
    ) -> Clip:
        """`windows` (F, 5, layers, channels) are the sound; `motion` is that of the clip before, if any.

        `on_step` hears 0, then how many steps are done, and may stop by raising; decoding follows the last.
        """
        begin_s = time.monotonic()
        on_step(0)
        chance = self._draw(number, len(windows), look, recipe.seed)
        conditions = self._conditions(look, windows, is_guided=recipe.is_guided)
        reference = self._reference(look, motion, chance.kept, conditions.image_tokens)
        latents = self._denoised(chance.noise, conditions, reference, recipe, on_step)
        self._finish()
        denoised_s = time.monotonic()
        pictures = self._decoded(latents)
        frames = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        last = (pictures[-MOTION_FRAMES:] * 2 - 1).cpu()
        return Clip(frames, last, denoised_s - begin_s, time.monotonic() - denoised_s)

    def _draw(self, number: int, num_frames: int, look: Look, seed: int) -> _Chance:
        generator = torch.Generator("cpu").manual_seed(clip_seed(seed, number))
        height_px, width_px = look.picture.shape[1:]
        factor = 2 ** (len(self._vae.config.block_out_channels) - 1)
        channels = self._vae.config.latent_channels
        shape = (1, channels, num_frames, height_px // factor, width_px // factor)
        noise = torch.randn(shape, generator=generator)
        kept = torch.rand((height_px, width_px), generator=generator) > DROP_SHARE
        return _Chance(noise, kept | look.face_box)

    def _conditions(self, look: Look, windows: Tensor, *, is_guided: bool) -> ClipConditions:
        networks = self._networks
        region = look.face_box.expand(3, -1, -1)  # the same in all colours
        return ClipConditions(
            image_tokens=image_tokens(networks, self._moved(look.embedding), is_guided=is_guided),
            audio_tokens=audio_tokens(networks, self._moved(windows)),
            pose_features=pose_features(networks, self._moved(region), is_guided=is_guided),
            masks=look.masks.to(self.device, self.dtype),
        )

    def _reference(
        self, look: Look, motion: Tensor | None, kept: Tensor, tokens: Tensor
    ) -> ReferenceFeatures:
        """Of the portrait and the frames before, where the portrait stands in before the first clip.

        Frames drift away from the portrait over a long film, least in the face. So a share of their other
        pixels turns grey, and what is seen there comes from the portrait (the paper's patch-drop).
        """
        if motion is None:
            motion = look.picture.expand(MOTION_FRAMES, -1, -1, -1)
        pictures = torch.cat([look.picture[None], motion * kept])  # (1 + M, 3, H, W)
        codes = self._vae.encode(self._moved(pictures)).latent_dist.mean
        return reference_features(self._networks, codes * self._vae.config.scaling_factor, tokens)

    def _denoised(
        self,
        noise: Tensor,
        conditions: ClipConditions,
        reference: ReferenceFeatures,
        recipe: Recipe,
        on_step: Callable[[int], None],
    ) -> Tensor:
        """(1, 4, F, h, w) float32."""
        scheduler = recipe.solver.begin(recipe.steps)
        latents = noise.to(self.device) * scheduler.init_noise_sigma
        for done, timestep in enumerate(scheduler.timesteps, start=1):
            scaled = scheduler.scale_model_input(latents, timestep)
            velocity = self._velocity(scaled, timestep, conditions, reference, recipe.guidance_scale)
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            on_step(done)
        return latents

    def _velocity(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditions: ClipConditions,
        reference: ReferenceFeatures,
        guidance_scale: float,
    ) -> Tensor:
        """(1, 4, F, h, w) float32: as far from the unconditional half as the guidance wants."""
        unet = self._networks.denoising_unet
        rows, given = len(conditions.image_tokens), latents.to(self.dtype)
        if rows == 1 or self.thrift.halves_at_once:
            said = unet(given.expand(rows, *given.shape[1:]), timestep, conditions, reference)
        else:
            halves = (unet(given, timestep, conditions.row(row), reference.row(row)) for row in range(rows))
            said = torch.cat(list(halves))
        said = said.float()
        return said if rows == 1 else said[:1] + guidance_scale * (said[1:] - said[:1])

    def _decoded(self, latents: Tensor) -> Tensor:
        """(F, 3, H, W) float32 of 0..1."""
        codes = (latents[0].transpose(0, 1) / self._vae.config.scaling_factor).to(self.dtype)  # (F, 4, h, w)
        batches = [self._vae.decode(part).sample for part in codes.split(self.thrift.decoded_frames)]
        return (torch.cat(batches).float() / 2 + 0.5).clamp(0, 1)

    def _moved(self, values: Tensor) -> Tensor:
        return values.to(self.device, self.dtype)

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def clip_seed(seed: int, number: int) -> int:
    """The seed of one clip's noise: as good as independent of those of other clips and seeds."""
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
