"""Latents to frames: the stream equals the VAE's own decode, is one, and makes no black video of NaN."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.engine import Cancelled, PermanentFailure  # noqa: E402 - torch first
from models.text_to_video.decode import decoded_frames, gives_latents, picture_frames  # noqa: E402
from tests.tiny_pipelines import tiny_wan  # noqa: E402

LATENT_FRAMES = 4


@pytest.fixture(scope="module")
def pipeline():
    return tiny_wan()


@pytest.fixture(scope="module")
def latents():
    return torch.randn(1, 16, LATENT_FRAMES, 4, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def decoder_calls(pipeline):
    """Grows by one with each pass of the decoder."""
    calls: list[int] = []
    hook = pipeline.vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


def expected(pipeline, latents) -> np.ndarray:
    """(T, H, W, 3) uint8 by the pipeline's own way to pictures."""
    vae = pipeline.vae
    mean, deviation = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    with torch.no_grad():
        pictures = vae.decode(latents / (1 / deviation) + mean, return_dict=False)[0]
    return np.round(pipeline.video_processor.postprocess_video(pictures, "np")[0] * 255).astype(np.uint8)


def nothing() -> None: ...


def test_the_stream_equals_the_decode_of_the_whole_clip(pipeline, latents) -> None:
    assert gives_latents(pipeline)
    frames = np.stack(list(decoded_frames(pipeline, latents, nothing)))
    whole = expected(pipeline, latents)
    assert frames.shape == whole.shape == (4 * LATENT_FRAMES - 3, 32, 48, 3)
    assert frames.dtype == np.uint8
    assert whole.std() > 5  # else anything would equal it
    assert np.abs(frames.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("is_residual", [False, True], ids=["plain", "residual"])
def test_a_patched_vae_is_streamed_too(latents, is_residual) -> None:
    """The decoder makes pixels as channels; Wan2.2's residual blocks treat the first frame apart."""
    from diffusers import AutoencoderKLWan

    pipeline = tiny_wan()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
            temperal_downsample=[False, True, True], patch_size=2, in_channels=12, out_channels=12,
            scale_factor_spatial=16, is_residual=is_residual,
        )  # fmt: skip
    pipeline.register_modules(vae=vae.eval())
    frames = np.stack(list(decoded_frames(pipeline, latents, nothing)))
    assert frames.shape == (4 * LATENT_FRAMES - 3, 64, 96, 3)
    assert np.abs(frames.astype(int) - expected(pipeline, latents)).max() <= 1


def test_frames_come_before_the_last_latent_is_decoded(pipeline, latents, decoder_calls) -> None:
    calls_at = [len(decoder_calls) for _ in decoded_frames(pipeline, latents, nothing)]
    assert calls_at[0] == 2  # one part is asked for while the first is copied
    assert calls_at[-1] == LATENT_FRAMES
    assert all(later - earlier <= 1 for earlier, later in pairwise(calls_at))


def test_a_stop_ends_the_stream_between_latents(pipeline, latents, decoder_calls) -> None:
    def stop() -> None:
        if len(decoder_calls) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(decoded_frames(pipeline, latents, stop))
    assert len(decoder_calls) == 2


def test_a_tiled_vae_decodes_in_tiles_and_can_be_stopped(pipeline, latents, decoder_calls) -> None:
    vae = pipeline.vae
    vae.enable_tiling(16, 16, 8, 8)
    try:
        tiled = np.stack(list(decoded_frames(pipeline, latents, nothing)))
        tiles = len(decoder_calls) // LATENT_FRAMES
        assert tiles > 1
        assert np.abs(tiled.astype(int) - expected(pipeline, latents)).max() <= 1

        def stop() -> None:
            if len(decoder_calls) > 1:
                raise Cancelled

        decoder_calls.clear()
        with pytest.raises(Cancelled):
            list(decoded_frames(pipeline, latents, stop))
        assert len(decoder_calls) == 2
    finally:
        vae.disable_tiling()


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_pictures_that_are_not_numbers_are_refused(pipeline, latents, value) -> None:
    broken = latents.clone()
    broken[0, 3, -1] = value  # only the last latent frame
    with pytest.raises(PermanentFailure, match="not numbers"):
        list(decoded_frames(pipeline, broken, nothing))


def test_pictures_that_a_pipeline_decoded_become_frames() -> None:
    pictures = torch.linspace(0, 1, 6 * 3 * 2 * 4).view(1, 6, 3, 2, 4)
    frames = np.stack(list(picture_frames(pictures, nothing)))
    whole = (pictures[0].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    assert np.array_equal(frames, whole)
    pictures[0, 5, 0, 0, 0] = float("nan")
    with pytest.raises(PermanentFailure, match="not numbers"):
        list(picture_frames(pictures, nothing))
