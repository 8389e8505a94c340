"""Hallo2's networks do what the published code does, at a size that runs in a blink."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.networks.hallo2 import (
    ClipConditions,
    Hallo2Networks,
    ReferenceFeatures,
    RegionMasks,
    audio_tokens,
    image_tokens,
    pose_features,
    reference_features,
)
from models.networks.hallo2_reference import BlockReference, bank
from tests.hallo2_plain import plain_bank, plain_motion, plain_velocity
from tests.hallo2_tiny import TINY, seeded, tiny_networks

FRAMES, EARLIER, TIMESTEP = 3, 2, 601
SQUARE, WIDE = (8, 8), (8, 16)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def networks() -> Hallo2Networks:
    return tiny_networks()


@pytest.fixture
def own_networks(networks: Hallo2Networks) -> Hallo2Networks:
    """Networks that a test may change."""
    return deepcopy(networks)


@pytest.fixture
def noise() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(7)
    return lambda *shape: torch.randn(*shape, generator=generator)


def masks_of(noise: Callable[..., Tensor], size: tuple[int, int]) -> RegionMasks:
    counts = [(size[0] >> depth) * (size[1] >> depth) for depth in range(4)]
    return RegionMasks(*(tuple(noise(count).sigmoid() for count in counts) for _ in range(3)))


def conditions_of(
    networks: Hallo2Networks,
    noise: Callable[..., Tensor],
    *,
    is_guided: bool = True,
    size: tuple[int, int] = SQUARE,
) -> ClipConditions:
    windows = noise(FRAMES, TINY.audio_window_frames, TINY.audio_layers, TINY.audio_width)
    region = noise(3, size[0] * 8, size[1] * 8).sigmoid()
    return ClipConditions(
        image_tokens=image_tokens(networks, noise(TINY.face_embedding_width), is_guided=is_guided),
        audio_tokens=audio_tokens(networks, windows),
        pose_features=pose_features(networks, region, is_guided=is_guided),
        masks=masks_of(noise, size),
        motion_scale=(0.7, 1.3, 1.1),
    )


@torch.no_grad()
def velocity(
    networks: Hallo2Networks, latents: Tensor, conditions: ClipConditions, reference: ReferenceFeatures
) -> Tensor:
    return networks.denoising_unet(latents, TIMESTEP, conditions, reference)


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def assert_differs(found: Tensor, expected: Tensor) -> None:
    """By far more than rounding."""
    assert (found - expected).abs().max() > 100 * TOLERANCE


class Clip:
    """One clip's inputs and what the networks make of them."""

    def __init__(self, networks: Hallo2Networks, noise: Callable[..., Tensor], **how: object) -> None:
        self.networks = networks
        self.conditions = conditions_of(networks, noise, **how)  # type: ignore[arg-type]
        size = self.conditions.pose_features.shape[3:]
        rows = len(self.conditions.image_tokens)
        self.pictures = noise(1 + EARLIER, TINY.latent_channels, *size)
        self.latents = noise(1, TINY.latent_channels, FRAMES, *size).repeat(rows, 1, 1, 1, 1)
        self.reference = reference_features(networks, self.pictures, self.conditions.image_tokens)

    def velocity(self) -> Tensor:
        return velocity(self.networks, self.latents, self.conditions, self.reference)


@pytest.mark.parametrize(
    ("is_guided", "size"),
    [(True, SQUARE), (False, SQUARE), (True, WIDE)],
    ids=["guided", "unguided", "wide"],
)
def test_a_step_is_the_published_one(networks, noise, is_guided, size):
    clip = Clip(networks, noise, is_guided=is_guided, size=size)
    expected = plain_velocity(networks, clip.latents, TIMESTEP, clip.conditions, clip.pictures)
    assert_same(clip.velocity(), expected)


