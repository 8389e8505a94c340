"""Reads net.pth, the original file of Hallo2's weights, into our networks: strictly, and once in memory."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import ModelNotReady
from models.hallo2.manifest import Shapes, differences, net_file
from models.networks.hallo2 import FULL, Hallo2Config, Hallo2Networks, build_networks

_NEXT_STEP = "copy the original net.pth of Hallo2 again"


def load_networks(
    folder: Path, *, device: torch.device, dtype: torch.dtype, config: Hallo2Config = FULL
) -> Hallo2Networks:
    """The networks of a Hallo2 folder, frozen, without the modules that never run.

    The file may be replaced afterwards. Raises ModelNotReady for a file that is missing, cut short, or has
    other tensors than `config` asks for, naming them.
    """
    path = net_file(folder)
    tensors = _tensors(path)
    with torch.device("meta"):
        networks = build_networks(config)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    departs = differences(expected_shapes(networks), found)
    if departs:
        raise _unusable(path, f"does not hold Hallo2's weights: {departs}")
    networks.denoising_unet.drop_idle()
    for prefix, network in networks.by_prefix().items():
        _fill(network, f"{prefix}.", tensors, device, dtype)
    return networks


def expected_shapes(networks: Hallo2Networks) -> Shapes:
    """Name and shape of every tensor that net.pth holds for such networks."""
    return {
        f"{prefix}.{name}": tuple(tensor.shape)
        for prefix, network in networks.by_prefix().items()
        for name, tensor in network.state_dict().items()
    }


def _fill(
    network: nn.Module, prefix: str, tensors: dict[str, Tensor], device: torch.device, dtype: torch.dtype
) -> None:
    """Takes the network's tensors out of `tensors`: one of them at a time is there twice."""
    state = {
        # A copy even where nothing is converted: weights that stay mapped would change with the file.
        name: tensors.pop(prefix + name).to(device, dtype, copy=True)
        for name in network.state_dict()
    }
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False).eval()


def _tensors(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name, mapped from disk where its format allows it."""
    found = _read(path)
    if not isinstance(found, dict):
        raise _unusable(path, "is not a table of weights")
    others = [str(name) for name, value in found.items() if not _is_weight(value)]
    if others:
        raise _unusable(path, f"holds something else than weights: {', '.join(others[:3])}")
    return found


def _is_weight(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        first_line = str(error).partition("\n")[0]
        raise _unusable(path, f"is damaged or cut short ({first_line})") from error


def _unusable(path: Path, why: str) -> ModelNotReady:
    return ModelNotReady(f"{path.parent.name}/{path.name} {why}; {_NEXT_STEP}")
