"""Colours come from the low-quality frames, structure from the network."""

from __future__ import annotations

import pytest
import torch

from models.flashvsr.color import COLOR_FIXES, adain, wavelet
from models.flashvsr.tone import Tone, is_hdr, shown_color
from models.media import BT601, BT709, Color


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    made = torch.rand(3, 3, 72, 88, generator=generator) * 0.6 - 0.2
    reference = (
        torch.rand(3, 3, 72, 88, generator=generator) * torch.tensor([0.2, 0.5, 0.9])[:, None, None, None]
    )
    return made, reference - 0.4


def test_adain_gives_each_channel_of_each_frame_the_references_mean_and_deviation(pair):
    made, reference = pair
    fixed = adain(made, reference)
    assert torch.allclose(fixed.mean((2, 3)), reference.mean((2, 3)), atol=1e-4)
    assert torch.allclose(fixed.std((2, 3)), reference.std((2, 3)), atol=1e-3)
    assert fixed[0, 0].flatten().argmax() == made[0, 0].flatten().argmax(), "the structure stays"


def test_adain_of_a_flat_frame_is_flat():
    made, reference = torch.full((1, 3, 16, 16), 0.3), torch.full((1, 3, 16, 16), -0.7)
    assert torch.allclose(adain(made, reference), reference, atol=1e-6)


def test_wavelet_keeps_the_fine_and_takes_the_coarse(pair):
    made, _ = pair
    height, width = made.shape[-2:]
    ramp = torch.linspace(-0.2, 0.2, width).expand(1, 3, height, width)
    fixed = wavelet(made, made + ramp + 0.1)
    shift = (fixed - made)[..., 36:-36]  # where the widest blur sees no border
    assert torch.allclose(shift, (ramp + 0.1)[..., 36:-36].expand_as(shift), atol=1e-5), "coarse: all of it"
    stripes = torch.zeros_like(made)
    stripes[..., ::2], stripes[..., 1::2] = 0.1, -0.1
    assert (wavelet(made, made + stripes) - made)[..., 32:-32].abs().max() < 1e-6, "fine: none of it"


def test_wavelet_is_the_sum_of_bands(pair):
    """Its five differences of blurs and the reference's last blur, as published, added up one by one."""
    made, reference = pair
    kernel = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25])).expand(3, 1, 3, 3)

    def bands(pictures):
        high = torch.zeros_like(pictures)
        for level in range(5):
            padded = torch.nn.functional.pad(pictures, (2**level,) * 4, mode="replicate")
            low = torch.nn.functional.conv2d(padded, kernel, dilation=2**level, groups=3)
            high, pictures = high + pictures - low, low
        return high, pictures

    assert torch.allclose(
        wavelet(made, reference), (bands(made)[0] + bands(reference)[1]).clamp(-1, 1), atol=1e-6
    )


@pytest.mark.parametrize("fix", COLOR_FIXES.values(), ids=COLOR_FIXES.keys())
def test_results_are_pictures(fix, pair):
    made, reference = pair
    fixed = fix((made * 9).bfloat16(), reference)
    assert fixed.dtype == torch.float32
    assert fixed.shape == made.shape
    assert fixed.min() >= -1
    assert fixed.max() <= 1


@pytest.mark.parametrize("fix", COLOR_FIXES.values(), ids=COLOR_FIXES.keys())
def test_what_has_the_right_colours_stays(fix, pair):
    made, _ = pair
    assert torch.allclose(fix(made, made), made, atol=1e-5)


CPU = torch.device("cpu")
PQ, HLG = Color(9, 9, 16), Color(9, 9, 18)
GREY = torch.arange(256, dtype=torch.uint8).view(1, 1, 256, 1).expand(-1, -1, -1, 3)


def test_sdr_stays_as_it_is():
    for color in (BT601, BT709):
        assert torch.equal(Tone(color, CPU)(GREY), GREY / 255)
        assert not is_hdr(color)
        assert shown_color(color) == color


@pytest.mark.parametrize(("color", "white"), [(PQ, 0.581), (HLG, 0.75)], ids=["pq", "hlg"])
def test_hdr_greys_rise_to_white_and_stay_grey(color, white):
    """Diffuse white is at 58 % of PQ's and 75 % of HLG's code values (ITU-R BT.2408)."""
    made = Tone(color, CPU)(GREY)[0, 0]
    assert (made.amax(dim=1) - made.amin(dim=1)).max() < 0.005
    grey = made[:, 1]
    assert (grey.diff() >= 0).all()
    assert grey[0] == 0
    assert grey[round(255 * white)] == pytest.approx(0.91, abs=0.02), "room for what is brighter"
    assert grey[-1] == pytest.approx(1, abs=0.01)
    assert is_hdr(color)
    assert shown_color(color) == BT709


def test_dark_light_is_kept_as_it_is():
    """20 nits are a tenth of white, which a display of gamma 2.4 shows for 0.38."""
    code = round(255 * 0.3583)  # of 20.3 nits in PQ
    assert Tone(PQ, CPU)(GREY)[0, 0, code, 1] == pytest.approx(0.1 ** (1 / 2.4), abs=0.01)


def test_wide_colours_become_narrow_ones_of_the_same_hue():
    red = torch.tensor([180, 30, 30], dtype=torch.uint8).view(1, 1, 1, 3)
    made = Tone(PQ, CPU)(red).flatten()
    assert made[0] > 3 * made[1]
    assert made.min() >= 0
    assert made.max() <= 1