def test_both_halves_in_one_batch_are_two_separate_passes(networks, noise):
    clip = Clip(networks, noise)
    together = clip.velocity()
    for index in range(2):
        row = slice(index, index + 1)
        alone = velocity(networks, clip.latents[row], clip.conditions.row(index), clip.reference.row(index))
        assert_same(together[row], alone)
    assert_differs(together[0], together[1])


@torch.no_grad()
def test_cached_keys_and_values_are_those_projected_anew(networks, noise):
    clip = Clip(networks, noise)
    features = bank(networks.reference_unet, clip.pictures, clip.conditions.image_tokens)
    attentions = dict(networks.denoising_unet.named_modules())
    assert set(clip.reference.blocks) == set(features)
    for name, given in clip.reference.blocks.items():
        attn1 = attentions[name].transformer_blocks[0].attn1
        portrait = features[name][1, 0]  # the conditional row's first picture
        assert_same(given.key[0].transpose(0, 1).flatten(1), attn1.to_k(portrait))
        assert_same(given.value[0].transpose(0, 1).flatten(1), attn1.to_v(portrait))
        assert torch.equal(given.motion, features[name][:, 1:])


def test_features_serve_every_step_of_a_clip(networks, noise):
    clip = Clip(networks, noise)
    first = clip.velocity()
    velocity(networks, noise(*clip.latents.shape), clip.conditions, clip.reference)
    assert torch.equal(clip.velocity(), first)


@pytest.mark.parametrize("given", [TIMESTEP, float(TIMESTEP), torch.tensor(TIMESTEP)], ids=repr)
def test_a_timestep_may_be_a_number_or_a_tensor(networks, noise, given):
    clip = Clip(networks, noise)
    with torch.no_grad():
        found = networks.denoising_unet(clip.latents, given, clip.conditions, clip.reference)
        other = networks.denoising_unet(clip.latents, TIMESTEP + 50, clip.conditions, clip.reference)
    assert torch.equal(found, clip.velocity())
    assert_differs(other, found)


DEEPEST = ("down_blocks.3", "up_blocks.0")


@pytest.mark.parametrize("path", DEEPEST)
def test_motion_modules_of_the_deepest_blocks_never_run(own_networks, noise, path):
    clip = Clip(own_networks, noise)
    before = clip.velocity()
    seeded(own_networks.denoising_unet.get_submodule(f"{path}.motion_modules"), seed=99)
    assert torch.equal(clip.velocity(), before)


@pytest.mark.parametrize("path", ["down_blocks.0", "mid_block", "up_blocks.3"])
def test_motion_modules_of_other_blocks_do(own_networks, noise, path):
    clip = Clip(own_networks, noise)
    before = clip.velocity()
    seeded(own_networks.denoising_unet.get_submodule(f"{path}.motion_modules"), seed=99)
    assert_differs(clip.velocity(), before)


def test_what_never_runs_can_be_dropped(own_networks, noise):
    clip = Clip(own_networks, noise)
    before, unet = clip.velocity(), own_networks.denoising_unet
    unet.drop_idle()
    assert torch.equal(clip.velocity(), before)
    left = [name for name, _ in unet.named_parameters() if ".motion_modules." in name]
    assert left
    assert not [name for name in left if name.startswith(DEEPEST)]


def test_tokens_of_the_reference_alternate_over_pictures(networks, noise):
    tokens = noise(2, TINY.image_tokens, TINY.context_width)
    pictures = noise(1 + EARLIER, TINY.latent_channels, *SQUARE)
    found = bank(networks.reference_unet, pictures, tokens)
    alternating = plain_bank(networks.reference_unet, pictures, tokens)
    by_row = [plain_bank(networks.reference_unet, pictures, row[None]) for row in tokens]
    deepest = "mid_block.attentions.0"
    for name, features in found.items():
        assert_same(features, alternating[name])
    # The first earlier frame of the unconditional row hears the conditional token, and the other way round.
    assert_same(found[deepest][0, 1], by_row[1][deepest][0, 1])
    assert_same(found[deepest][1, 1], by_row[0][deepest][0, 1])
    assert_differs(found[deepest][0, 1], found[deepest][1, 1])
    # The portrait of the conditional row has its own.
    assert_same(found[deepest][1, 0], by_row[1][deepest][0, 0])


