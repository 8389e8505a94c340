"""Hallo2's engine on a CUDA device that computes nothing: where its tensors are, and in which precision."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.hallo2.engine import Hallo2Engine  # noqa: E402 - torch first
from models.hallo2.pipeline import Thrift  # noqa: E402
from models.networks.hallo2 import RegionMasks  # noqa: E402
from models.site import Site, resources_of  # noqa: E402
from models.video_streams import decode_video  # noqa: E402
from tests.absent_gpu import DEVICE, WaitsNoted  # noqa: E402
from tests.run_context import LocalRunContext  # noqa: E402
from tests.unit.test_hallo2_engine import FRAME_SAMPLES, SPEC, ask, speech  # noqa: E402

# diffusers' schedulers hand torch tensors to NumPy 2 in its old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = 2


@pytest.fixture(scope="module")
def engine(hallo2_models_dir, gpu) -> Hallo2Engine:
    made = SPEC.make()
    made.load(resources_of(SPEC, Site(models_dir=hallo2_models_dir), device=DEVICE, threads=1))
    return made


def steps(context: WaitsNoted) -> list[list[int]]:
    """The waits of each clip's steps."""
    return [waits for stage, waits in context.waits.items() if stage.startswith("clip")]


def test_weights_are_in_half_precision_on_the_device(engine):
    parts = [*engine._pipeline._networks.by_prefix().values(), engine._pipeline._vae]
    tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]

    assert {(tensor.device.type, tensor.dtype) for tensor in tensors} == {("cuda", torch.float16)}
    assert {parameter.device.type for parameter in engine._hearing.parameters()} == {"cuda"}


def test_a_film_is_drawn_there_and_no_step_waits_for_it(engine, gpu, tmp_path):
    context = WaitsNoted(tmp_path, gpu)
    sound = speech(tmp_path, 17 * FRAME_SAMPLES)
    result = engine.run(ask(sound, inference_steps=STEPS), context).values

    assert len(list(decode_video(result["video_path"]))) == result["num_frames"] == 17
    assert result["peak_gpu_memory_bytes"] is not None
    first, second = steps(context)
    assert len(first) == len(second) == STEPS + 1
    assert len(set(first)) == len(set(second)) == 1
    assert second[0] - first[0] == 3  # the clip's end, its frames, and those that the next begins from


@pytest.mark.parametrize("solver", ["dpm++", "unipc"])
def test_no_solver_waits_for_it(engine, gpu, tmp_path, solver):
    context = WaitsNoted(tmp_path, gpu)
    engine.run(ask(speech(tmp_path, 1), solver=solver, inference_steps=STEPS), context)

    (waits,) = steps(context)
    assert len(waits) == STEPS + 1
    assert len(set(waits)) == 1


def test_less_at_once_runs_there_too(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(engine._pipeline, "thrift", Thrift().next())
    result = engine.run(ask(speech(tmp_path, 1), inference_steps=1), LocalRunContext(tmp_path)).values

    assert result["num_frames"] == 1


def test_a_mask_that_stays_behind_is_noticed(engine, tmp_path, monkeypatch):
    """The device of these tests refuses what a real one refuses."""
    monkeypatch.setattr(RegionMasks, "to", lambda self, _device, _dtype: self)

    with pytest.raises(RuntimeError, match="tensors on cpu"):
        engine.run(ask(speech(tmp_path, 1), inference_steps=1), LocalRunContext(tmp_path))


def test_another_precision_is_noticed(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(engine._pipeline, "_moved", lambda values: values.to(DEVICE))

    with pytest.raises(RuntimeError, match="float"):
        engine.run(ask(speech(tmp_path, 1), inference_steps=1), LocalRunContext(tmp_path))
