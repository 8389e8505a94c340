"""What the modules of Hallo2's denoising UNet are made of alike."""

from __future__ import annotations

from diffusers.models.attention_processor import Attention

from models.networks.hallo2_config import Hallo2Config


def attention(width: int, config: Hallo2Config, *, context_width: int | None = None) -> Attention:
    """Attention of tokens to each other, or to tokens `context_width` wide; computed by torch's SDPA."""
    return Attention(
        query_dim=width,
        heads=config.heads,
        dim_head=width // config.heads,
        cross_attention_dim=context_width,
    )
