from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from models.networks.flashvsr_windows import (
    KEPT_SLICES,
    WINDOW_TOKENS,
    KeyArena,
    KeySlices,
    WindowGrid,
    kept_pairs,
    window_means,
)

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_window_is_two_frames_of_eight_by_eight_tokens() -> None:
    frames, height, width = 4, 16, 24
    places = torch.stack(torch.meshgrid(*map(torch.arange, (frames, height, width)), indexing="ij"), dim=-1)
    grid = WindowGrid.of(height, width)
    ordered = grid.to_windows(places)
    for number, window in enumerate(ordered.view(-1, WINDOW_TOKENS, 3)):
        slice_number, place = divmod(number, grid.count)
        row, column = divmod(place, grid.columns)
        corner = [2 * slice_number, 8 * row, 8 * column]
        expected = [
            [corner[0] + f, corner[1] + y, corner[2] + x] for f, y, x in product(range(2), range(8), range(8))
        ]
        assert window.tolist() == expected
    assert torch.equal(grid.from_windows(ordered), places)


@pytest.mark.parametrize("side", [0, 4, 12, 20])
def test_a_size_of_broken_windows_is_refused(side: int) -> None:
    with pytest.raises(ValueError, match="windows of 8"):
        WindowGrid.of(16, side)


@pytest.mark.parametrize("local_range", [1, 2, 3, 8, 9, 11])
def test_a_neighbourhood_is_centred_and_loses_what_lies_beyond_a_border(local_range: int) -> None:
    grid = WindowGrid(6, 11)
    before = local_range // 2
    near = grid.neighbours(local_range, CPU)
    for query, key in product(range(grid.count), repeat=2):
        gaps = (a - b for a, b in zip(divmod(key, 11), divmod(query, 11), strict=True))
        assert bool(near[query, key]) == all(-before <= gap < local_range - before for gap in gaps)


@pytest.mark.parametrize("sparse_ratio", [1.0, 1.5, 1.9, 2.0, 4.0])
@pytest.mark.parametrize("size_px", [(128, 128), (768, 1408), (1024, 1920), (1536, 2560)], ids=str)
def test_the_pairs_kept_are_sixty_windows_for_each_at_a_ratio_of_one(
    size_px: tuple[int, int], sparse_ratio: float
) -> None:
    grid = WindowGrid.of(size_px[0] // 16, size_px[1] // 16)
    assert grid.most_kept(sparse_ratio) == pytest.approx(60 * sparse_ratio * grid.count - 1, abs=1)


def test_settings_that_keep_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="keeps nothing"):
        WindowGrid(1, 1).most_kept(0.01)
    with pytest.raises(ValueError, match="holds none"):
        WindowGrid(1, 1).neighbours(0, CPU)


def pairs_one_by_one(queries: Tensor, keys: Tensor, near: Tensor, most: int) -> Tensor:
    """The rule in plain numbers, a pair at a time."""
    windows, heads = len(near), queries.shape[1]
    kept = torch.zeros(heads, len(queries), len(keys), dtype=torch.bool)
    for head, first in product(range(heads), range(0, len(queries), windows)):
        shares = {}
        for query in range(first, first + windows):
            allowed = [key for key in range(len(keys)) if near[query - first, key % windows]]
            dots = [float(queries[query, head] @ keys[key, head]) for key in allowed]
            powers = [math.exp(dot / math.sqrt(queries.shape[2])) for dot in dots]
            shares.update(
                {(query, key): power / sum(powers) for key, power in zip(allowed, powers, strict=True)}
            )
        num_pairs = windows * len(keys)
        ranked = sorted(shares.values(), reverse=True) + [0.0] * (num_pairs - len(shares))
        least = ranked[min(most, num_pairs - 1)]
        for (query, key), share in shares.items():
            kept[head, query, key] = share > least
    return kept


@pytest.mark.parametrize("most", [1, 7, 40, 10_000])
@pytest.mark.parametrize("local_range", [1, 2, 3, 11])
@pytest.mark.parametrize("slices", [(3, 3), (1, 4), (1, 1)], ids=["first chunk", "later chunk", "one slice"])
def test_pairs_are_kept_by_the_rule(slices: tuple[int, int], local_range: int, most: int) -> None:
    grid = WindowGrid(2, 3)
    queries, keys = (
        noise(n * grid.count, 2, 16, seed=seed) for seed, n in enumerate(slices)
    )  # (windows, heads, d)
    near = grid.neighbours(local_range, CPU)
    kept = kept_pairs(queries, keys, near, most)
    assert torch.equal(kept, pairs_one_by_one(queries, keys, near, most))


def test_the_least_pair_goes_even_where_all_are_allowed() -> None:
    grid = WindowGrid(2, 2)
    kept = kept_pairs(noise(4, 3, 16), noise(16, 3, 16, seed=1), grid.neighbours(11, CPU), 10_000)
    assert kept.sum(dim=(1, 2)).tolist() == [4 * 16 - 1] * 3


def test_equals_of_the_last_pair_go_together() -> None:
    grid = WindowGrid(2, 2)
    same = torch.ones(4, 1, 16)
    assert not kept_pairs(same, same, grid.neighbours(11, CPU), 5).any()


@pytest.mark.parametrize(
    ("size_px", "density"), [((768, 1408), 0.4545), ((1536, 2560), 0.125)], ids=["768x1408", "1536x2560"]
)
def test_density_at_a_ratio_of_two(size_px: tuple[int, int], density: float) -> None:
    grid = WindowGrid.of(size_px[0] // 16, size_px[1] // 16)
    queries, keys = noise(grid.count, 2, 32), noise(KEPT_SLICES * grid.count, 2, 32, seed=1)
    most = grid.most_kept(2.0)
    kept = kept_pairs(queries, keys, grid.neighbours(11, CPU), most)
    density_found, a_window = float(kept.float().mean()), float(kept.sum()) / (2 * grid.count)
    print(f"{size_px}: {density_found:.4f} of all pairs, {a_window:.1f} a window")  # noqa: T201 - the figure
    assert kept.sum(dim=(1, 2)).tolist() == [most] * 2
    assert density_found == pytest.approx(density, abs=1e-3)


def test_layers_remember_three_slices_and_see_four_in_memory_for_three_and_one_more() -> None:
    grid, num_layers = WindowGrid(1, 2), 3
    arena = KeyArena(grid, num_layers, 2, 8, torch.empty(0))
    memory = (arena.keys, arena.values, arena.means)
    told = noise(10, num_layers, 2, grid.tokens, 2, 8)  # (slices, layers, keys and values, tokens, heads, d)
    layers = [KeySlices(arena) for _ in range(num_layers)]
    seen = []
    for chunk in ([0, 1, 2], *([number] for number in range(3, 10))):
        seen = [*seen, *chunk][-KEPT_SLICES:]
        for number, layer in enumerate(layers):
            layer.push(*told[chunk, number].transpose(0, 1).flatten(1, 2))
            places = layer.windows.long()
            for tensor, kind in ((arena.keys, 0), (arena.values, 1)):
                found = tensor.view(-1, WINDOW_TOKENS, 2, 8)[places].flatten(0, 1)
                assert torch.equal(found, told[seen, number, kind].flatten(0, 1)), "the oldest first"
            assert torch.equal(layer.means, window_means(told[seen, number, 0].flatten(0, 1)))
            layer.forget()
    assert all(now is then for now, then in zip((arena.keys, arena.values, arena.means), memory, strict=True))
    assert len(arena.keys) == (3 * num_layers + 1) * grid.tokens
