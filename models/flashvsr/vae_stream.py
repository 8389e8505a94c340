"""The Wan VAE's decoder as a stream, for the variant `full`: equal to decoding all latents at once."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor


class VaeStream:
    """One clip's way through the decoder; holds what each causal convolution saw last."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae: Any = vae
        self._cache: list[Any] = [None] * _num_layers(vae)
        self._is_first = True
        self._mean, self._deviation = _scales(vae)  # once: the host waits for their arrival

    @torch.no_grad()
    def push(self, latents: Tensor, _frames: Tensor) -> Tensor:
        """Latents (1, 16, n, h, w) to (1, 3, m, 8 h, 8 w): m is 4 n - 3 at a clip's first push, 4 n later.

        Latents are normalised, results of -1..1. The low-quality frames, which the tiny decoder asks for, are
        not looked at.
        """
        codes = latents * self._deviation + self._mean
        return torch.cat([self._next(code) for code in torch.split(codes, 1, dim=2)], dim=2)

    def _next(self, code: Tensor) -> Tensor:
        """(1, 16, 1, h, w) to (1, 3, 1 or 4, 8 h, 8 w)."""
        is_first, self._is_first = self._is_first, False
        code = self._vae.post_quant_conv(code)
        made: Tensor = self._vae.decoder(code, feat_cache=self._cache, feat_idx=[0], first_chunk=is_first)
        return made.clamp(-1, 1)


def _num_layers(vae: Any) -> int:
    """How many of the decoder's layers remember frames."""
    return sum(isinstance(part, WanCausalConv3d) for part in vae.decoder.modules())


def _scales(vae: Any) -> tuple[Tensor, Tensor]:
    """Of each latent channel, (1, 16, 1, 1, 1): its mean and its deviation."""
    mean, deviation = (
        torch.tensor(values).view(1, -1, 1, 1, 1).to(vae.post_quant_conv.weight)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, deviation
