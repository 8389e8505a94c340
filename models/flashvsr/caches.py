"""Moves what a stream remembers between a device and main memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_MAIN_MEMORY = torch.device("cpu")


@contextmanager
def brought_to(device: torch.device, *streams: object) -> Iterator[None]:
    """The streams' tensors are on `device` while the block lasts, and in main memory afterwards."""
    for stream in streams:
        _move(stream, device)
    yield
    for stream in streams:
        _move(stream, _MAIN_MEMORY)


def _move(value: Any, device: torch.device) -> Any:
    """`value` with each tensor in it on `device`: objects and containers in place.

    Never what all tiles share, which is modules and frozen values (tuples, dataclasses with slots).
    """
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        value.update({key: _move(item, device) for key, item in value.items()})
    elif isinstance(value, list):
        value[:] = [_move(item, device) for item in value]
    elif _is_stream(value):
        for name, item in vars(value).items():
            setattr(value, name, _move(item, device))
    return value


def _is_stream(value: Any) -> bool:
    """An object of ours that holds caches."""
    return (
        type(value).__module__.startswith("models.")
        and hasattr(value, "__dict__")
        and not isinstance(value, nn.Module)
    )