def test_without_guidance_every_picture_has_the_same_tokens(networks, noise):
    tokens = noise(1, TINY.image_tokens, TINY.context_width)
    pictures = noise(1 + EARLIER, TINY.latent_channels, *SQUARE)
    found = bank(networks.reference_unet, pictures, tokens)
    for name, features in plain_bank(networks.reference_unet, pictures, tokens).items():
        assert_same(found[name], features)


def test_the_bank_leaves_nothing_in_the_network(networks, noise):
    bank(networks.reference_unet, noise(1, TINY.latent_channels, *SQUARE), noise(1, 4, TINY.context_width))
    assert not [module for module in networks.reference_unet.modules() if module._forward_hooks]


def test_unconditional_sound_is_silence_after_the_projection(networks, noise):
    """And not what the projection makes of silence."""
    windows = noise(FRAMES, TINY.audio_window_frames, TINY.audio_layers, TINY.audio_width)
    tokens = audio_tokens(networks, windows)
    with torch.no_grad():
        assert torch.equal(tokens[0], networks.audio_projection(windows))
        assert networks.audio_projection(torch.zeros_like(windows)).abs().max() > 0.1
    clip = Clip(networks, noise)
    before = clip.velocity()
    clip.conditions = replace(clip.conditions, audio_tokens=noise(*tokens.shape))
    after = clip.velocity()
    assert torch.equal(after[0], before[0])
    assert_differs(after[1], before[1])


@torch.no_grad()
def test_frames_without_sound_attend_to_zeros(networks, noise):
    module = networks.denoising_unet.down_blocks[0].audio_modules[0]
    frames, audio = noise(2 * FRAMES, TINY.block_widths[0], 8, 8), noise(FRAMES, 3, TINY.context_width)
    masks, scale = masks_of(noise, SQUARE).at(0), (0.7, 1.3, 1.1)
    given = module(frames, torch.cat([torch.zeros_like(audio), audio]), masks, scale)
    assert_same(module(frames, audio, masks, scale), given)
    assert_same(module(frames[:FRAMES], audio[:0], masks, scale), given[:FRAMES])
    assert_differs(given[:FRAMES], module(frames[:FRAMES], audio, masks, scale))


def test_unconditional_place_is_zeros_after_the_locator(networks, noise):
    region = noise(3, 64, 64).sigmoid()
    features = pose_features(networks, region, is_guided=True)
    with torch.no_grad():
        assert torch.equal(features[1, :, 0], networks.face_locator(region[None])[0])
        assert networks.face_locator(torch.zeros(1, 3, 64, 64)).abs().max() > 0.1
    assert features.shape == (2, TINY.block_widths[0], 1, 8, 8)
    assert not features[0].any()


def test_unconditional_face_is_the_projection_of_zeros(networks, noise):
    embedding = noise(TINY.face_embedding_width)
    tokens = image_tokens(networks, embedding, is_guided=True)
    with torch.no_grad():
        assert_same(tokens[:1], networks.image_projection(torch.zeros_like(embedding)[None]))
        assert_same(tokens[1:], networks.image_projection(embedding[None]))
    assert tokens[0].abs().max() > 0.1


def test_only_the_conditional_half_sees_the_portrait(networks, noise):
    clip = Clip(networks, noise)
    before = clip.velocity()
    blocks = {
        name: BlockReference(noise(*block.key.shape), noise(*block.value.shape), block.motion)
        for name, block in clip.reference.blocks.items()
    }
    clip.reference = replace(clip.reference, blocks=blocks)
    after = clip.velocity()
    assert torch.equal(after[0], before[0])
    assert_differs(after[1], before[1])


