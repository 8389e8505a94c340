"""Text to video on a CUDA device that computes nothing: our own code around diffusers' pipeline.

What is timed or compiled there is left out: attention kernels, compiled blocks, streamed weights.
"""

from __future__ import annotations

from unittest import mock

import pytest

torch = pytest.importorskip("torch")

from models.site import Site, resources_of  # noqa: E402 - torch first
from models.text_to_video import engine as engine_module  # noqa: E402
from models.text_to_video.engine import DiffusersEngine  # noqa: E402
from models.video_streams import decode_video  # noqa: E402
from tests.absent_gpu import DEVICE, WaitsNoted  # noqa: E402
from tests.run_context import LocalRunContext  # noqa: E402
from tests.tiny_pipelines import NUM_FRAMES, save_tiny_wan  # noqa: E402
from tests.unit.test_text_to_video_engine import FULL, STEPS, ask  # noqa: E402


@pytest.fixture(scope="module")
def engine(gpu, tmp_path_factory) -> DiffusersEngine:
    """Loaded with its warm-up, which runs uncompiled."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_wan(folder / "text_to_video" / "tiny-wan")
    made = FULL.make()
    with (
        mock.patch.object(engine_module, "fastest_attention", return_value=None),
        mock.patch.object(engine_module, "compile_blocks", lambda _networks, warm, _folder: bool(warm())),
    ):
        made.load(resources_of(FULL, Site(models_dir=folder), device=DEVICE, threads=1))
    return made


def test_a_clip_is_drawn_there_and_no_step_waits_for_it(engine, gpu, tmp_path):
    context = WaitsNoted(tmp_path, gpu)
    values = engine.run(ask(), context).values

    assert len(list(decode_video(values["video_path"]))) == values["num_frames"] == NUM_FRAMES
    assert values["peak_gpu_memory_bytes"] is not None
    assert len(context.waits["denoise"]) > STEPS
    assert len(set(context.waits["denoise"])) == 1
    assert len(set(context.waits["decode"])) == 1  # frames come by copies that an event ends


def test_weights_are_in_half_precision_on_the_device(engine):
    networks = [engine._pipeline.transformer, engine._pipeline.vae, engine._pipeline.text_encoder]

    assert {network.dtype for network in networks} == {torch.bfloat16}
    assert {parameter.device.type for network in networks for parameter in network.parameters()} == {"cuda"}


def test_a_repeated_prompt_comes_back_to_the_device(engine, tmp_path):
    engine.run(ask(prompt="again"), LocalRunContext(tmp_path / "first"))
    with mock.patch.object(engine._encoder, "_encode", side_effect=AssertionError("asked again")):
        values = engine.run(ask(prompt="again"), LocalRunContext(tmp_path / "second")).values

    assert values["num_frames"] == NUM_FRAMES
