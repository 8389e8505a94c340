"""What the modules of Hallo2's denoising UNet are made of alike."""

from __future__ import annotations

from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F

from models.networks.hallo2_config import Hallo2Config


def attention(width: int, config: Hallo2Config, *, context_width: int | None = None) -> Attention:
    """The layers of attention of tokens to each other, or to tokens `context_width` wide; see `attend`."""
    return Attention(
        query_dim=width,
        heads=config.heads,
        dim_head=width // config.heads,
        cross_attention_dim=context_width,
    )


def attend(attn: Attention, tokens: Tensor, context: Tensor) -> Tensor:
    """(N, L, C) looks at (N, K, C'). diffusers' own way ends in a division of all it made by one."""
    key, value = keys_and_values(attn, context)
    return joined(attn, F.scaled_dot_product_attention(queries(attn, tokens), key, value))


def queries(attn: Attention, tokens: Tensor) -> Tensor:
    """(N, heads, L, C / heads) of tokens (N, L, C)."""
    return _split(attn, attn.to_q(tokens))


def keys_and_values(attn: Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(N, heads, L, C / heads) each of tokens (N, L, C)."""
    return _split(attn, attn.to_k(tokens)), _split(attn, attn.to_v(tokens))


def joined(attn: Attention, seen: Tensor) -> Tensor:
    """(N, L, C) of what each head saw, (N, heads, L, C / heads)."""
    out: Tensor = attn.to_out[0](seen.transpose(1, 2).flatten(2))
    return out


def unasked(attn: Attention) -> Tensor:
    """(C,): what attention to zeros answers, whatever looks at them."""
    bias: Tensor = attn.to_out[0].get_parameter("bias")
    return bias


def _split(attn: Attention, projected: Tensor) -> Tensor:
    return projected.view(*projected.shape[:2], attn.heads, -1).transpose(1, 2)
