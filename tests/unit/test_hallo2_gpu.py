"""Hallo2's engine on a CUDA device that computes nothing: where its tensors are, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from models.hallo2.engine import Hallo2Engine  # noqa: E402 - torch first
from models.hallo2.pipeline import Thrift  # noqa: E402
from models.networks.hallo2 import RegionMasks  # noqa: E402
from models.site import Site, resources_of  # noqa: E402
from models.video_streams import decode_video  # noqa: E402
from tests.absent_gpu import DEVICE, AbsentGpu, absent_gpu  # noqa: E402
from tests.hallo2_tiny import save_tiny_folder  # noqa: E402
from tests.run_context import LocalRunContext  # noqa: E402
from tests.unit.test_hallo2_engine import FRAME_SAMPLES, SPEC, ask, speech  # noqa: E402

# diffusers' schedulers hand torch tensors to NumPy 2 in its old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = 2


class Watched(LocalRunContext):
    """Notes how often the host had waited for the device at each report of a step."""

    def __init__(self, root: Path, gpu: AbsentGpu) -> None:
        super().__init__(root)
        self.waits: list[int] = []
        self._gpu = gpu

    def report(self, done: float, total: float | None = None, *, stage: str = "", unit: str = "") -> None:
        if stage.startswith("clip"):
            self.waits.append(self._gpu.waits)
        super().report(done, total, stage=stage, unit=unit)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_folder(folder / "hallo2")
    return folder


@pytest.fixture(scope="module")
def gpu() -> Iterator[AbsentGpu]:
    with absent_gpu() as device:
        yield device


@pytest.fixture(scope="module")
def engine(models_dir, gpu) -> Hallo2Engine:
    made = SPEC.make()
    made.load(resources_of(SPEC, Site(models_dir=models_dir), device=DEVICE, threads=1))
    return made


def test_weights_are_in_half_precision_on_the_device(engine):
    parts = [*engine._pipeline._networks.by_prefix().values(), engine._pipeline._vae]
    tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]

    assert {(tensor.device.type, tensor.dtype) for tensor in tensors} == {("cuda", torch.float16)}
    assert {parameter.device.type for parameter in engine._hearing.parameters()} == {"cuda"}


def test_a_film_is_drawn_there_and_no_step_waits_for_it(engine, gpu, tmp_path):
    context = Watched(tmp_path, gpu)
    sound = speech(tmp_path, 17 * FRAME_SAMPLES)
    result = engine.run(ask(sound, inference_steps=STEPS), context).values

    assert len(list(decode_video(result["video_path"]))) == result["num_frames"] == 17
    assert result["peak_gpu_memory_bytes"] is not None
    first, second = context.waits[: STEPS + 1], context.waits[STEPS + 1 :]
    assert len(set(first)) == len(set(second)) == 1
    assert second[0] - first[0] == 3  # the clip's end, its frames, and those that the next begins from


@pytest.mark.parametrize("solver", ["dpm++", "unipc"])
def test_no_solver_waits_for_it(engine, gpu, tmp_path, solver):
    context = Watched(tmp_path, gpu)
    engine.run(ask(speech(tmp_path, 1), solver=solver, inference_steps=STEPS), context)

    assert len(context.waits) == STEPS + 1
    assert len(set(context.waits)) == 1


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
