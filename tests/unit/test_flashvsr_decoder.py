from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.networks import flashvsr_decoder
from models.networks.flashvsr_decoder import TinyDecoder
from tests.flashvsr_tiny import TINY, fill

LATENTS = 6
HEIGHT, WIDTH = 3, 4  # of the latents
FRAMES = 4 * LATENTS - 3


@pytest.fixture(scope="module")
def decoder() -> TinyDecoder:
    decoder = TinyDecoder(TINY)
    fill(decoder)
    return decoder


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(1, 16, LATENTS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def frames() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(1, 3, FRAMES, 8 * HEIGHT, 8 * WIDTH, generator=generator) * 2 - 1


def published_pictures(decoder: TinyDecoder, latents: Tensor, frames: Tensor) -> Tensor:
    """The whole clip at once, layer by layer in the order of the published file, enlarged before it grows."""
    padded = torch.cat([frames[:, :, :1].repeat(1, 1, 3, 1, 1), frames], dim=2)[0]  # (3, 4 n, H, W)
    blocks = padded.view(3, LATENTS, 4, HEIGHT, 8, WIDTH, 8)
    condition = torch.einsum("cnfhywx->ncfyxhw", blocks).reshape(LATENTS, 768, HEIGHT, WIDTH)
    x = torch.tanh(torch.cat([condition, latents[0].transpose(0, 1)], dim=1) / 3) * 3
    weights = decoder.state_dict()

    def conv(x: Tensor, name: str) -> Tensor:
        weight = weights[f"decoder.{name}.weight"]
        bias = weights.get(f"decoder.{name}.bias")
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    for number in range(1, 27):
        if number in (2, 4, 23, 25):
            x = F.relu(x)
        elif number in (8, 14, 20):
            x = F.interpolate(x, scale_factor=2)
        elif number in (9, 15, 21):
            x = conv(x, f"{number}.conv").reshape(-1, *x.shape[1:])
        elif f"decoder.{number}.conv.0.weight" in weights:
            past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
            hidden = F.relu(conv(torch.cat([x, past], dim=1), f"{number}.conv.0"))
            x = F.relu(conv(F.relu(conv(hidden, f"{number}.conv.2")), f"{number}.conv.4") + x)
        else:
            x = conv(x, str(number))
    return (x[3:] * 2 - 1).transpose(0, 1)[None]


@pytest.mark.parametrize("call_values", [1, 20_000, 1 << 30], ids=["frame by frame", "a few", "at once"])
@pytest.mark.parametrize(
    "pushes", [[6], [1] * 6, [2, 2, 2], [1, 5], [3, 1, 2]], ids=lambda counts: "+".join(map(str, counts))
)
def test_a_stream_gives_the_pictures_of_the_whole_clip_however_it_is_cut(
    decoder: TinyDecoder,
    latents: Tensor,
    frames: Tensor,
    pushes: list[int],
    call_values: int,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(flashvsr_decoder, "DECODER_CALL_VALUES", call_values)
    stream = decoder.stream()
    counts = [4 * count - 3 * (number == 0) for number, count in enumerate(pushes)]

    parts = [
        stream.push(some, of_them)
        for some, of_them in zip(latents.split(pushes, dim=2), frames.split(counts, dim=2), strict=True)
    ]

    assert [part.shape[2] for part in parts] == counts
    pictures = torch.cat(parts, dim=2)
    assert pictures.shape == frames.shape
    expected = published_pictures(decoder, latents, frames)
    assert expected.std() > 0.1
    torch.testing.assert_close(pictures, expected, atol=1e-5, rtol=0)


def test_a_picture_knows_nothing_of_later_ones(decoder: TinyDecoder, latents: Tensor, frames: Tensor):
    changed_latents, changed_frames = latents.clone(), frames.clone()
    changed_latents[:, :, 4:], changed_frames[:, :, 13:] = 0, 0

    before = decoder.stream().push(latents, frames)
    after = decoder.stream().push(changed_latents, changed_frames)

    torch.testing.assert_close(before[:, :, :13], after[:, :, :13], atol=1e-6, rtol=0)
    assert (before[:, :, 13:] - after[:, :, 13:]).abs().amax(dim=(0, 1, 3, 4)).min() > 1e-3


def test_pictures_follow_the_condition_and_the_latents(decoder: TinyDecoder, latents: Tensor, frames: Tensor):
    plain = decoder.stream().push(latents, frames)

    for other in (
        decoder.stream().push(latents, frames.flip(3)),
        decoder.stream().push(latents.flip(3), frames),
    ):
        assert (plain - other).abs().mean() > 1e-3


def test_arranged_weights_give_the_same(decoder: TinyDecoder, latents: Tensor, frames: Tensor):
    plain = decoder.stream().push(latents, frames)
    arranged = TinyDecoder(TINY)
    arranged.load_state_dict(decoder.state_dict())
    arranged.arrange()

    torch.testing.assert_close(arranged.stream().push(latents, frames), plain, atol=1e-5, rtol=0)


def test_half_precision_stays_near(decoder: TinyDecoder, latents: Tensor, frames: Tensor):
    exact = decoder.stream().push(latents, frames)
    coarse = TinyDecoder(TINY).to(torch.bfloat16)
    coarse.load_state_dict(decoder.state_dict())

    pictures = coarse.stream().push(latents.bfloat16(), frames.bfloat16())

    assert pictures.dtype == torch.bfloat16
    error = (pictures.float() - exact).pow(2).mean().sqrt()
    print(f"bf16 decoder: error {error:.4f} of 2")  # noqa: T201 - the score
    assert error < 0.02
