"""Hallo2 so small that it runs in a blink, with seeded weights, saved as the original's folder is."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from models.hallo2.manifest import VAE_FOLDER, WAV2VEC_FOLDER
from models.networks.hallo2 import Hallo2Config, Hallo2Networks, build_networks

TINY = Hallo2Config(
    block_widths=(8, 16, 16, 16),
    layers_per_block=1,
    heads=2,
    norm_groups=4,
    context_width=12,
    locator_widths=(4, 4, 8, 8),
    audio_layers=2,
    audio_width=8,
    audio_hidden_width=16,
    audio_tokens=3,
)


def seeded(network: nn.Module, seed: int) -> None:
    """Weights that make every part matter: none is near zero, no norm lets anything through unchanged."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            fan_in = max(tensor[0].numel(), 1) if tensor.ndim > 1 and not name.endswith("pe") else 4
            tensor.normal_(std=fan_in**-0.5, generator=generator)
            if tensor.ndim == 1 and name.endswith("weight"):
                tensor.add_(1.0)


def tiny_networks(seed: int = 0) -> Hallo2Networks:
    """Frozen fp32 networks of `TINY`."""
    networks = build_networks(TINY)
    for number, network in enumerate(networks.by_prefix().values()):
        seeded(network.requires_grad_(False).eval(), seed + number)
    return networks


def save_net(networks: Hallo2Networks, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """net.pth as the original is: one flat table of names with a prefix for each network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net_table(networks, dtype), path)


def net_table(networks: Hallo2Networks, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}.{name}": tensor.to(dtype)
        for prefix, network in networks.by_prefix().items()
        for name, tensor in network.state_dict().items()
    }


def save_tiny_folder(folder: Path, seed: int = 0) -> Path:
    """A whole Hallo2 folder of `TINY`: net.pth, sd-vae-ft-mse (pictures of 8 x latents) and wav2vec."""
    save_net(tiny_networks(seed), folder / "net.pth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _tiny_vae().save_pretrained(folder / VAE_FOLDER)
        _tiny_wav2vec().save_pretrained(folder / WAV2VEC_FOLDER)
    return folder


def _tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        latent_channels=TINY.latent_channels,
        norm_num_groups=2,
    )


def _tiny_wav2vec() -> Wav2Vec2Model:
    sizes = Wav2Vec2Config(
        hidden_size=TINY.audio_width,
        num_hidden_layers=TINY.audio_layers,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        vocab_size=8,
    )
    return Wav2Vec2Model(sizes)
