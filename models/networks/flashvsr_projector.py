"""FlashVSR's projector: the low-quality frames as tokens that are added before the first block.

Frames are unshuffled to the token grid (16 x 16 pixels are one position of 768 channels), then two causal
convolutions over time and space halve the frame rate twice. v1 and v1.1 have the same tensors and differ in
what a convolution sees before its own frames: v1 the last two of those very frames, v1.1 the last two of the
frames before them. Facts: OpenImagingLab/FlashVSR, examples/WanVSR/utils/utils.py at
1f37a6824b8e971672c4718a5a0b52d45db3f8b3.

Everything is channels-last, and a convolution is the gathering of its patches and one matrix product: cuDNN
takes 18 times as long for kernels of this shape (the same commit's figures for a GH200: 152 ms and 8.4 ms).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.flashvsr_config import LATENT_FRAMES, TOKEN_SIDE_PX, FlashVsrConfig

_KERNEL = (4, 3, 3)
_STRIDE_FRAMES = 2
_CACHE_FRAMES = 2
_PATCH_BYTES = 512 << 20  # what the patches of one matrix product may take


class CausalConv(nn.Module):
    """A convolution of (4, 3, 3) and stride (2, 1, 1) that repeats the border and looks only back in time."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, in_width, *_KERNEL))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, past: Tensor, frames: Tensor) -> Tensor:
        """(2, h, w, C) that came before and (n, h, w, C), n even, to (n / 2, h, w, width)."""
        padded = _bordered(torch.cat([past, frames]))  # (2 + n, h + 2, w + 2, C)
        kernel = (
            self.weight.permute(0, 2, 3, 4, 1).flatten(1).t()
        )  # (4 * 3 * 3 * C, width); a view if arranged
        patches = padded
        for axis, (size, step) in enumerate(zip(_KERNEL, (_STRIDE_FRAMES, 1, 1), strict=True)):
            patches = patches.unfold(axis, size, step)
        patches = patches.permute(0, 1, 2, 4, 5, 6, 3)  # (n / 2, h, w, 4, 3, 3, C), a view
        result = frames.new_empty(*patches.shape[:3], len(self.bias))
        rows = self._rows_of_a_product(patches)
        for source, target in zip(torch.split(patches, rows, 1), torch.split(result, rows, 1), strict=True):
            product = torch.addmm(self.bias, source.reshape(-1, len(kernel)), kernel)
            target.copy_(product.view(target.shape))
        return result

    def arrange(self) -> None:
        """Lays the weight out as `forward` reads it, which else copies it at every call."""
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last_3d)

    @staticmethod
    def _rows_of_a_product(patches: Tensor) -> int:
        row_bytes = patches[:, 0].numel() * patches.element_size()
        return max(1, _PATCH_BYTES // row_bytes)


class ChannelNorm(nn.Module):
    """Scales each position's channels to a root mean square of `gamma`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width, 1, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """(n, h, w, C), of the same shape."""
        return F.rms_norm(frames, (frames.shape[-1],), self.gamma.flatten(), eps=1e-24)


class Projector(nn.Module):
    """The eight tensors of LQ_proj_in. `is_causal` is v1.1's rule."""

    def __init__(self, config: FlashVsrConfig, *, is_causal: bool = True) -> None:
        super().__init__()
        self.is_causal = is_causal
        first, second = config.projector_widths
        self.conv1 = CausalConv(3 * TOKEN_SIDE_PX**2, first)
        self.norm1 = ChannelNorm(first)
        self.conv2 = CausalConv(first, second)
        self.norm2 = ChannelNorm(second)
        self.linear_layers = nn.ModuleList([nn.Linear(second, config.width)])

    def arrange(self) -> None:
        """Lays the weights out for speed; call it once they are in place. The results stay the same."""
        self.conv1.arrange()
        self.conv2.arrange()

    def stream(self) -> ProjectorStream:
        """A clip from its beginning."""
        return ProjectorStream(self)

    def halve(self, past: Tensor, pixels: Tensor) -> Tensor:
        """The first convolution: (n, h, w, 768) to (n / 2, h, w, first width)."""
        return F.silu(self.norm1(self.conv1(past, pixels)))

    def tokens(self, past: Tensor, halved: Tensor) -> Tensor:
        """The second, and the projection: (2 n, h, w, first width) to (1, n * h * w, width)."""
        features = F.silu(self.norm2(self.conv2(past, halved)))  # (n, h, w, second width)
        return self.linear_layers[0](features.flatten(0, 2))[None]


class ProjectorStream:
    """One clip's way through the projector; holds the two frames before each convolution."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._past: list[Tensor] = []  # once it has begun: (2, h, w, 768) and (2, h, w, first width)

    @torch.no_grad()
    def push(self, frames: Tensor) -> Tensor | None:
        """Frames (1, 3, n, H, W) of -1..1 to tokens (1, m * H/16 * W/16, width), frame by frame, row by row.

        A clip's first push has 1 + 4 m frames, later ones 4 m; H and W are multiples of 16. The very first
        frame only fills the caches, so m = 0 gives None. How a clip is cut into pushes changes nothing.
        """
        pixels = unshuffled(frames)  # (n, h, w, 768)
        if not self._past:
            self._past = self._still(pixels[:1])
            pixels = pixels[1:]
        # v1's convolutions see the frames of their own four twice; with v1.1 the cut is free
        size = 2 * LATENT_FRAMES if self._projector.is_causal else LATENT_FRAMES
        parts = torch.split(pixels, size) if len(pixels) else ()
        tokens = [self._tokens(part) for part in parts]
        return torch.cat(tokens, dim=1) if tokens else None

    def _still(self, first: Tensor) -> list[Tensor]:
        """The caches after the first frame, as if it had stood still before."""
        frames = first.expand(_CACHE_FRAMES + LATENT_FRAMES, -1, -1, -1)
        pixels = frames[:_CACHE_FRAMES]
        return [pixels, self._projector.halve(pixels, frames[_CACHE_FRAMES:])]

    def _tokens(self, pixels: Tensor) -> Tensor:
        """Of a few frames; the caches are then those after them."""
        projector, (past_pixels, past_halved) = self._projector, self._past
        last_pixels = pixels[-_CACHE_FRAMES:].clone()
        halved = projector.halve(past_pixels if projector.is_causal else last_pixels, pixels)
        last_halved = halved[-_CACHE_FRAMES:].clone()
        self._past = [last_pixels, last_halved]
        return projector.tokens(past_halved if projector.is_causal else last_halved, halved)


def unshuffled(frames: Tensor) -> Tensor:
    """(1, 3, n, H, W) to (n, H/16, W/16, 768): channel by channel, row by row within a token."""
    _, channels, count, height_px, width_px = frames.shape
    side = TOKEN_SIDE_PX
    grid = frames.view(channels, count, height_px // side, side, width_px // side, side)
    return grid.permute(1, 2, 4, 0, 3, 5).flatten(3)


def _bordered(frames: Tensor) -> Tensor:
    """(n, h, w, C) to (n, h + 2, w + 2, C) with the border's values repeated."""
    count, height, width, channels = frames.shape
    padded = frames.new_empty(count, height + 2, width + 2, channels)
    padded[:, 1:-1, 1:-1] = frames
    padded[:, 1:-1, 0], padded[:, 1:-1, -1] = frames[:, :, 0], frames[:, :, -1]
    padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
    return padded
