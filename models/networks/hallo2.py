"""Hallo2's networks together: one portrait and the sound of a clip in, the velocity of its latents out.

A clip: `reference_features` once, then `networks.denoising_unet(latents, timestep, conditions, reference)` in
each step. With guidance both halves are rows of one batch, the unconditional one first. What an unconditional
half gets: tokens of an embedding of zeros, zeros in place of the *projected* sound and place, earlier frames,
no portrait.

Facts: fudan-generative-vision/hallo, hallo/animate/face_animate.py at
100205620348b8fb3ebd3cddc773cb77e2479d83.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from models.networks.hallo2_conditions import (
    AudioProjection,
    ClipConditions,
    FaceLocator,
    ImageProjection,
    MotionScale,
    RegionMasks,
    guided,
)
from models.networks.hallo2_config import FULL, Hallo2Config
from models.networks.hallo2_reference import BlockReference, ReferenceFeatures, bank, reference_unet
from models.networks.hallo2_unet import DenoisingUNet

__all__ = [
    "FULL",
    "BlockReference",
    "ClipConditions",
    "Hallo2Config",
    "Hallo2Networks",
    "MotionScale",
    "ReferenceFeatures",
    "RegionMasks",
    "audio_tokens",
    "build_networks",
    "image_tokens",
    "pose_features",
    "reference_features",
]


@dataclass(frozen=True, slots=True)
class Hallo2Networks:
    """The five networks of net.pth, on one device in one dtype."""

    reference_unet: UNet2DConditionModel
    denoising_unet: DenoisingUNet
    face_locator: FaceLocator
    image_projection: ImageProjection
    audio_projection: AudioProjection
    config: Hallo2Config

    def by_prefix(self) -> dict[str, nn.Module]:
        """The networks by the first part of their names in net.pth."""
        return {
            "reference_unet": self.reference_unet,
            "denoising_unet": self.denoising_unet,
            "face_locator": self.face_locator,
            "imageproj": self.image_projection,
            "audioproj": self.audio_projection,
        }


def build_networks(config: Hallo2Config = FULL) -> Hallo2Networks:
    """Networks with arbitrary weights, on torch's current default device."""
    return Hallo2Networks(
        reference_unet(config),
        DenoisingUNet(config),
        FaceLocator(config),
        ImageProjection(config),
        AudioProjection(config),
        config,
    )


@torch.no_grad()
def image_tokens(networks: Hallo2Networks, embedding: Tensor, *, is_guided: bool) -> Tensor:
    """(B, 4, 768) of a face's embedding (512,); zeros are a legal embedding."""
    rows = guided(embedding[None], is_guided=is_guided)
    return networks.image_projection(rows)


@torch.no_grad()
def pose_features(networks: Hallo2Networks, face_region: Tensor, *, is_guided: bool) -> Tensor:
    """(B, 320, 1, H / 8, W / 8) of a picture of the face's place, (3, H, W) of 0..1."""
    return guided(networks.face_locator(face_region[None])[:, :, None], is_guided=is_guided)


@torch.no_grad()
def audio_tokens(networks: Hallo2Networks, windows: Tensor) -> Tensor:
    """(1, F, 32, 768) of the sound around each frame, (F, 5, 12, 768)."""
    return networks.audio_projection(windows)[None]


@torch.no_grad()
def reference_features(networks: Hallo2Networks, latents: Tensor, tokens: Tensor) -> ReferenceFeatures:
    """What the denoising UNet is given for one clip, at all of its steps.

    Latents (1 + M, 4, h, w) are the portrait and then the M earlier frames; tokens (B, 4, 768) those of
    `image_tokens`.
    """
    features = bank(networks.reference_unet, latents, tokens)
    blocks = networks.denoising_unet.given(features)
    return ReferenceFeatures(blocks, unconditional_rows=len(tokens) - 1)
