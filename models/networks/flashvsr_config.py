"""Sizes of FlashVSR's networks (arXiv 2510.12747). Pure: no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashVsrConfig:
    """Widths, depths and counts; the defaults are those of the published weights.

    `projector_widths` are of the two causal convolutions, `decoder_widths` of the tiny decoder's four stages,
    `vae_width` is the Wan VAE's narrowest. What is not here is the same at every size: a patch of (1, 2, 2)
    latents is one token, a token is 16 x 16 pixels, and four frames are one latent frame.
    """

    layers: int = 30
    heads: int = 12
    head_width: int = 128
    feed_forward_width: int = 8960
    time_width: int = 256
    text_width: int = 4096
    text_tokens: int = 512
    latent_channels: int = 16
    projector_widths: tuple[int, int] = (2048, 3072)
    decoder_widths: tuple[int, int, int, int] = (512, 256, 128, 128)
    vae_width: int = 96

    @property
    def width(self) -> int:
        """Of a token."""
        return self.heads * self.head_width


FULL = FlashVsrConfig()
PATCH = (1, 2, 2)  # latents of a token: frames, rows, columns
TOKEN_SIDE_PX = 16
LATENT_SIDE_PX = 8
LATENT_FRAMES = 4  # frames of a latent frame
# Values that one call of the tiny decoder's stages may give: a frame of 1408 x 768 and 128 channels.
DECODER_CALL_VALUES = 150_000_000
