"""A CUDA device for machines without one: it computes nothing, but refuses what a real one would refuse.

Tensors on it know their shape, dtype and device alone; all others are computed as always. What comes back to
the CPU are zeros, or True. Refused: tensors of two devices in one operation, two precisions in one layer, a
generator of another device. What only a GPU build of torch can do is not covered: streams, compilation,
kernels of other packages. Ask for "cuda:0": without an index torch asks the driver which device is meant.

torch's own FakeTensor cannot stand in: a CPU build has no device guard for "cuda", so indexing one fails.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from tests.run_context import LocalRunContext

DEVICE = "cuda:0"
MEMORY_BYTES = 80 << 30
_META = torch.device("meta")
_ONE_PRECISION = frozenset(
    {"convolution", "addmm", "mm", "bmm", "baddbmm", "native_layer_norm", "native_group_norm", "attention"}
)


class _OnGpu(Tensor):
    """torch's C++ takes it for a tensor without data, Python for one on the device."""

    form: Tensor

    @staticmethod
    def __new__(cls, form: Tensor) -> _OnGpu:
        made: _OnGpu = torch.Tensor._make_wrapper_subclass(
            cls,
            form.shape,
            strides=form.stride(),
            storage_offset=form.storage_offset(),
            dtype=form.dtype,
            device=_META,
        )
        made.form = form
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            # C++ would look where it has no data.
            if func is Tensor.to and len(args) == 2 and isinstance(args[1], _OnGpu):
                return args[0].to(DEVICE, args[1].dtype)
            if func is F.scaled_dot_product_attention:  # one operation, as on a GPU
                return _attended(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise RuntimeError(f"{func} on the device after it was taken away")

    @property
    def device(self) -> torch.device:
        return torch.device(DEVICE)

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False


def _attended(query: Tensor, key: Tensor, value: Tensor, *_: Any, **_options: Any) -> Tensor:
    _check("attention", [query, key, value], {})
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


class AbsentGpu(TorchDispatchMode):
    """`waits` counts how often the host had to wait for the device, `operations` what it handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {name: value for name, value in (kwargs or {}).items() if name != "pin_memory"}
        tensors = [leaf for leaf in pytree.tree_leaves((args, given)) if isinstance(leaf, Tensor)]
        ours, device = [tensor for tensor in tensors if isinstance(tensor, _OnGpu)], given.get("device")
        if not ours and (device is None or device.type != "cuda"):
            return func(*args, **given)
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense" or (device is not None and device.type == "cpu"):
            self.waits += name in {"_local_scalar_dense", "_to_copy"}
            return _landed(name, tensors[0], given)
        if name == "copy_" and not isinstance(tensors[0], _OnGpu):  # an event says when it has landed
            return tensors[0]
        self.operations += 1
        _check(name, tensors, given)
        return _computed(func, args, given)


def _landed(name: str, tensor: Tensor, given: dict[str, Any]) -> Any:
    """Zeros on the CPU; what is asked of them is so."""
    dtype = given.get("dtype") or tensor.dtype
    landed = torch.full(tensor.shape, dtype is torch.bool, dtype=dtype)
    return landed.item() if name == "_local_scalar_dense" else landed


def _check(name: str, tensors: list[Tensor], given: dict[str, Any]) -> None:
    if name not in {"_to_copy", "copy_"}:
        strangers = [tensor for tensor in tensors if not isinstance(tensor, _OnGpu) and tensor.ndim]
        if strangers:
            raise RuntimeError(f"{name} of tensors on {strangers[0].device} and {DEVICE}")
    precisions = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if name in _ONE_PRECISION and len(precisions) > 1:
        raise RuntimeError(f"{name} of {precisions}")
    generator = given.pop("generator", None)
    if generator is not None and generator.device.type != "cuda":
        raise RuntimeError(f"a generator of {generator.device} draws on {DEVICE}")


def _computed(func: Any, args: Sequence[Any], given: dict[str, Any]) -> Any:
    if "device" in given:
        given = given | {"device": _META}
    forms, named = pytree.tree_map_only(Tensor, _form, (tuple(args), given))
    made = pytree.tree_map_only(Tensor, _OnGpu, func(*forms, **named))
    return return_and_correct_aliasing(func, args, given, made)


def _form(tensor: Tensor) -> Tensor:
    return tensor.form if isinstance(tensor, _OnGpu) else tensor.to(_META) if tensor.ndim else tensor


class _Event:
    """Work is done as soon as it is handed out, and takes no time."""

    def __init__(self, *, enable_timing: bool = False) -> None:
        """As torch's own."""

    def record(self) -> None:
        return None

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        return None

    def elapsed_time(self, _end: _Event) -> float:
        return 0.0


class WaitsNoted(LocalRunContext):
    """`waits`: how often the host had waited for the device at each report, by stage."""

    def __init__(self, root: Path, gpu: AbsentGpu) -> None:
        super().__init__(root)
        self.waits: dict[str, list[int]] = defaultdict(list)
        self._gpu = gpu

    def report(self, done: float, total: float | None = None, *, stage: str = "", unit: str = "") -> None:
        self.waits[stage].append(self._gpu.waits)
        super().report(done, total, stage=stage, unit=unit)


def _plain_mode() -> AbstractContextManager[object]:
    """Inference mode hands over whole operations, and its tensors are no parents of a weight's view."""
    nothing: dict[str, Callable[..., None]] = {
        "__enter__": lambda _self: None,
        "__exit__": lambda _self, *_error: None,
    }
    return mock.patch.multiple(torch.inference_mode, **nothing)


@contextmanager
def absent_gpu() -> Iterator[AbsentGpu]:
    """While it lasts there is a device that computes nothing."""
    gpu = AbsentGpu()

    def wait(*_: object) -> None:
        gpu.waits += 1

    cuda: dict[str, Callable[..., Any] | type] = {
        "_lazy_init": lambda: None,
        "Event": _Event,
        "synchronize": wait,
        "mem_get_info": lambda *_: (MEMORY_BYTES, MEMORY_BYTES),
        "memory_reserved": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "is_bf16_supported": lambda: True,
    }
    lifts_late = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) shows its move
    try:
        with mock.patch.multiple(torch.cuda, **cuda), _plain_mode(), gpu:
            yield gpu
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts_late)
