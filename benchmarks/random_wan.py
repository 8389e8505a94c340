"""WanPipeline folders of random weights from a seed: what a published checkpoint costs, without having it.

`python -m benchmarks.random_wan SHAPE FOLDER` saves one. Speed and memory depend on shapes, not on values.
The text encoder has one small layer: Wan's own, 11 GB, takes a tenth of a second for a clip.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEED = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a transformer and its VAE: `vae` are arguments of AutoencoderKLWan; {} is Wan2.1's."""

    layers: int
    heads: int
    head_dim: int
    ffn_dim: int
    text_dim: int
    vae: Mapping[str, Any] = field(default_factory=dict)


SHAPES = {
    # On a CPU about two thirds of the time are the transformer's, the rest is the VAE's.
    "small": Shape(4, 8, 32, 1024, 64, {"base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}),
    "wan2.1-1.3b": Shape(30, 12, 128, 8960, 4096),
}


def pipeline_of(shape: Shape) -> Any:
    """In bfloat16, as checkpoints are published."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

    torch.manual_seed(SEED)
    tokenizer = ByT5Tokenizer()  # bytes: it has no vocabulary to bring
    encoder = UMT5Config(
        vocab_size=len(tokenizer), d_model=shape.text_dim, d_kv=16, d_ff=64, num_layers=1, num_heads=4
    )
    transformer = WanTransformer3DModel(  # type: ignore[no-untyped-call]
        num_attention_heads=shape.heads,
        attention_head_dim=shape.head_dim,
        ffn_dim=shape.ffn_dim,
        num_layers=shape.layers,
        text_dim=shape.text_dim,
    )
    vae = AutoencoderKLWan(**shape.vae)  # type: ignore[no-untyped-call]
    networks: dict[str, Any] = {
        "text_encoder": UMT5EncoderModel(encoder),
        "vae": vae,
        "transformer": transformer,
    }
    scheduler = UniPCMultistepScheduler(  # type: ignore[no-untyped-call]
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    halved = {name: network.eval().to(torch.bfloat16) for name, network in networks.items()}
    return WanPipeline(tokenizer=tokenizer, scheduler=scheduler, **halved)  # type: ignore[no-untyped-call]


def main() -> None:
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    pipeline_of(SHAPES[sys.argv[1]]).save_pretrained(sys.argv[2], safe_serialization=True)
    Path(sys.argv[2], "SEED").write_text(f"{SEED}\n")


if __name__ == "__main__":
    main()
