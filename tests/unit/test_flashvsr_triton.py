"""The block-sparse kernel is the reference: compiled where there is a GPU, else in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.networks.flashvsr_attention import masked, with_triton
from models.networks.flashvsr_windows import WINDOW_TOKENS

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton comes with CUDA builds of torch; on a CPU: pip install triton"
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BOUNDS = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}  # of results of about 1
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """Triton asks whether to interpret when it is first imported: without a GPU, in a process of its own."""
    if DEVICE.type == "cuda":
        yield with_triton
        return
    with ProcessPoolExecutor(1, get_context("spawn")) as child:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            child.submit(os.getpid).result()  # it has started
        yield lambda *given: child.submit(with_triton, *given).result()


def inputs(heads: int, num_queries: int, num_keys: int, width: int) -> tuple[list[Tensor], list[Tensor]]:
    """Queries, keys and values; and pairs, with where the windows are: backwards, after one of another layer.

    The first window of queries keeps nothing, the last everything.
    """
    generator = torch.Generator().manual_seed(num_keys)
    tensors = [
        torch.randn(n * WINDOW_TOKENS, heads, width, generator=generator).to(DEVICE)
        for n in (num_queries, num_keys + 1, num_keys + 1)
    ]
    kept = torch.rand(heads, num_queries, num_keys, generator=generator) < 0.4
    kept[0, -1], kept[0, 0] = True, False
    return tensors, [kept.to(DEVICE), torch.arange(num_keys, 0, -1, dtype=torch.int32, device=DEVICE)]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(
    "size",
    [(1, 1, 1, 128), (2, 2, 6, 128), (1, 6, 6, 128), (3, 2, 3, 16)],
    ids=["one window, nothing kept", "later chunk", "first chunk", "narrow heads"],
)
def test_the_kernel_is_the_reference(
    kernel: Kernel, size: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    tensors, pairs = inputs(*size)
    given = [tensor.to(dtype) for tensor in tensors]
    result = kernel(*given, *pairs)
    error = (result.float() - masked(*(tensor.float() for tensor in given), *pairs)).abs().max()
    print(f"{dtype}, {size}: off by {error:.1e}")  # noqa: T201 - the measured figure
    assert result.dtype == dtype
    assert error <= BOUNDS[dtype]
    assert not result[:WINDOW_TOKENS, 0].any()


def test_heads_may_lie_apart_in_memory(kernel: Kernel) -> None:
    tensors, pairs = inputs(2, 2, 3, 16)
    apart = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in tensors]
    assert torch.equal(kernel(*apart, *pairs), kernel(*tensors, *pairs))


def test_large_scores_do_not_overflow(kernel: Kernel) -> None:
    (queries, keys, values), pairs = inputs(1, 2, 3, 16)
    result = kernel(queries * 100, keys * 100, values, *pairs)
    assert (result - masked(queries * 100, keys * 100, values, *pairs)).abs().max() <= BOUNDS[torch.float32]


SHARED_BYTES = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10}  # that a block may ask for, by compute capability
_HEADS = (
    "query_head",
    "key_head",
    "value_head",
    "result_head",
)  # strides that are multiples of 16, as rows are


def compiled(number: str, tile_keys: int, capability: int) -> Any:
    """The kernel as such a GPU would get it, for heads 128 wide in rows of whole heads."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from models.networks.flashvsr_triton import block_sparse

    constants = {"window": WINDOW_TOKENS, "head_width": 128, "tile_keys": tile_keys, "is_widened": False}
    pointers = {name: f"*{number}" for name in ("queries", "keys", "values", "result")}
    types = (
        pointers
        | {"places": "*i32", "counts": "*i32", "scale": "fp32"}
        | dict.fromkeys(constants, "constexpr")
    )
    signature = {name: types.get(name, "i32") for name in block_sparse.arg_names}
    aligned = [kind[0] == "*" or name[-4:] == "_row" or name in _HEADS for name, kind in signature.items()]
    attributes = {(place,): [["tt.divisibility", 16]] for place, holds in enumerate(aligned) if holds}
    return triton.compile(
        ASTSource(block_sparse, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": 8, "num_stages": 2, "enable_fp_fusion": True},
    )


@pytest.mark.parametrize(
    ("number", "tile_keys", "capability", "instruction"),
    [
        ("bf16", 64, 90, "wgmma.mma_async"),
        ("fp32", 32, 90, "wgmma.mma_async"),
        ("bf16", 64, 89, "mma.sync"),
        ("bf16", 64, 80, "mma.sync"),
    ],
    ids=["H100", "H100, float32", "L4", "A100"],
)
def test_the_kernel_compiles_for_a_gpu_that_is_not_here(
    number: str,
    tile_keys: int,
    capability: int,
    instruction: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = compiled(number, tile_keys, capability)
    assert kernel.metadata.shared <= SHARED_BYTES[capability]
    assert instruction in kernel.asm["ptx"]
