from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.networks import flashvsr_projector
from models.networks.flashvsr_projector import CausalConv, Projector
from tests.flashvsr_tiny import TINY, fill

HEIGHT_PX, WIDTH_PX = 48, 32
FRAMES = 25  # a first chunk: one that primes, and six times four
BOTH_RULES = pytest.mark.parametrize("is_causal", [False, True], ids=["v1", "v1.1"])


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return torch.rand(1, 3, FRAMES, HEIGHT_PX, WIDTH_PX, generator=torch.Generator().manual_seed(1)) * 2 - 1


def projector_of(*, is_causal: bool) -> Projector:
    projector = Projector(TINY, is_causal=is_causal)
    fill(projector)
    return projector


def tokens_of(clip: Tensor, *, is_causal: bool) -> Tensor:
    tokens = projector_of(is_causal=is_causal).stream().push(clip)
    assert tokens is not None
    return tokens


def published_tokens(projector: Projector, clip: Tensor) -> Tensor:
    """The published stream, call by call, with torch's own convolution and normalisation."""
    caches: dict[str, Tensor | None] = {"1": None, "2": None}

    def convolved(name: str, frames: Tensor) -> Tensor:
        tail = frames[:, :, -2:]
        if not projector.is_causal:
            caches[name] = tail  # v1: the block sees its own frames
        past, caches[name] = caches[name], tail
        behind = 2
        if past is not None:
            frames, behind = torch.cat([past, frames], dim=2), 0
        conv, norm = getattr(projector, f"conv{name}"), getattr(projector, f"norm{name}")
        padded = F.pad(frames, (1, 1, 1, 1, behind, 0), mode="replicate")
        result = F.conv3d(padded, conv.weight, conv.bias, stride=(2, 1, 1))
        return F.silu(F.normalize(result, dim=1) * len(conv.bias) ** 0.5 * norm.gamma)

    groups = [clip[:, :, :1].repeat(1, 1, 4, 1, 1), *clip[:, :, 1:].split(4, dim=2)]
    tokens = []
    for number, frames in enumerate(groups):
        pixels = F.pixel_unshuffle(frames[0].transpose(0, 1), 16).transpose(0, 1)[None]  # (1, 768, 4, h, w)
        halved = convolved("1", pixels)
        if number == 0:
            caches["2"] = halved[:, :, -2:]
            continue
        features = convolved("2", halved).flatten(2).transpose(1, 2)  # (1, h * w, second width)
        tokens.append(projector.linear_layers[0](features))
    return torch.cat(tokens, dim=1)


@BOTH_RULES
@pytest.mark.parametrize(
    "pushes",
    [[25], [1] + [4] * 6, [25 - 16, 8, 8], [1, 24], [13, 4, 8]],
    ids=["all at once", "as published", "first chunk and two", "primed", "uneven"],
)
def test_a_stream_gives_the_published_tokens_however_it_is_cut(
    clip: Tensor, is_causal: bool, pushes: list[int]
):
    projector = projector_of(is_causal=is_causal)
    stream = projector.stream()

    made = [stream.push(frames) for frames in clip.split(pushes, dim=2)]

    assert [tokens is None for tokens in made] == [count == 1 for count in pushes]
    tokens = torch.cat([tokens for tokens in made if tokens is not None], dim=1)
    assert tokens.shape == (1, 6 * (HEIGHT_PX // 16) * (WIDTH_PX // 16), TINY.width)
    torch.testing.assert_close(tokens, published_tokens(projector, clip), atol=1e-5, rtol=0)


def test_the_two_rules_differ(clip: Tensor):
    v1, v1_1 = (tokens_of(clip, is_causal=rule) for rule in (False, True))

    assert (v1 - v1_1).abs().mean() > 0.1 * v1_1.abs().mean()


@BOTH_RULES
def test_a_latent_frame_knows_nothing_of_later_ones(clip: Tensor, is_causal: bool):
    changed = clip.clone()
    changed[:, :, 17:] = 0

    before, after = (tokens_of(frames, is_causal=is_causal) for frames in (clip, changed))

    tokens_per_frame = (HEIGHT_PX // 16) * (WIDTH_PX // 16)
    same = torch.isclose(before, after, atol=1e-6).all(dim=2).view(6, tokens_per_frame).all(dim=1)
    assert same.tolist() == [True] * 4 + [False] * 2


def test_streams_do_not_know_each_other(clip: Tensor):
    projector = projector_of(is_causal=True)
    first, second = projector.stream(), projector.stream()

    alone = projector.stream().push(clip)
    for frames in clip.flip(2).split([9, 16], dim=2):
        first.push(frames)
    torch.testing.assert_close(second.push(clip), alone)


@pytest.mark.parametrize("patch_bytes", [1, 30_000, 1 << 30], ids=["row by row", "two rows", "at once"])
@pytest.mark.parametrize("frames", [2, 4, 8])
@pytest.mark.parametrize("is_arranged", [False, True], ids=["as loaded", "arranged"])
def test_patches_and_a_product_are_the_convolution(
    monkeypatch: pytest.MonkeyPatch, patch_bytes: int, frames: int, is_arranged: bool
):
    monkeypatch.setattr(flashvsr_projector, "_PATCH_BYTES", patch_bytes)
    conv = CausalConv(6, 10)
    fill(conv)
    if is_arranged:
        conv.arrange()
        flat = conv.weight.permute(0, 2, 3, 4, 1)
        assert flat.is_contiguous()  # so `forward` does not copy it
    inputs = torch.randn(2 + frames, 5, 7, 6, generator=torch.Generator().manual_seed(2))

    result = conv(inputs[:2], inputs[2:])

    padded = F.pad(inputs.permute(3, 0, 1, 2)[None], (1, 1, 1, 1, 0, 0), mode="replicate")
    expected = F.conv3d(padded, conv.weight, conv.bias, stride=(2, 1, 1))[0].permute(1, 2, 3, 0)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_a_dark_and_still_clip_gives_numbers():
    """A norm of zeros is zeros."""
    assert tokens_of(torch.zeros(1, 3, 9, 16, 16), is_causal=True).isfinite().all()


def test_half_precision_stays_near(clip: Tensor):
    exact = tokens_of(clip, is_causal=True)

    coarse = projector_of(is_causal=True).to(torch.bfloat16).stream().push(clip.to(torch.bfloat16))

    assert coarse is not None
    assert coarse.dtype == torch.bfloat16
    error = (coarse.float() - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()
    print(f"bf16 projector: relative error {error:.4f}")  # noqa: T201 - the score
    assert error < 0.02
