"""What is in FlashVSR's weight files, by the names they have there: pure functions of the sizes, no torch.

The Wan VAE's file has no table here: diffusers' AutoencoderKLWan is its manifest (194 tensors).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from models.networks.flashvsr_config import (
    LATENT_FRAMES,
    LATENT_SIDE_PX,
    PATCH,
    TOKEN_SIDE_PX,
    FlashVsrConfig,
)

Shapes = Mapping[str, tuple[int, ...]]

# Of the published transformer, as DiffSynth-Studio fingerprints checkpoints.
FINGERPRINT = "9269f8db9040a9d860eaca435be61814"
_MODULATIONS = 6  # shift, scale and gate of self-attention and of the feed-forward part
_MAX_NAMED = 3


def transformer_shapes(config: FlashVsrConfig) -> Shapes:
    """Of diffusion_pytorch_model_streaming_dmd.safetensors: 825 tensors of 1,418,996,800 values."""
    width, patch = config.width, PATCH[0] * PATCH[1] * PATCH[2]
    return {
        "patch_embedding.weight": (width, config.latent_channels, *PATCH),
        "patch_embedding.bias": (width,),
        **_linear("text_embedding.0", config.text_width, width),
        **_linear("text_embedding.2", width, width),
        **_linear("time_embedding.0", config.time_width, width),
        **_linear("time_embedding.2", width, width),
        **_linear("time_projection.1", width, _MODULATIONS * width),
        **{
            f"blocks.{layer}.{name}": shape
            for layer in range(config.layers)
            for name, shape in _block_shapes(config).items()
        },
        **_linear("head.head", width, patch * config.latent_channels),
        "head.modulation": (1, 2, width),
    }


def _block_shapes(config: FlashVsrConfig) -> Shapes:
    width = config.width
    shapes: dict[str, tuple[int, ...]] = {"modulation": (1, _MODULATIONS, width)}
    for attention in ("self_attn", "cross_attn"):
        for name in "qkvo":
            shapes |= _linear(f"{attention}.{name}", width, width)
        shapes |= {f"{attention}.norm_{name}.weight": (width,) for name in "qk"}
    shapes |= {"norm3.weight": (width,), "norm3.bias": (width,)}
    return (
        shapes
        | _linear("ffn.0", width, config.feed_forward_width)
        | _linear("ffn.2", config.feed_forward_width, width)
    )


def projector_shapes(config: FlashVsrConfig) -> Shapes:
    """Of LQ_proj_in.ckpt: 8 tensors of 287,845,888 values."""
    first, second = config.projector_widths
    return {
        "conv1.weight": (first, 3 * TOKEN_SIDE_PX**2, 4, 3, 3),
        "conv1.bias": (first,),
        "norm1.gamma": (first, 1, 1, 1),
        "conv2.weight": (second, first, 4, 3, 3),
        "conv2.bias": (second,),
        "norm2.gamma": (second, 1, 1, 1),
        **_linear("linear_layers.0", second, config.width),
    }


def decoder_shapes(config: FlashVsrConfig) -> Shapes:
    """Of TCDecoder.ckpt: 66 tensors of 45,338,371 values."""
    first, second, third, last = config.decoder_widths
    condition = 3 * LATENT_FRAMES * LATENT_SIDE_PX**2
    shapes = {
        **_conv(1, condition + config.latent_channels, first),
        **_conv(3, first, first, has_bias=False),
        "decoder.9.conv.weight": (first, first, 1, 1),
        **_conv(10, first, second, has_bias=False),
        "decoder.15.conv.weight": (2 * second, second, 1, 1),
        **_conv(16, second, third, has_bias=False),
        "decoder.21.conv.weight": (2 * third, third, 1, 1),
        **_conv(22, third, last, has_bias=False),
        **_conv(24, last, last, has_bias=False),
        **_conv(26, last, 3),
    }
    blocks = ((first, (5, 6, 7)), (second, (11, 12, 13)), (third, (17, 18, 19)))
    for width, numbers in blocks:
        for number in numbers:
            shapes |= _conv(f"{number}.conv.0", 2 * width, width)
            shapes |= _conv(f"{number}.conv.2", width, width) | _conv(f"{number}.conv.4", width, width)
    return shapes


def prompt_shapes(config: FlashVsrConfig) -> Shapes:
    """Of posi_prompt.pth, which is one tensor without a name."""
    return {"": (1, config.text_tokens, config.text_width)}


def _linear(name: str, in_width: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width, in_width), f"{name}.bias": (width,)}


def _conv(
    number: int | str, in_width: int, width: int, *, has_bias: bool = True
) -> dict[str, tuple[int, ...]]:
    name = f"decoder.{number}"
    bias: dict[str, tuple[int, ...]] = {f"{name}.bias": (width,)} if has_bias else {}
    return {f"{name}.weight": (width, in_width, 3, 3), **bias}


def fingerprint(shapes: Shapes) -> str:
    """The md5 of all names, with and without their shapes."""
    joined = {name: "_".join(map(str, shape)) for name, shape in shapes.items()}
    entries = [entry for name, shape in joined.items() for entry in (name, f"{name}:{shape}")]
    return hashlib.md5(",".join(sorted(entries)).encode(), usedforsecurity=False).hexdigest()


def lacks(expected: Shapes, found: Shapes) -> str:
    """What of `expected` is not in `found`, in words with the first few names; "" if all is."""
    missing = [name for name in expected if name not in found]
    misshapen = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    said = (counted("missing", missing), counted("misshapen", misshapen))
    return "; ".join(text for text in said if text)


def counted(kind: str, names: Sequence[str]) -> str:
    """How many names there are, and the first few; "" for none."""
    if not names:
        return ""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{len(names)} {kind}: {', '.join(_first(names))}{more}"


def _first(names: Iterable[str]) -> Iterable[str]:
    return islice(names, _MAX_NAMED)