def test_both_halves_see_the_earlier_frames(networks, noise):
    clip = Clip(networks, noise)
    before = clip.velocity()
    blocks = {
        name: replace(block, motion=noise(*block.motion.shape))
        for name, block in clip.reference.blocks.items()
    }
    clip.reference = replace(clip.reference, blocks=blocks)
    after = clip.velocity()
    assert_differs(after[0], before[0])
    assert_differs(after[1], before[1])


@pytest.mark.parametrize("num_earlier", [0, 1, 2])
@torch.no_grad()
def test_earlier_frames_stand_in_front_and_are_cut_off(networks, noise, num_earlier):
    module = networks.denoising_unet.down_blocks[1].motion_modules[0].temporal_transformer
    width = TINY.block_widths[1]
    frames, earlier = noise(2 * FRAMES, width, 4, 2), noise(2, num_earlier, 8, width)
    found = module(frames, earlier)
    assert found.shape == frames.shape
    for row in range(2):
        own = slice(row * FRAMES, (row + 1) * FRAMES)
        assert_same(found[own], plain_motion(module, frames[own], earlier[row]))


def test_more_frames_than_places_in_time_are_refused(networks, noise):
    module = networks.denoising_unet.mid_block.motion_modules[0]
    frames = noise(TINY.motion_positions, TINY.block_widths[-1], 1, 1)
    with pytest.raises(RuntimeError, match="size of tensor"):
        module(frames, noise(1, 1, 1, TINY.block_widths[-1]))


REGIONS = {"full": 0, "face": 1, "lip": 2}


def audio_blocks(networks: Hallo2Networks) -> list[nn.Module]:
    unet = networks.denoising_unet
    return [
        module
        for name, module in unet.named_modules()
        if name.endswith(".transformer_blocks.0") and hasattr(module, "attn2_2")
    ]


@pytest.mark.parametrize("region", REGIONS)
def test_each_region_has_an_attention_of_its_own(own_networks, noise, region):
    """Where only one region's mask is open, only that region's attention matters."""
    clip = Clip(own_networks, noise)
    shut = {
        name: tuple(torch.zeros_like(mask) for mask in getattr(clip.conditions.masks, name))
        for name in REGIONS
        if name != region
    }
    clip.conditions = replace(clip.conditions, masks=replace(clip.conditions.masks, **shut))
    before = clip.velocity()
    for name, number in REGIONS.items():
        for block in audio_blocks(own_networks):
            seeded(getattr(block, f"attn2_{number}").to_v, seed=5)
        if name == region:
            assert_differs(clip.velocity(), before)
            before = clip.velocity()
        else:
            assert torch.equal(clip.velocity(), before)


@pytest.mark.parametrize("scale", [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0)], ids=["none", "lips"])
def test_motion_scale_weighs_the_regions(networks, noise, scale):
    clip = Clip(networks, noise)
    clip.conditions = replace(clip.conditions, motion_scale=scale)
    before = clip.velocity()
    clip.conditions = replace(clip.conditions, audio_tokens=noise(*clip.conditions.audio_tokens.shape))
    after = clip.velocity()
    if any(scale):
        assert_differs(after, before)
    else:
        assert torch.equal(after, before)


def test_frames_hear_their_own_sound(networks, noise):
    """Without attention over time a frame depends on the sound of no other."""
    module = networks.denoising_unet.down_blocks[0].audio_modules[0]
    frames, audio = noise(FRAMES, TINY.block_widths[0], 8, 8), noise(FRAMES, 3, TINY.context_width)
    masks = masks_of(noise, SQUARE).at(0)
    with torch.no_grad():
        before = module(frames, audio, masks, (1.0, 1.0, 1.0))
        audio[1] += 1.0
        after = module(frames, audio, masks, (1.0, 1.0, 1.0))
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert_differs(after[1], before[1])
