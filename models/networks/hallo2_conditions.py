"""What a clip of Hallo2 is drawn from, and the three small networks that make it: face, place, sound.

Facts: fudan-generative-vision/hallo, hallo/models/{face_locator,image_proj,audio_proj}.py at
100205620348b8fb3ebd3cddc773cb77e2479d83, and hallo/animate/face_animate.py at the same commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.hallo2_config import Hallo2Config

MotionScale = tuple[float, float, float]  # weight of the pose (full), the face and the lips


@dataclass(frozen=True, slots=True)
class RegionMasks:
    """Where sound may act, at each depth of the UNet: entry d is (h / 2**d * w / 2**d,), row by row, 0..1."""

    full: tuple[Tensor, ...]
    face: tuple[Tensor, ...]
    lip: tuple[Tensor, ...]

    def at(self, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        """The masks of one depth: full, face, lip."""
        return self.full[depth], self.face[depth], self.lip[depth]

    def to(self, device: torch.device, dtype: torch.dtype) -> RegionMasks:
        moved = (
            tuple(mask.to(device, dtype) for mask in masks) for masks in (self.full, self.face, self.lip)
        )
        return RegionMasks(*moved)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConditions:
    """What steers one clip of F frames. B is 2 with guidance (row 0 unconditional), else 1.

    The tensors have the device and dtype of the denoising UNet.
    """

    image_tokens: Tensor  # (B, 4, 768)
    audio_tokens: Tensor  # (1, F, 32, 768): the last row's; the row before, if any, hears zeros
    pose_features: Tensor  # (B, 320, F or 1, h, w); 1: the same for every frame
    masks: RegionMasks
    motion_scale: MotionScale = (1.0, 1.0, 1.0)

    @property
    def num_frames(self) -> int:
        """F."""
        return self.audio_tokens.shape[1]

    def row(self, index: int) -> ClipConditions:
        """One of the rows alone, B = 1."""
        one, is_last = slice(index, index + 1), index == len(self.image_tokens) - 1
        return ClipConditions(
            image_tokens=self.image_tokens[one],
            audio_tokens=self.audio_tokens if is_last else self.audio_tokens[:0],
            pose_features=self.pose_features[one],
            masks=self.masks,
            motion_scale=self.motion_scale,
        )


class FaceLocator(nn.Module):
    """A picture of the face's place (white on black) as features of the first block, 1/8 of its size."""

    def __init__(self, config: Hallo2Config) -> None:
        super().__init__()
        widths = config.locator_widths
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, wider in pairwise(widths):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, wider, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(widths[-1], config.block_widths[0], 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        """(N, 3, H, W) of 0..1 to (N, 320, H / 8, W / 8)."""
        features = F.silu(self.conv_in(picture))
        for conv in self.blocks:
            features = F.silu(conv(features))
        return self.conv_out(features)


class ImageProjection(nn.Module):
    """An embedding of the face as a few context tokens."""

    def __init__(self, config: Hallo2Config) -> None:
        super().__init__()
        self.proj = nn.Linear(config.face_embedding_width, config.image_tokens * config.context_width)
        self.norm = nn.LayerNorm(config.context_width)

    def forward(self, embedding: Tensor) -> Tensor:
        """(N, 512) to (N, 4, 768)."""
        return self.norm(self.proj(embedding).unflatten(1, (-1, *self.norm.normalized_shape)))


class AudioProjection(nn.Module):
    """The recogniser's layers around one frame as context tokens of that frame."""

    def __init__(self, config: Hallo2Config) -> None:
        super().__init__()
        window_width = config.audio_window_frames * config.audio_layers * config.audio_width
        self.proj1 = nn.Linear(window_width, config.audio_hidden_width)
        self.proj2 = nn.Linear(config.audio_hidden_width, config.audio_hidden_width)
        self.proj3 = nn.Linear(config.audio_hidden_width, config.audio_tokens * config.context_width)
        self.norm = nn.LayerNorm(config.context_width)

    def forward(self, windows: Tensor) -> Tensor:
        """(F, 5, 12, 768), frames x layers of each window, to (F, 32, 768)."""
        hidden = F.relu(self.proj1(windows.flatten(1)))  # (F, 512)
        hidden = F.relu(self.proj2(hidden))  # (F, 512)
        return self.norm(self.proj3(hidden).unflatten(1, (-1, *self.norm.normalized_shape)))


def guided(conditional: Tensor, *, is_guided: bool) -> Tensor:
    """`conditional` (1, ...) behind a row of zeros, the unconditional half, if there is guidance."""
    return torch.cat([torch.zeros_like(conditional), conditional]) if is_guided else conditional
