"""What tensors of torch's `meta` device would hold: full-size networks in no memory at all."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary


class HeldMemory(TorchDispatchMode):
    """Counts the bytes of what operations make on `meta` from when they make it to when it is forgotten.

    What an operation takes for itself while it lasts, and what an allocator loses, is not in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held_bytes = 0
        self.peak_bytes = 0
        self._seen: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._hold(tensor.untyped_storage())
        return made

    def leave_out(self, module: nn.Module | None) -> None:
        """Does not count a module's weights when a view of them is made."""
        for weight in module.state_dict(keep_vars=True).values() if module else ():
            self._seen[weight.untyped_storage()] = True

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen[storage] = True
        size_bytes = storage.nbytes()
        self.held_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        weakref.finalize(storage, self._forget, size_bytes)

    def _forget(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes
