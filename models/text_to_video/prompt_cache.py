"""What text encoders said of recent prompts, so that a repeated prompt does not wake them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MAX_BYTES = 512 << 20


class PromptCache:
    """Embeddings by prompt in host memory, the least recently used leave first; for one thread at a time."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def get(self, key: str, device: torch.device) -> Any | None:
        """What was put, with its tensors on `device`; None when it is not there."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return _mapped(self._kept[key], lambda tensor: tensor.to(device))

    def put(self, key: str, said: Any) -> None:
        """Keep tensors, and tuples or lists of them; what alone is larger than the cache is not kept."""
        self._kept[key] = _mapped(said, lambda tensor: tensor.to("cpu", copy=True))
        self._kept.move_to_end(key)
        while sum(map(_bytes_of, self._kept.values())) > self._max_bytes:
            self._kept.popitem(last=False)


class PromptEncoder:
    """Stands in for a pipeline's `encode_prompt`: asks the cache first, and measures what the encoders take.

    Each pipeline's call asks with its own arguments and unpacks its own answer, so this knows neither.
    """

    def __init__(self, encode: Callable[..., Any], cache: PromptCache, device: torch.device) -> None:
        self.seconds = 0.0
        self._encode, self._cache, self._device = encode, cache, device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        begin_s = time.monotonic()
        try:
            return self._said(args, kwargs)
        finally:
            self.seconds += time.monotonic() - begin_s

    def _said(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = repr((args, sorted(kwargs.items())))  # of texts, numbers and devices: no call passes tensors
        said = self._cache.get(key, self._device)
        if said is None:
            said = self._encode(*args, **kwargs)
            self._cache.put(key, said)
        return said


def _mapped(said: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(said, Tensor):
        return change(said)
    return type(said)(_mapped(part, change) for part in said) if isinstance(said, tuple | list) else said


def _bytes_of(said: Any) -> int:
    if isinstance(said, Tensor):
        return said.nbytes
    return sum(map(_bytes_of, said)) if isinstance(said, tuple | list) else 0
