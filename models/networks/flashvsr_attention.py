"""Attention over kept pairs of windows, in three ways that compute the same function.

Each takes queries (S, heads, d), keys and values (L, heads, d) in window order, `kept` (heads, S / 128, K)
bool and `windows` (K) int32, which says where the K windows are that may be kept: keys and values hold
others beside them, which are never read. It gives (S, heads, d); a query window that keeps nothing gives 0.

| name | how | for |
|---|---|---|
| `masked` | SDPA with the pairs spelt out token by token | the reference: exact, slow, and large |
| `gathered` | SDPA on the kept windows, gathered | any device that torch runs on |
| `triton` | a kernel that walks the list of kept windows | a GPU |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from models.networks.flashvsr_windows import WINDOW_TOKENS

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
_COPY_BYTES = 256 << 20  # what a backend may copy or spell out at once


def masked(queries: Tensor, keys: Tensor, values: Tensor, kept: Tensor, windows: Tensor) -> Tensor:
    """SDPA with a mask of all tokens, head by head and some windows of queries at a time."""
    result = torch.zeros_like(queries, memory_format=torch.contiguous_format)
    keys, values = (_windowed(tensor)[windows.long()].flatten(0, 1) for tensor in (keys, values))
    step = max(1, _COPY_BYTES // (WINDOW_TOKENS * len(keys) * queries.element_size()))
    for head, part in _parts(kept, step):
        pairs = kept[head, part]  # (windows, K)
        mask = pairs.repeat_interleave(WINDOW_TOKENS, 0).repeat_interleave(WINDOW_TOKENS, 1)
        rows = slice(part.start * WINDOW_TOKENS, part.stop * WINDOW_TOKENS)
        attended = F.scaled_dot_product_attention(
            queries[None, rows, head], keys[None, :, head], values[None, :, head], mask
        )[0]  # (windows * 128, d)
        result[rows, head] = torch.where(mask.any(dim=1, keepdim=True), attended, 0)
    return result


def gathered(queries: Tensor, keys: Tensor, values: Tensor, kept: Tensor, windows: Tensor) -> Tensor:
    """SDPA of each query window with copies of its kept windows, padded to the longest list beside it."""
    tensors = [_windowed(tensor) for tensor in (queries, keys, values)]
    result = torch.zeros_like(tensors[0], memory_format=torch.contiguous_format)  # (Q, 128, heads, d)
    places, counts = kept_lists(kept, windows)
    longest = max(1, int(counts.max()))
    window_bytes = WINDOW_TOKENS * queries.shape[-1] * queries.element_size()
    for head, part in _parts(kept, max(1, _COPY_BYTES // (2 * longest * window_bytes))):
        result[part, :, head] = _gathered_part(
            [tensor[:, :, head] for tensor in tensors], part, places[head, part], counts[head, part]
        )
    return result.flatten(0, 1)


def _gathered_part(windows: list[Tensor], part: slice, places: Tensor, counts: Tensor) -> Tensor:
    """Windows (n, 128, d) of one head; `places` (m, K) and `counts` (m) of the query windows in `part`."""
    queries, keys, values = windows
    longest = int(counts.max())
    if not longest:
        return torch.zeros_like(queries[part])
    is_real = torch.arange(longest, device=counts.device) < counts[:, None]  # (m, longest)
    chosen = places[:, :longest].long()
    mask = is_real.repeat_interleave(WINDOW_TOKENS, dim=1)[:, None]  # (m, 1, longest * 128)
    attended = F.scaled_dot_product_attention(
        queries[part],
        keys[chosen].flatten(1, 2),
        values[chosen].flatten(1, 2),
        mask.expand(-1, WINDOW_TOKENS, -1),
    )  # (m, 128, d)
    # what SDPA makes of a row without a key is each device's own affair
    return torch.where((counts > 0)[:, None, None], attended, 0)


def with_triton(queries: Tensor, keys: Tensor, values: Tensor, kept: Tensor, windows: Tensor) -> Tensor:
    """The block-sparse kernel."""
    from models.networks.flashvsr_triton import attend  # noqa: PLC0415 - Triton comes with CUDA builds only

    return attend(queries, keys, values, *kept_lists(kept, windows))


def kept_lists(kept: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """`kept` as lists: places (heads, Q, K) and counts (heads, Q), int32.

    A list's first `count` places are those of the kept windows, in the order of `windows`; the rest are the
    first window's, which may be read. Nothing waits for the device.
    """
    num_keys = kept.shape[-1]
    order = kept.cumsum(dim=-1, dtype=torch.int32)
    spare = torch.full_like(order, num_keys)  # where places of windows that are not kept are written
    targets = torch.where(kept, order - 1, spare).long()
    places = windows[0].expand(*kept.shape[:-1], num_keys + 1).clone()
    places.scatter_(-1, targets, windows.expand_as(kept))
    return places[..., :num_keys], order[..., -1]


def _windowed(tokens: Tensor) -> Tensor:
    """(n * 128, heads, d) to (n, 128, heads, d)."""
    return tokens.view(-1, WINDOW_TOKENS, *tokens.shape[1:])


def _parts(kept: Tensor, step: int) -> Iterator[tuple[int, slice]]:
    """Each head with runs of at most `step` query windows."""
    heads, num_queries = kept.shape[:2]
    for head in range(heads):
        for start in range(0, num_queries, step):
            yield head, slice(start, min(start + step, num_queries))


BACKENDS: Mapping[str, Attention] = MappingProxyType(
    {"masked": masked, "gathered": gathered, "triton": with_triton}
)


def backend_for(device: torch.device) -> str:
    """The name of the fastest one that runs there."""
    return "triton" if device.type == "cuda" and find_spec("triton") is not None else "gathered"
