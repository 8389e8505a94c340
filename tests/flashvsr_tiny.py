"""FlashVSR so small that it runs in a blink, with seeded weights, saved in every layout that is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.torch import save_file
from torch import Tensor, nn

from models.flashvsr.checkpoint import vae_shapes
from models.flashvsr.files import ONE_FILE_FOLDER, PUBLISHED, V1_1_FOLDER, V1_FOLDER
from models.flashvsr.manifest import (
    Shapes,
    decoder_shapes,
    projector_shapes,
    prompt_shapes,
    transformer_shapes,
)
from models.flashvsr.networks import Part, Version
from models.networks.flashvsr_config import FlashVsrConfig

TINY = FlashVsrConfig(
    layers=2,
    heads=2,
    head_width=16,
    feed_forward_width=48,
    time_width=8,
    text_width=12,
    text_tokens=5,
    projector_widths=(8, 12),
    decoder_widths=(16, 8, 8, 8),
    vae_width=8,
)
Weights = Mapping[Part, Mapping[str, Tensor]]

FOLDERS: Mapping[Version, str] = {"v1": V1_FOLDER.path, "v1.1": V1_1_FOLDER.path}
_DTYPES: Mapping[Part, torch.dtype] = {"projector": torch.bfloat16, "prompt": torch.bfloat16}  # else fp32
_ONE_FILE_PREFIXES: Mapping[Part, str] = {
    "transformer": "",
    "projector": "lq_proj_in.",
    "decoder": "tc_decoder.",
    "prompt": "positive_conditioning",
}


def seeded(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Values that make every tensor matter: none is near zero, no norm lets anything through unchanged."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _value(name, shape, generator) for name, shape in shapes.items()}


def _value(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    value = torch.randn(shape, generator=generator)
    if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
        return 1 + 0.3 * value
    is_kernel = len(shape) > 1 and "modulation" not in name
    return value * (value[0].numel() ** -0.5 if is_kernel else 0.3)


def fill(module: nn.Module, seed: int = 0) -> None:
    """Seeded values for a module's own names."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    module.load_state_dict(seeded(shapes, seed))
    module.requires_grad_(False).eval()


def tiny_weights(config: FlashVsrConfig = TINY, seed: int = 0) -> dict[Part, dict[str, Tensor]]:
    """The tensors of all five files by their original names: fp32 numbers that bf16 and fp16 hold too."""
    shapes: dict[Part, Shapes] = {
        "transformer": transformer_shapes(config),
        "projector": projector_shapes(config),
        "decoder": decoder_shapes(config),
        "prompt": prompt_shapes(config),
        "vae": _original_vae_shapes(config),
    }
    return {
        part: {name: _coarse(value) for name, value in seeded(of_part, seed + number).items()}
        for number, (part, of_part) in enumerate(shapes.items())
    }


def _coarse(value: Tensor) -> Tensor:
    return value.to(torch.bfloat16).to(torch.float16).float()


def save_original(models_dir: Path, weights: Weights, version: Version = "v1.1") -> Path:
    """The five files as published; returns their folder."""
    folder = models_dir / FOLDERS[version]
    folder.mkdir(parents=True)
    for part, tensors in weights.items():
        save_part(folder, part, tensors)
    return folder


def save_part(folder: Path, part: Part, tensors: Mapping[str, Tensor]) -> Path:
    """One of the five files."""
    path = folder / PUBLISHED[part].name
    stored = {name: tensor.to(_DTYPES.get(part, torch.float32)) for name, tensor in tensors.items()}
    if part == "transformer":
        save_file(stored, path)
    else:
        torch.save(stored[""] if part == "prompt" else stored, path)
    return path


def save_one_file(models_dir: Path, weights: Weights, parts: Iterable[Part] = _ONE_FILE_PREFIXES) -> Path:
    """A repack of `parts` as fp16; returns its folder."""
    folder = models_dir / ONE_FILE_FOLDER.path
    folder.mkdir(parents=True)
    tensors = {
        f"{_ONE_FILE_PREFIXES[part]}{name}": tensor.half()
        for part in parts
        for name, tensor in weights[part].items()
    }
    save_file(tensors, folder / "flashvsr_fp16.safetensors")
    return folder


def _original_vae_shapes(config: FlashVsrConfig) -> Shapes:
    """Wan's own names, found by trying which of them diffusers' converter knows."""
    expected = vae_shapes(config)
    converted = convert_wan_vae_to_diffusers({name: name for name in _possible_vae_names()})
    return {original: expected[name] for name, original in converted.items() if name in expected}


def _possible_vae_names() -> Iterable[str]:
    roots = [f"encoder.downsamples.{number}" for number in range(11)]
    roots += [f"decoder.upsamples.{number}" for number in range(15)]
    roots += [f"{half}.middle.{number}" for half in ("encoder", "decoder") for number in range(3)]
    roots += ["encoder", "decoder"]
    parts = ["residual.0", "residual.2", "residual.3", "residual.6", "shortcut", "resample.1", "time_conv"]
    parts += ["norm", "to_qkv", "proj", "conv1", "head.0", "head.2"]
    names = [f"{root}.{part}" for root, part in product(roots, parts)] + ["conv1", "conv2"]
    return [f"{name}.{kind}" for name, kind in product(names, ("gamma", "weight", "bias"))]
