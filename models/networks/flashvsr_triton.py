"""The block-sparse attention kernel: each program walks the kept key windows of one query window and head.

Softmax is taken on the way, with a running maximum and sum in float32 (FlashAttention's recurrence,
arXiv 2307.08691). Tensors are read through their strides, so no head is copied out. float32 inputs are
multiplied as three TF32 products each, which loses nothing that float32 would have kept.

On a GPU the kernel is compiled; tile, warps and stages are chosen by one measurement for each kind of input,
which Triton keeps on disk. In Triton's interpreter (TRITON_INTERPRET=1 before this module is imported) the
same code runs on a CPU.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from models.networks.flashvsr_windows import WINDOW_TOKENS

_LOG2_E = math.log2(math.e)
_IS_INTERPRETED = knobs.runtime.interpret
_CONFIGURATIONS = [
    triton.Config({"tile_keys": tile_keys}, num_warps=num_warps, num_stages=num_stages)
    for tile_keys, num_warps in ((32, 8), (64, 4), (64, 8), (WINDOW_TOKENS, 8))  # float32 needs the least
    for num_stages in (
        2,
        5,
    )  # 3 and 4 make the same code as 2: the tiles' places are read a stage before them
]


@triton.jit
def _multiplied(left: tl.tensor, right: tl.tensor, sums: tl.tensor, is_widened: tl.constexpr) -> tl.tensor:
    """Product and sums. The interpreter multiplies the bits of bfloat16, so there it is widened first."""
    if is_widened:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, sums, input_precision="tf32x3")


@triton.jit(do_not_specialize=["places_head", "places_query", "counts_head", "counts_query"])
def block_sparse(  # noqa: PLR0913, PLR0917 - a kernel's arguments are pointers and strides
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    result: tl.tensor,
    places: tl.tensor,
    counts: tl.tensor,
    query_row: int,
    query_head: int,
    key_row: int,
    key_head: int,
    value_row: int,
    value_head: int,
    result_row: int,
    result_head: int,
    places_head: int,
    places_query: int,
    counts_head: int,
    counts_query: int,
    scale: float,
    window: tl.constexpr,
    head_width: tl.constexpr,
    tile_keys: tl.constexpr,
    is_widened: tl.constexpr,
) -> None:
    """One program per query window and head, for the tensors of `attend`; `scale` holds log2 e, for exp2."""
    query, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    rows, tile_rows, columns = tl.arange(0, window), tl.arange(0, tile_keys), tl.arange(0, head_width)
    own = queries + (query * window + rows[:, None]) * query_row + head * query_head + columns[None, :]
    key_tile = keys + head * key_head + tile_rows[None, :] * key_row + columns[:, None]  # (d, tile)
    value_tile = values + head * value_head + tile_rows[:, None] * value_row + columns[None, :]  # (tile, d)
    kept = places + head * places_head + query * places_query
    tile_q, tiles = tl.load(own), window // tile_keys  # (window, d)
    peak = tl.full([window], float("-inf"), tl.float32)
    total = tl.zeros([window], tl.float32)
    sums = tl.zeros([window, head_width], tl.float32)
    for step in range(tl.load(counts + head * counts_head + query * counts_query) * tiles):
        first = tl.load(kept + step // tiles).to(tl.int64) * window + step % tiles * tile_keys
        nothing = tl.zeros([window, tile_keys], tl.float32)
        scores = _multiplied(tile_q, tl.load(key_tile + first * key_row), nothing, is_widened)
        higher = tl.maximum(peak, tl.max(scores, 1) * scale)
        shares = tl.exp2(scores * scale - higher[:, None])
        faded = tl.exp2(peak - higher)
        total = total * faded + tl.sum(shares, 1)
        tile_v = tl.load(value_tile + first * value_row)
        sums = _multiplied(shares.to(tile_v.dtype), tile_v, sums * faded[:, None], is_widened)
        peak = higher
    attended = sums / tl.where(total == 0, 1.0, total)[:, None]
    target = result + (query * window + rows[:, None]) * result_row + head * result_head + columns[None, :]
    tl.store(target, attended.to(tile_q.dtype))


def _launched() -> triton.runtime.KernelInterface:
    if _IS_INTERPRETED:
        return block_sparse
    return triton.autotune(_CONFIGURATIONS, key=["head_width"], cache_results=True)(block_sparse)


_LAUNCHED = _launched()
# The interpreter measures nothing; the compiler warns unless it is told whether to fuse multiplies and adds.
_GIVEN = {"tile_keys": 64} if _IS_INTERPRETED else {"enable_fp_fusion": True}


def attend(queries: Tensor, keys: Tensor, values: Tensor, places: Tensor, counts: Tensor) -> Tensor:
    """Queries (S, heads, d), keys and values (L, heads, d) to (S, heads, d); d is a power of two from 16 on.

    `places` (heads, S / 128, K) and `counts` (heads, S / 128), int32: the first `count` places are the
    numbers of the key windows, of all in L, that a query window attends to; none gives 0. Only the last axes
    of tensors and places must be contiguous. Everything is enqueued; nothing waits.
    """
    num_queries, heads, head_width = queries.shape
    result = queries.new_empty(queries.shape)
    strides = [stride for tensor in (queries, keys, values, result) for stride in tensor.stride()[:2]]
    # Triton launches on the current device; for tensors of a CPU nothing changes
    with torch.cuda.device_of(queries):  # type: ignore[no-untyped-call]
        _LAUNCHED[num_queries // WINDOW_TOKENS, heads](
            queries,
            keys,
            values,
            result,
            places,
            counts,
            *strides,
            *places.stride()[:2],
            *counts.stride(),
            _LOG2_E / math.sqrt(head_width),
            window=WINDOW_TOKENS,
            head_width=head_width,
            is_widened=_IS_INTERPRETED and queries.dtype == torch.bfloat16,
            **_GIVEN,
        )
    return result
