"""The colours of the low-quality frames on what the network made of them.

Facts: OpenImagingLab/FlashVSR, diffsynth/pipelines/flashvsr_tiny.py at
0a4ff08ab04bd24b745804befe32803ae53b5208. Pictures are (T, 3, H, W) of -1..1, and so are the results;
arithmetic is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

_LEVELS = 5
_VARIANCE_FLOOR = 1e-5
_GAUSS = (0.25, 0.5, 0.25)  # a side of the 3 x 3 kernel, which is their product


def adain(pictures: Tensor, reference: Tensor) -> Tensor:
    """`pictures` with the mean and deviation that each channel of each frame has in `reference`."""
    pictures, reference = pictures.float(), reference.float()
    mean, deviation = _moments(pictures)
    wanted_mean, wanted_deviation = _moments(reference)
    return (pictures - mean).mul_(wanted_deviation / deviation).add_(wanted_mean).clamp_(-1, 1)


def wavelet(pictures: Tensor, reference: Tensor) -> Tensor:
    """The fine structure of `pictures` on the coarse one of `reference`: what five dilated blurs leave.

    The blur is linear, so the difference of the two is what is blurred.
    """
    pictures = pictures.float()
    coarse = reference.float() - pictures
    for level in range(_LEVELS):
        coarse = _blurred(coarse, 2**level)
    return coarse.add_(pictures).clamp_(-1, 1)


COLOR_FIXES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"v1": wavelet, "v1.1": adain}


def _moments(pictures: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(pictures, dim=(2, 3), correction=0, keepdim=True)
    return mean, variance.add(_VARIANCE_FLOOR).sqrt()


def _blurred(pictures: Tensor, radius_px: int) -> Tensor:
    """A 3 x 3 Gaussian whose taps are `radius_px` apart; the border is repeated."""
    height_px, width_px = pictures.shape[-2:]
    padded = F.pad(pictures, (radius_px,) * 4, mode="replicate")
    rows = torch.zeros_like(padded[..., :height_px, :])
    for tap, weight in enumerate(_GAUSS):
        rows.add_(padded[..., tap * radius_px : tap * radius_px + height_px, :], alpha=weight)
    blurred = torch.zeros_like(pictures)
    for tap, weight in enumerate(_GAUSS):
        blurred.add_(rows[..., tap * radius_px : tap * radius_px + width_px], alpha=weight)
    return blurred
