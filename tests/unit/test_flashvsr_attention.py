from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.networks import flashvsr_attention as module
from models.networks.flashvsr_attention import BACKENDS, backend_for, kept_lists
from models.networks.flashvsr_windows import WINDOW_TOKENS

PORTABLE = ["masked", "gathered"]
EXACT = 1e-5
HALF = {torch.bfloat16: 2**-7, torch.float16: 2**-10}  # of results of about 1; measured 2e-3 and 2e-4


NUM_OTHERS = 2  # windows of keys that belong to another layer, and may be memory that nothing was written to


def inputs(heads: int, num_queries: int, num_keys: int, width: int) -> tuple[Tensor, ...]:
    """Queries, keys, values, pairs of which each is kept with even odds, and where the windows are.

    The first row keeps nothing. Keys and values are out of order, and no numbers beside them.
    """
    generator = torch.Generator().manual_seed(heads * num_keys)
    queries, keys, values = (
        torch.randn(n * WINDOW_TOKENS, heads, width, generator=generator)
        for n in (num_queries, num_keys + NUM_OTHERS, num_keys + NUM_OTHERS)
    )
    kept = torch.rand(heads, num_queries, num_keys, generator=generator) < 0.5
    kept[0, 0] = False
    places = torch.arange(num_keys + NUM_OTHERS).roll(-1).flip(0)
    for tensor in (keys, values):
        tensor.view(len(places), -1)[places[num_keys:]] = math.nan
    return queries, keys, values, kept, places[:num_keys].int()


def in_plain_numbers(queries: Tensor, keys: Tensor, values: Tensor, kept: Tensor, windows: Tensor) -> Tensor:
    """Softmax over the kept keys' tokens, in float64, a head and window at a time."""
    keys, values = (
        tensor.view(-1, WINDOW_TOKENS, *tensor.shape[1:])[windows.long()].flatten(0, 1)
        for tensor in (keys, values)
    )
    result = torch.zeros(queries.shape, dtype=torch.float64)
    for head, query in kept.any(dim=2).nonzero().tolist():
        rows = slice(query * WINDOW_TOKENS, (query + 1) * WINDOW_TOKENS)
        tokens = kept[head, query].repeat_interleave(WINDOW_TOKENS)
        chosen_keys, chosen_values = keys[tokens, head].double(), values[tokens, head].double()
        scores = queries[rows, head].double() @ chosen_keys.T / queries.shape[2] ** 0.5
        result[rows, head] = scores.softmax(dim=1) @ chosen_values
    return result


SIZES = pytest.mark.parametrize(
    "size", [(1, 1, 1, 16), (2, 3, 5, 128), (3, 6, 8, 32)], ids=["one", "published width", "several slices"]
)


@SIZES
@pytest.mark.parametrize("backend", PORTABLE)
def test_attention_is_softmax_over_the_kept_windows(backend: str, size: tuple[int, int, int, int]) -> None:
    given = inputs(*size)
    result = BACKENDS[backend](*given)
    assert (result - in_plain_numbers(*given)).abs().max() <= EXACT
    assert not result[:WINDOW_TOKENS, 0].any()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("backend", PORTABLE)
def test_attention_in_half_precision(backend: str, dtype: torch.dtype) -> None:
    queries, keys, values, *pairs = inputs(2, 3, 5, 128)
    result = BACKENDS[backend](queries.to(dtype), keys.to(dtype), values.to(dtype), *pairs)
    assert result.dtype == dtype
    assert (result - in_plain_numbers(queries, keys, values, *pairs)).abs().max() <= HALF[dtype] * 2


@pytest.mark.parametrize("backend", PORTABLE)
def test_no_pair_at_all_gives_nothing(backend: str) -> None:
    queries, keys, values, kept, windows = inputs(2, 2, 3, 16)
    assert not BACKENDS[backend](queries, keys, values, torch.zeros_like(kept), windows).any()


@pytest.mark.parametrize("backend", PORTABLE)
def test_what_may_be_copied_at_once_changes_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(2, 5, 4, 16)
    whole = BACKENDS[backend](*given)
    monkeypatch.setattr(module, "_COPY_BYTES", 1)
    assert (BACKENDS[backend](*given) - whole).abs().max() <= EXACT


@pytest.mark.parametrize("backend", PORTABLE)
def test_heads_may_lie_apart_in_memory(backend: str) -> None:
    *tensors, kept, windows = inputs(2, 2, 3, 16)
    apart = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in tensors]
    assert torch.equal(BACKENDS[backend](*apart, kept, windows), BACKENDS[backend](*tensors, kept, windows))


def test_lists_name_the_kept_windows_in_order() -> None:
    *_, kept, windows = inputs(3, 6, 8, 16)
    kept[1, 2] = True
    places, counts = kept_lists(kept, windows)
    for head, query in torch.cartesian_prod(torch.arange(3), torch.arange(6)).tolist():
        named = places[head, query, : counts[head, query]]
        assert named.tolist() == windows[kept[head, query]].tolist()
        assert (places[head, query, counts[head, query] :] == windows[0]).all()


def test_the_kernel_is_for_gpus_that_have_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend_for(torch.device("cpu")) == "gathered"
    for found, name in ((object(), "triton"), (None, "gathered")):
        monkeypatch.setattr(module, "find_spec", {"triton": found}.get)
        assert backend_for(torch.device("cuda")) == name
