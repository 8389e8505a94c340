"""One clip on tiny networks: what a plain loop draws, however much is done at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from diffusers import AutoencoderKL, DDIMScheduler  # noqa: E402 - torch first

from models.hallo2.manifest import VAE_FOLDER  # noqa: E402
from models.hallo2.pipeline import CLIP_FRAMES, Clip, ClipPipeline, Look, Recipe, Thrift, clip_seed  # noqa: E402
from models.hallo2.solvers import SOLVERS, Solver, steps_of  # noqa: E402
from models.networks.hallo2 import (  # noqa: E402
    ClipConditions,
    RegionMasks,
    audio_tokens,
    image_tokens,
    pose_features,
    reference_features,
)
from models.zoo.hallo2 import AnimateInputs  # noqa: E402
from tests.hallo2_tiny import TINY, save_tiny_folder, tiny_networks  # noqa: E402

# diffusers' schedulers hand torch tensors to NumPy 2 in its old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIDE_PX, STEPS = 64, 2
RECIPE = Recipe(SOLVERS["ddim"], STEPS, 3.5, 42)


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> AutoencoderKL:
    folder = save_tiny_folder(tmp_path_factory.mktemp("hallo2"))
    return AutoencoderKL.from_pretrained(folder / VAE_FOLDER).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def networks():
    return tiny_networks()


@pytest.fixture
def pipeline(networks, vae) -> ClipPipeline:
    return ClipPipeline(networks, vae)


@pytest.fixture(scope="module")
def look() -> Look:
    draw = torch.Generator().manual_seed(5)
    box = torch.zeros(SIDE_PX, SIDE_PX, dtype=torch.bool)
    box[16:48, 20:44] = True
    sides = [SIDE_PX // 8 // 2**depth for depth in range(4)]
    full, face, lip = (tuple(torch.rand(side * side, generator=draw) for side in sides) for _ in range(3))
    return Look(
        picture=torch.rand(3, SIDE_PX, SIDE_PX, generator=draw) * 2 - 1,
        face_box=box,
        masks=RegionMasks(full=full, face=face, lip=lip),
        embedding=torch.randn(TINY.face_embedding_width, generator=draw),
    )


@pytest.fixture(scope="module")
def windows() -> torch.Tensor:
    draw = torch.Generator().manual_seed(6)
    return torch.randn(CLIP_FRAMES, 5, TINY.audio_layers, TINY.audio_width, generator=draw)


@pytest.fixture(scope="module")
def motion() -> torch.Tensor:
    return torch.rand(2, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(7)) * 2 - 1


@pytest.fixture
def draw(pipeline, look, windows, motion):
    def clip(number: int = 1, on_step=lambda _done: None, **changes) -> Clip:
        return pipeline.clip(number, look, windows, motion, replace(RECIPE, **changes), on_step)

    return clip


def unequal(left: Clip, right: Clip) -> float:
    return float((left.motion - right.motion).abs().max())


def test_a_clip_is_what_a_plain_loop_draws(draw, networks, vae, look, windows, motion):
    """Two passes for each step, everything frame by frame, nothing kept: the published order, written out."""
    generator = torch.Generator().manual_seed(clip_seed(42, 1))
    latents = torch.randn((1, 4, CLIP_FRAMES, SIDE_PX // 8, SIDE_PX // 8), generator=generator)
    kept = torch.rand((SIDE_PX, SIDE_PX), generator=generator) > 0.25
    seen = motion * (kept | look.face_box)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        encoded = [vae.encode(one[None]).latent_dist.mean * 0.18215 for one in (look.picture, *seen)]
        tokens = image_tokens(networks, look.embedding, is_guided=True)
        place = look.face_box.float().repeat(3, 1, 1)
        conditions = ClipConditions(
            image_tokens=tokens,
            audio_tokens=audio_tokens(networks, windows),
            pose_features=pose_features(networks, place, is_guided=True),
            masks=look.masks,
        )
        reference = reference_features(networks, torch.cat(encoded), tokens)
        for timestep in scheduler.timesteps:
            without, given = (
                networks.denoising_unet(latents, timestep, conditions.row(row), reference.row(row))
                for row in (0, 1)
            )
            velocity = without + 3.5 * (given - without)
            latents = scheduler.step(velocity, timestep, latents).prev_sample
        frames = [vae.decode(latents[:, :, index] / 0.18215).sample[0] for index in range(CLIP_FRAMES)]
    expected = (torch.stack(frames) / 2 + 0.5).clamp(0, 1)  # (F, 3, H, W)

    found = draw()

    assert expected.std() > 0.05
    torch.testing.assert_close(found.motion, expected[-2:] * 2 - 1, rtol=0, atol=2e-3)
    shown = torch.from_numpy(found.frames).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(shown, expected, rtol=0, atol=4e-3)


def test_less_at_once_is_the_same_clip(draw, pipeline):
    whole = draw()
    pipeline.thrift = Thrift().next()

    assert not pipeline.thrift.halves_at_once
    assert pipeline.thrift.decoded_frames == 1
    assert pipeline.thrift.next() is None
    assert unequal(draw(), whole) < 2e-3


@pytest.mark.parametrize(("guidance_scale", "rows"), [(1.0, 1), (3.5, 2)])
def test_guidance_costs_a_second_half_only_where_it_is_asked_for(draw, networks, guidance_scale, rows):
    seen = []
    hook = networks.denoising_unet.register_forward_pre_hook(lambda _unet, given: seen.append(len(given[0])))
    with hook:
        draw(guidance_scale=guidance_scale)

    assert seen == [rows] * STEPS


def test_guidance_changes_the_clip(draw):
    assert unequal(draw(guidance_scale=1.0), draw(guidance_scale=3.5)) > 0.01


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_solver_draws_a_clip(draw, solver):
    clip = draw(solver=SOLVERS[solver])

    assert clip.frames.shape == (CLIP_FRAMES, SIDE_PX, SIDE_PX, 3)
    assert clip.motion.isfinite().all()


def distance_to_exact(solver: Solver, steps: int, *, mean: float, deviation: float) -> float:
    """How far a solver ends from where it should, for data whose velocity is known: a normal distribution.

    Noise z that hides everything becomes mean + deviation * z.
    """
    scheduler = solver.begin(steps)
    alphas = DDIMScheduler.from_config(scheduler.config, clip_sample=False).alphas_cumprod
    noise = torch.randn((1, 1, 256), generator=torch.Generator().manual_seed(1))
    state = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        alpha, sigma = alphas[timestep].sqrt(), (1 - alphas[timestep]).sqrt()
        score = (state - alpha * mean) / (alpha**2 * deviation**2 + sigma**2)
        velocity = alpha * (sigma * score) - sigma * (mean + alpha * deviation**2 * score)
        state = scheduler.step(velocity, timestep, state).prev_sample
    return float((state - (mean + deviation * noise)).abs().max())


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_solver_finds_the_one_picture_that_there_is(solver):
    assert SOLVERS[solver].begin(10).timesteps[0] == 999
    assert distance_to_exact(SOLVERS[solver], 10, mean=1.5, deviation=0.0) < 1e-5


@pytest.mark.parametrize("solver", ["dpm++", "unipc"])
def test_half_the_steps_are_as_near_for_data_as_wide_as_latents(solver):
    published = distance_to_exact(SOLVERS["ddim"], 40, mean=0.3, deviation=1.0)

    assert distance_to_exact(SOLVERS[solver], 20, mean=0.3, deviation=1.0) < published


def test_the_solvers_are_those_of_the_inputs():
    schema = AnimateInputs.model_json_schema()["properties"]["solver"]

    assert set(schema["enum"]) == set(SOLVERS)
    assert [steps_of(name, None) for name in ("ddim", "dpm++", "unipc")] == [40, 20, 20]
    assert steps_of("unipc", 7) == 7


def test_a_seed_and_a_number_are_a_clip(draw):
    first = draw()

    assert unequal(draw(), first) == 0
    assert unequal(draw(seed=43), first) > 0.01
    assert unequal(draw(number=2), first) > 0.01
    assert len({clip_seed(seed, number) for seed in range(20) for number in range(20)}) == 400


def test_earlier_frames_lose_a_quarter_of_what_is_no_face(draw, vae, look, motion, monkeypatch):
    seen = []
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda pictures: seen.append(pictures.clone()) or encode(pictures))
    draw()

    portrait, *earlier = seen[0]
    assert torch.equal(portrait, look.picture)
    for one, whole in zip(earlier, motion, strict=True):
        dropped = (one == 0).all(dim=0)
        assert not dropped[look.face_box].any()
        assert 0.2 < dropped[~look.face_box].float().mean() < 0.3
        assert torch.equal(one[:, ~dropped], whole[:, ~dropped])
    assert torch.equal(earlier[0] == 0, earlier[1] == 0)


def test_the_portrait_stands_in_before_the_first_clip(pipeline, look, windows):
    twice = look.picture.expand(2, -1, -1, -1)

    without = pipeline.clip(0, look, windows, None, RECIPE, lambda _done: None)
    given = pipeline.clip(0, look, windows, twice, RECIPE, lambda _done: None)

    assert unequal(without, given) == 0


def test_a_wish_to_stop_ends_a_clip_before_it_is_decoded(draw, vae, monkeypatch):
    monkeypatch.setattr(vae, "decode", lambda *_: pytest.fail("decoded"))
    heard = []

    def on_step(done: int) -> None:
        heard.append(done)
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        draw(on_step=on_step, steps=5)

    assert heard == [0, 1, 2, 3]


def test_steps_are_counted_from_none_to_all(draw):
    heard: list[int] = []
    draw(on_step=heard.append)

    assert heard == list(range(STEPS + 1))
