"""FlashVSR's engine on a CUDA device that computes nothing: where its tensors are, and in which precision."""

from __future__ import annotations

import pytest
import torch

from models.engine import Resources
from models.flashvsr.engine import FlashVsrEngine
from models.flashvsr.memory_plan import FreeBytes
from models.networks import flashvsr_attention, flashvsr_transformer
from models.networks.flashvsr_attention import BACKENDS, kept_lists
from models.networks.flashvsr_transformer import rotations
from models.video_streams import decode_video
from models.zoo.flashvsr import UpscaleInputs
from tests.absent_gpu import DEVICE
from tests.flashvsr_tiny import TINY, save_original, tiny_weights
from tests.run_context import LocalRunContext
from tests.unit.test_flashvsr_engine import clip, has_memory


def as_the_kernel_does(queries, keys, values, kept, windows):
    """Its launch, as far as a machine without a GPU can follow: what it is given, and what it takes."""
    places, counts = kept_lists(kept, windows)
    given = (queries, keys, values, places, counts)
    assert {tensor.device.type for tensor in given} == {"cuda"}
    assert {tensor.dtype for tensor in given} == {torch.bfloat16, torch.int32}
    assert {tensor.stride(-1) for tensor in given[:4]} == {1}
    return queries.new_empty(queries.shape)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        version: save_original(tmp_path_factory.mktemp("models"), tiny_weights(), version)
        for version in ("v1", "v1.1")
    }


@pytest.fixture(scope="module")
def gpu(gpu):
    """With the kernel's launch instead of the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        table = {**BACKENDS, "triton": as_the_kernel_does}
        for module in (flashvsr_attention, flashvsr_transformer):
            patch.setattr(module, "BACKENDS", table)
        patch.setattr("models.flashvsr.pipeline.BACKENDS", table)
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        yield gpu


def loaded(folder):
    engine = FlashVsrEngine(TINY)
    engine.load(Resources(device=DEVICE, threads=1, weights={"flashvsr": folder}))
    return engine


@pytest.fixture(scope="module")
def engine(folders, gpu):
    return loaded(folders["v1.1"])


def ran(engine, tmp_path, variant="tiny_long", size="48x32"):
    source = clip(tmp_path / "clip.mp4", size, 30)
    inputs = UpscaleInputs(video_path=str(source), scale=2).model_copy(update={"model_variant": variant})
    return engine.run(inputs, LocalRunContext(tmp_path)).values


@pytest.mark.parametrize("variant", ["tiny", "tiny_long", "full"])
def test_every_variant_runs_there(engine, tmp_path, variant):
    values = ran(engine, tmp_path, variant)
    assert values["attention"] == "triton"
    assert values["peak_gpu_memory_bytes"] is not None
    assert len(list(decode_video(values["video_path"]))) == 30


def test_v1_and_its_colours_run_there(folders, gpu, tmp_path):
    assert ran(loaded(folders["v1"]), tmp_path)["version"] == "v1"


def test_tiles_whose_caches_wait_in_main_memory_run_there(engine, tmp_path, monkeypatch):
    has_memory(engine, monkeypatch, FreeBytes(device=1 << 30, host=1 << 40))
    assert ran(engine, tmp_path, size="180x60")["tiles"]["parked"]


def test_weights_are_in_half_precision_on_the_device(engine):
    networks = engine._networks
    parts = (networks.transformer, networks.projector, networks.decoder)
    tensors = [networks.prompt, *(tensor for part in parts for tensor in part.state_dict().values())]
    assert {(tensor.device.type, tensor.dtype) for tensor in tensors} == {("cuda", torch.bfloat16)}


def test_the_host_never_waits_for_a_chunk(engine, gpu, tmp_path):
    """Its frames, and the answer whether they are numbers, land behind an event."""
    waits = gpu.waits
    ran(engine, tmp_path)
    assert gpu.waits == waits


def test_without_triton_the_gathered_backend_runs_there(folders, gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(flashvsr_attention, "find_spec", {}.get)
    assert ran(loaded(folders["v1.1"]), tmp_path)["attention"] == "gathered"


def test_what_stays_behind_is_noticed(engine, tmp_path, monkeypatch):
    """The device of these tests refuses what a real one refuses."""
    monkeypatch.setattr(
        flashvsr_transformer, "rotations", lambda *given: rotations(*given[:3], torch.device("cpu"))
    )
    with pytest.raises(RuntimeError, match="cpu"):
        ran(engine, tmp_path)
