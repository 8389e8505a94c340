"""Chunks through tiny networks: a replay is the stream that was never broken, tiles leave no seam."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from models.flashvsr.checkpoint import load_networks, load_vae
from models.flashvsr.color import adain
from models.flashvsr.geometry import Canvas, canvas_of, chunks_of, grids_of
from models.flashvsr.memory_plan import MemoryPlan
from models.flashvsr.pipeline import (
    Finish,
    Recipe,
    Restorer,
    Span,
    chunk_noise,
    enlarged,
    span_from,
    warm_up,
)
from models.flashvsr.stage_clock import StageClock
from models.flashvsr.vae_stream import VaeStream
from tests.flashvsr_tiny import TINY, save_original, tiny_weights

CPU = torch.device("cpu")
RECIPE = Recipe(seed=7, sparse_ratio=2.0, local_range=11)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = save_original(tmp_path_factory.mktemp("models"), tiny_weights())
    return load_networks(folder, variant="tiny_long", device=CPU, dtype=torch.float32, config=TINY)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    folder = save_original(tmp_path_factory.mktemp("models"), tiny_weights())
    return load_vae(folder, device=CPU, dtype=torch.float32, config=TINY)


def plan_of(canvas, num_tiles=1, *, is_parked=False):
    grid = next(grid for grid in grids_of(canvas) if len(grid.tiles) == num_tiles)
    return MemoryPlan(grid=grid, is_parked=is_parked, device_bytes=0, host_bytes=0)


def noisy_frames(num_frames, canvas):
    generator = torch.Generator().manual_seed(3)
    small = torch.rand(num_frames, canvas.height_px // 4, canvas.width_px // 4, 3, generator=generator)
    return [(frame, Fraction(number, 25)) for number, frame in enumerate(small)]


def as_they_are(frames):
    return frames


def restored(networks, frames, canvas, plan, *, recipe=RECIPE, span=None):
    """Chunk number -> pictures (3, m, H, W), only of frames that the video has."""
    span = span or Span()
    restorer = Restorer(networks, plan, recipe, span, StageClock(CPU))
    made = {}
    for chunk in chunks_of(frames, span.first):
        clip = enlarged(torch.stack(chunk.frames), canvas, torch.float32, as_they_are)
        noise = chunk_noise(recipe.seed, chunk.number, canvas, TINY.latent_channels)
        pushed = restorer.push(chunk.number, clip, noise, lambda: None)
        if pushed is not None:
            pictures, low = pushed
            assert pictures.shape == low.shape
            made[chunk.number] = pictures[0, :, : len(chunk.times_s)]
    return made


SMALL = Canvas(128, 128, 128, 128)


@pytest.mark.parametrize("num_frames", [1, 20, 21, 22, 29, 30, 45])
def test_every_frame_comes_out(networks, num_frames):
    made = restored(networks, noisy_frames(num_frames, SMALL), SMALL, plan_of(SMALL))
    assert sum(pictures.shape[1] for pictures in made.values()) == num_frames
    assert all(torch.isfinite(pictures).all() for pictures in made.values())


def test_a_seed_decides_the_pictures(networks):
    frames = noisy_frames(30, SMALL)
    first, again, other = (
        torch.cat(
            list(restored(networks, frames, SMALL, plan_of(SMALL), recipe=Recipe(seed, 2.0, 11)).values()),
            dim=1,
        )
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


def test_noise_is_that_of_its_chunk_and_seed():
    canvas = canvas_of(60, 40, 4)
    assert chunk_noise(1, 0, canvas, 16).shape == (1, 16, 6, 32, 32)
    assert chunk_noise(1, 5, canvas, 16).shape == (1, 16, 2, 32, 32)
    drawn = {
        (seed, number): chunk_noise(seed, number, canvas, 16)[0, 0, 0] for seed in (1, 2) for number in (1, 2)
    }
    values = list(drawn.values())
    assert all(not torch.equal(one, other) for place, one in enumerate(values) for other in values[:place])
    assert torch.equal(drawn[2, 1], chunk_noise(2, 1, canvas, 16)[0, 0, 0])
    assert chunk_noise(10**30, 1, canvas, 16).std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("layers", [2, 30])
@pytest.mark.parametrize("is_full", [False, True], ids=["tiny", "full"])
def test_a_replay_begins_where_the_caches_can_be_whole(layers, is_full):
    for shown in range(0, 500, 12):
        span = span_from(shown, layers, is_full=is_full)
        assert 0 <= span.first <= span.decoded <= span.shown == shown
        assert span.first == max(0, span.decoded - 3 * layers - 1), "no earlier than it must"


LONG = noisy_frames(21 + 8 * 14 + 3, SMALL)


@pytest.fixture(scope="module")
def unbroken(networks):
    return restored(networks, LONG, SMALL, plan_of(SMALL))


@pytest.mark.parametrize("shown", [7, 14])
def test_a_replayed_stream_is_the_one_that_was_never_broken(networks, unbroken, shown):
    """Bit by bit, from the first chunk that is shown, whether it begins at the beginning or in the middle."""
    span = span_from(shown, TINY.layers, is_full=False)
    assert span == {7: Span(0, 2, 7), 14: Span(2, 9, 14)}[shown]
    resumed = restored(networks, LONG, SMALL, plan_of(SMALL), span=span)
    assert list(resumed) == list(range(shown, 16))
    assert all(torch.equal(pictures, unbroken[number]) for number, pictures in resumed.items())


def test_a_replay_that_is_too_short_would_not_be(networks, unbroken):
    """What the length of a replay is for."""
    short = restored(networks, LONG, SMALL, plan_of(SMALL), span=Span(10, 10, 14))
    assert not torch.equal(short[14], unbroken[14])


WIDE = Canvas(384, 128, 384, 128)


def test_parked_tiles_are_tiles(networks):
    frames = noisy_frames(30, WIDE)
    tiles = restored(networks, frames, WIDE, plan_of(WIDE, 2))
    parked = restored(networks, frames, WIDE, plan_of(WIDE, 2, is_parked=True))
    assert all(torch.equal(tiles[number], parked[number]) for number in tiles)


def test_a_flat_clip_has_no_seam_where_tiles_meet(networks):
    """Of one colour and without noise a canvas is the same everywhere inside, and so is where tiles meet."""
    clip = torch.full((1, 3, 25, 128, 384), 0.2)
    noise = torch.zeros(1, TINY.latent_channels, 6, 16, 48)

    def made(num_tiles):
        restorer = Restorer(networks, plan_of(WIDE, num_tiles), RECIPE, Span(), StageClock(CPU))
        pushed = restorer.push(0, clip, noise, lambda: None)
        assert pushed is not None
        return adain(pushed[0][0].transpose(0, 1), pushed[1][0].transpose(0, 1))

    whole, tiled = made(1), made(2)
    steps = (tiled[..., 1:] - tiled[..., :-1]).abs()
    assert steps[..., 100:284].max() <= 1.5 * (whole[..., 1:] - whole[..., :-1]).abs().max()


def test_one_tile_of_two_is_what_it_would_be_alone(networks):
    """Where only one tile counts, its pictures are those of a canvas of its own with the same noise."""
    frames = noisy_frames(21, WIDE)
    made = restored(networks, frames, WIDE, plan_of(WIDE, 2))[0]
    chunk = next(iter(chunks_of(frames)))
    clip = enlarged(torch.stack(chunk.frames), WIDE, torch.float32, as_they_are)[..., :256]
    left = Canvas(256, 128, 256, 128)
    restorer = Restorer(networks, plan_of(left), RECIPE, Span(), StageClock(CPU))
    noise = chunk_noise(RECIPE.seed, 0, WIDE, TINY.latent_channels)[..., :32]
    alone = restorer.push(0, clip, noise, lambda: None)
    assert alone is not None
    assert torch.allclose(made[..., :128], alone[0][0, :, :, :, :128], atol=1e-6)


def test_cancel_is_heard_between_tiles(networks):
    restorer = Restorer(networks, plan_of(WIDE, 2), RECIPE, Span(), StageClock(CPU))
    heard = []
    clip, noise = torch.zeros(1, 3, 25, 128, 384), torch.zeros(1, TINY.latent_channels, 6, 16, 48)
    restorer.push(0, clip, noise, lambda: heard.append(1))
    assert len(heard) == 2


def test_the_vae_as_a_stream_is_the_vae(vae):
    latents = torch.randn(1, TINY.latent_channels, 10, 4, 4, generator=torch.Generator().manual_seed(0))
    stream = VaeStream(vae)
    parts = [stream.push(part, torch.empty(0)) for part in latents.split([6, 2, 2], dim=2)]
    assert [part.shape[2] for part in parts] == [21, 8, 8]
    config = vae.config
    mean, deviation = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std)
    )
    with torch.no_grad():
        whole = vae.decode(latents * deviation + mean, return_dict=False)[0]
    assert torch.allclose(torch.cat(parts, dim=2), whole, atol=1e-5)


def test_the_vae_forgets_what_a_replay_leaves_out(vae):
    """From the 43rd latent frame on (21 chunks) a stream that began in the middle is the whole one."""
    latents = torch.randn(1, TINY.latent_channels, 50, 2, 2, generator=torch.Generator().manual_seed(0))
    whole, late = (VaeStream(vae).push(part, torch.empty(0)) for part in (latents, latents[:, :, 4:]))
    assert torch.equal(whole[:, :, -16:], late[:, :, -16:])
    assert not torch.equal(whole[:, :, -100:], late[:, :, -100:]), "which takes its time"


def test_frames_are_enlarged_bicubically_and_the_last_row_and_column_repeated():
    canvas = canvas_of(50, 40, 2)
    frames = torch.rand(9, 40, 50, 3, generator=torch.Generator().manual_seed(0))
    clip = enlarged(frames, canvas, torch.float32, as_they_are)
    assert clip.shape == (1, 3, 9, 128, 128)
    expected = torch.nn.functional.interpolate(frames.permute(0, 3, 1, 2), (80, 100), mode="bicubic") * 2 - 1
    assert torch.allclose(clip[0, :, :, :80, :100].transpose(0, 1), expected.clamp(-1, 1), atol=1e-6)
    assert torch.equal(clip[..., :80, 100:], clip[..., :80, 99:100].expand(-1, -1, -1, -1, 28))
    assert torch.equal(clip[..., 80:, :], clip[..., 79:80, :].expand(-1, -1, -1, 48, -1))


@pytest.mark.parametrize("size_px", [(100, 80), (50, 40), (75, 60), (200, 160)])
def test_finished_frames_have_the_exact_size_and_colours(size_px):
    canvas = canvas_of(50, 40, 2)
    made = torch.rand(1, 3, 9, 128, 128, generator=torch.Generator().manual_seed(0)) - 0.5
    low = torch.full_like(made, 0.25)
    frames = Finish(canvas, size_px, adain).frames(made, low)
    assert frames.shape == (9, size_px[1], size_px[0], 3)
    assert frames.dtype == torch.uint8
    assert frames.float().mean() == pytest.approx(1.25 * 127.5, abs=1)


def test_warming_up_runs_every_network(networks):
    warm_up(networks)
