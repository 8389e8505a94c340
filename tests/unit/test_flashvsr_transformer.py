"""The stream of chunks against diffusers' whole Wan transformer, which sees the clip at once."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor
from torch.nn import functional as F

from models.flashvsr.manifest import transformer_shapes
from models.networks import flashvsr_transformer as module
from models.networks.flashvsr_config import FULL, FlashVsrConfig
from models.networks.flashvsr_transformer import FlashVsrTransformer, TransformerStream, rotations
from models.networks.flashvsr_windows import WINDOW_TOKENS, WindowGrid, kept_pairs
from tests.flashvsr_tiny import TINY, seeded

CPU = torch.device("cpu")
SIDE = 16  # tokens: four windows in a slice
LATER_CHUNKS = 3
FRAMES = 6 + 2 * LATER_CHUNKS
Kept = Callable[[Tensor, Tensor], Tensor]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole_model(config: FlashVsrConfig) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_width,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        text_dim=config.text_width,
        freq_dim=config.time_width,
        ffn_dim=config.feed_forward_width,
        num_layers=config.layers,
    )


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return convert_wan_transformer_to_diffusers(seeded(transformer_shapes(TINY)))


@pytest.fixture(scope="module")
def network(weights: dict[str, Tensor]) -> FlashVsrTransformer:
    network = FlashVsrTransformer(TINY)
    network.load_state_dict(weights)
    return network.eval()


@pytest.fixture(scope="module")
def prompt() -> Tensor:
    return noise(1, TINY.text_tokens, TINY.text_width, seed=1)


def frames_of(chunk: int) -> slice:
    return slice(0, 6) if chunk == 0 else slice(4 + 2 * chunk, 6 + 2 * chunk)


def streamed(stream: TransformerStream, latents: Tensor, projected: Tensor, chunks: range) -> list[Tensor]:
    """Predictions (1, 16, f, h, w); `projected` is (frames, tokens, C)."""
    return [
        stream.step(latents[:, :, frames_of(chunk)], projected[frames_of(chunk)].flatten(0, 1)[None], chunk)
        for chunk in chunks
    ]


def started(
    network: FlashVsrTransformer, prompt: Tensor, side: int = SIDE, **settings: object
) -> TransformerStream:
    chosen = {"sparse_ratio": 2.0, "local_range": 11, "backend": "gathered"} | settings
    return network.start(prompt, side, side, **chosen)


# --- the clip at once: tokens frame by frame, row by row; attention spelt out


def windows_of(num_frames: int, side: int) -> Tensor:
    """The number of each token's window, slice by slice: (frames * side * side)."""
    frame, row, column = torch.meshgrid(
        torch.arange(num_frames), torch.arange(side), torch.arange(side), indexing="ij"
    )
    per_side = side // 8
    return (frame // 2 * per_side**2 + row // 8 * per_side + column // 8).flatten()


def visible(query_slice: int) -> list[int]:
    return [0, 1, 2] if query_slice < 3 else list(range(query_slice - 3, query_slice + 1))


class Everything:
    """Each token sees all tokens of the slices that its chunk sees."""

    def __init__(self, num_frames: int, side: int) -> None:
        slices = windows_of(num_frames, side) // (side // 8) ** 2
        sees = torch.zeros(num_frames // 2, num_frames // 2, dtype=torch.bool)
        for number in range(num_frames // 2):
            sees[number, visible(number)] = True
        self._kept = sees[slices][:, slices]

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self._kept


class Sparse:
    """Each window sees the windows that the rule keeps, chosen slice by slice."""

    def __init__(self, num_frames: int, side: int, sparse_ratio: float, local_range: int) -> None:
        self._windows = windows_of(num_frames, side)
        self._num_slices = num_frames // 2
        grid = WindowGrid.of(side, side)
        self._a_slice = grid.count
        self._near, self._most = grid.neighbours(local_range, CPU), grid.most_kept(sparse_ratio)

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(S, heads, d) each to (heads, S, S) bool."""
        numbers = range(self._num_slices * self._a_slice)
        query_means, key_means = (
            torch.stack([tensor[self._windows == number].mean(dim=0) for number in numbers])
            for tensor in (queries, keys)
        )
        kept = torch.zeros(queries.shape[1], len(numbers), len(numbers), dtype=torch.bool)
        for number in range(self._num_slices):
            own = self._of_slices([number])
            seen = self._of_slices(visible(number))
            pairs = kept_pairs(query_means[own], key_means[seen], self._near, self._most)
            for (row, query), (column, key) in product(enumerate(own), enumerate(seen)):
                kept[:, query, key] = pairs[:, row, column]
        return kept[:, self._windows][:, :, self._windows]

    def _of_slices(self, slices: list[int]) -> list[int]:
        return [number * self._a_slice + place for number in slices for place in range(self._a_slice)]


class SpeltOut(WanAttnProcessor):
    """Self-attention with every pair of tokens named."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self._kept = kept

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        queries, keys, values = (
            tensor.unflatten(2, (attn.heads, -1))
            for tensor in (
                attn.norm_q(attn.to_q(hidden_states)),
                attn.norm_k(attn.to_k(hidden_states)),
                attn.to_v(hidden_states),
            )
        )
        queries, keys = turned(queries, *rotary_emb), turned(keys, *rotary_emb)
        mask = self._kept(queries[0], keys[0])
        attended = F.scaled_dot_product_attention(
            *(tensor.transpose(1, 2) for tensor in (queries, keys, values)), mask
        )
        attended = attended.where(mask.any(dim=-1, keepdim=True), 0)
        return attn.to_out[0](attended.transpose(1, 2).flatten(2))


def turned(tokens: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    even, odd = tokens.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = cosines[..., ::2], sines[..., ::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)


def at_once(
    weights: dict[str, Tensor], prompt: Tensor, latents: Tensor, projected: Tensor, kept: Kept
) -> Tensor:
    model = whole_model(TINY).eval()
    model.load_state_dict(weights)
    for block in model.blocks:
        block.attn1.set_processor(SpeltOut(kept))
    tokens = projected.flatten(0, 1).T[None]  # (1, C, S)
    model.patch_embedding.register_forward_hook(
        lambda _module, _inputs, output: output + tokens.view_as(output)
    )
    with torch.no_grad():
        return model(latents, torch.tensor([1000.0]), prompt, return_dict=False)[0]


def everything(queries: Tensor, keys: Tensor, values: Tensor, _kept: Tensor, windows: Tensor) -> Tensor:
    """A backend that leaves none of its windows out."""
    keys, values = (
        tensor.view(-1, WINDOW_TOKENS, *tensor.shape[1:])[windows.long()].flatten(0, 1)
        for tensor in (keys, values)
    )
    heads_first = (tensor.transpose(0, 1)[None] for tensor in (queries, keys, values))
    return F.scaled_dot_product_attention(*heads_first)[0].transpose(0, 1).contiguous()


# --- tests


@pytest.mark.parametrize("config", [TINY, FULL], ids=["tiny", "published"])
def test_parameters_are_those_of_diffusers(config: FlashVsrConfig) -> None:
    with torch.device("meta"):
        ours, theirs = FlashVsrTransformer(config), whole_model(config)
    shapes, expected = (
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} for model in (ours, theirs)
    )
    assert shapes == expected


def test_chunks_are_the_whole_clip(
    network: FlashVsrTransformer,
    weights: dict[str, Tensor],
    prompt: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latents, projected = noise(1, 16, FRAMES, 2 * SIDE, 2 * SIDE), noise(FRAMES, SIDE**2, TINY.width, seed=2)
    monkeypatch.setattr(module, "BACKENDS", {"everything": everything})
    stream = started(network, prompt, backend="everything")
    made = torch.cat(streamed(stream, latents, projected, range(1 + LATER_CHUNKS)), dim=2)
    expected = at_once(weights, prompt, latents, projected, Everything(FRAMES, SIDE))
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("backend", "local_range"), [("masked", 11), ("gathered", 11), ("gathered", 2), ("gathered", 1)]
)
def test_sparse_chunks_are_the_whole_clip(
    network: FlashVsrTransformer, weights: dict[str, Tensor], prompt: Tensor, backend: str, local_range: int
) -> None:
    latents, projected = noise(1, 16, FRAMES, 2 * SIDE, 2 * SIDE), noise(FRAMES, SIDE**2, TINY.width, seed=2)
    stream = started(network, prompt, sparse_ratio=0.08, local_range=local_range, backend=backend)
    made = torch.cat(streamed(stream, latents, projected, range(1 + LATER_CHUNKS)), dim=2)
    expected = at_once(weights, prompt, latents, projected, Sparse(FRAMES, SIDE, 0.08, local_range))
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_stream_that_began_late_becomes_the_stream_that_did_not(
    network: FlashVsrTransformer, prompt: Tensor
) -> None:
    chunks = range(2 + 3 * TINY.layers + 2)
    num_frames = frames_of(chunks[-1]).stop
    latents, projected = noise(1, 16, num_frames, 16, 16), noise(num_frames, 64, TINY.width, seed=2)
    whole = streamed(started(network, prompt, 8), latents, projected, chunks)
    late = streamed(started(network, prompt, 8), latents, projected, chunks[2:])
    differences = [float((a - b).abs().max()) for a, b in zip(whole[2:], late, strict=True)]
    assert min(differences[:3]) > 1e-3
    assert max(differences[3 * TINY.layers :]) <= 1e-4


def test_bfloat16_is_near(
    network: FlashVsrTransformer, weights: dict[str, Tensor], prompt: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = FlashVsrTransformer(TINY).to(torch.bfloat16).eval()
    half.load_state_dict(weights)
    latents, projected = noise(1, 16, 8, 2 * SIDE, 2 * SIDE), noise(8, SIDE**2, TINY.width, seed=2)
    monkeypatch.setattr(module, "BACKENDS", {"everything": everything})
    near, exact = (
        torch.cat(
            streamed(started(which, prompt, backend="everything"), latents, projected.to(dtype), range(2)),
            dim=2,
        )
        for which, dtype in ((half, torch.bfloat16), (network, torch.float32))
    )
    assert near.dtype == torch.bfloat16
    error = float((near - exact).norm() / exact.norm())
    print(f"off by {error:.1%}")  # noqa: T201 - the measured figure
    assert error <= 0.03


def live_tensors() -> tuple[int, int]:
    """How many, and their elements."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if type(found) is Tensor]
    return len(tensors), sum(tensor.numel() for tensor in tensors)


def test_a_stream_holds_no_more_after_many_chunks(network: FlashVsrTransformer, prompt: Tensor) -> None:
    latents, projected = noise(1, 16, 6, 16, 16), noise(6, 64, TINY.width, seed=2)
    stream = started(network, prompt, 8)
    stream.step(latents, projected.flatten(0, 1)[None], 0)
    held = live_tensors()
    for chunk in range(1, 30):
        stream.step(latents[:, :, :2], projected[:2].flatten(0, 1)[None], chunk)
    assert live_tensors() == held


@pytest.mark.parametrize(
    ("seen", "chunk", "num_frames"),
    [(0, 0, 2), (1, 1, 6), (1, 0, 6), (1, 2, 2)],
    ids=["short first", "long second", "the first again", "the second left out"],
)
def test_a_chunk_of_another_place_or_length_is_refused(
    network: FlashVsrTransformer, prompt: Tensor, seen: int, chunk: int, num_frames: int
) -> None:
    stream = started(network, prompt, 8)
    streamed(stream, noise(1, 16, 6, 16, 16), noise(6, 64, TINY.width), range(seen))
    with pytest.raises(ValueError, match="is not chunk"):
        stream.step(noise(1, 16, num_frames, 16, 16), noise(1, num_frames * 64, TINY.width), chunk)


def test_positions_stay_true_far_into_a_clip() -> None:
    grid = WindowGrid(1, 1)
    near, far = (rotations(FULL, grid, range(first, first + 2), CPU) for first in (0, 1_000_000))
    between = far[0].conj() * far[64]  # the same token, a frame later
    assert near.shape == (128, 1, FULL.head_width // 2)
    assert (between - near[0].conj() * near[64]).abs().max() <= 1e-6
    angle = math.remainder(1_000_000.0, 2 * math.pi)
    assert complex(far[0, 0, 0]) == pytest.approx(complex(math.cos(angle), math.sin(angle)), abs=1e-6)
