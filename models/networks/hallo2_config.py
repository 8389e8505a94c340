"""Sizes of Hallo2's networks (arXiv 2410.07718). Pure: no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hallo2Config:
    """Widths, depths and counts; the defaults are those of the published weights.

    Both UNets have one block per entry of `block_widths`; all but the deepest carry attention.
    """

    block_widths: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    heads: int = 8
    norm_groups: int = 32
    latent_channels: int = 4
    context_width: int = 768
    face_embedding_width: int = 512
    image_tokens: int = 4
    locator_widths: tuple[int, ...] = (16, 32, 64, 128)
    audio_window_frames: int = 5
    audio_layers: int = 12
    audio_width: int = 768
    audio_hidden_width: int = 512
    audio_tokens: int = 32
    motion_positions: int = 32

    @property
    def time_width(self) -> int:
        """Width of the time step's embedding."""
        return 4 * self.block_widths[0]


FULL = Hallo2Config()
