"""Hallo2's engine on a tiny folder of the original layout: from picture and sound to a video."""

from __future__ import annotations

import shutil
import wave
import weakref
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.engine import (  # noqa: E402 - torch first
    Cancelled,
    EngineKind,
    EngineSpec,
    InvalidInput,
    ModelNotReady,
    OutOfMemory,
    Resources,
)
from models.face_weights import FACE_WEIGHTS  # noqa: E402
from models.hallo2.engine import Hallo2Engine  # noqa: E402
from models.hallo2.manifest import HALLO2_FOLDER, VAE_FOLDER, WAV2VEC_FOLDER  # noqa: E402
from models.hallo2.pipeline import CLIP_FRAMES, ClipPipeline, Thrift  # noqa: E402
from models.media import probe  # noqa: E402
from models.site import Site, resources_of  # noqa: E402
from models.video_streams import decode_video  # noqa: E402
from models.zoo.hallo2 import AnimateInputs  # noqa: E402
from tests.hallo2_tiny import TINY  # noqa: E402
from tests.run_context import LocalRunContext  # noqa: E402
from tests.stores import SAMPLES  # noqa: E402

SIDE_PX, STEPS = 64, 2
RATE_HZ, FRAME_SAMPLES = 16_000, 640
SPEC = EngineSpec(
    name="hallo2",
    kind=EngineKind.FULL,
    make=lambda: Hallo2Engine(TINY, SIDE_PX),
    weights=FACE_WEIGHTS,
    folders=(HALLO2_FOLDER,),
)


def resources(models_dir: Path) -> Resources:
    return resources_of(SPEC, Site(models_dir=models_dir), device="cpu", threads=1)


@pytest.fixture(scope="module")
def loaded(hallo2_models_dir) -> Hallo2Engine:
    made = SPEC.make()
    made.load(resources(hallo2_models_dir))
    return made


@pytest.fixture
def engine(loaded) -> Hallo2Engine:
    loaded._pipeline.thrift = Thrift()
    return loaded


def speech(folder: Path, num_samples: int) -> Path:
    """A tone that swells and fades, as 16-bit WAV."""
    times_s = np.arange(num_samples) / RATE_HZ
    values = np.sin(2 * np.pi * 220 * times_s) * np.sin(np.pi * 3 * times_s) * 12_000
    path = folder / f"speech-{num_samples}.wav"
    with wave.open(str(path), "wb") as writer:
        writer.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        writer.writeframes(values.astype("<i2").tobytes())
    return path


def ask(sound: Path, **changes) -> AnimateInputs:
    usual = {"image_path": str(SAMPLES / "portrait.png"), "audio_path": str(sound), "inference_steps": STEPS}
    return AnimateInputs(**usual | changes)


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame for frame, _ in decode_video(path)])


class Store(LocalRunContext):
    """Keeps what is committed as a store does: a part of the same name is replaced.

    The attempt is lost when `lose_after` clips are whole.
    """

    def __init__(self, root: Path, *, lose_after: int | None = None, **options) -> None:
        super().__init__(root / "attempt", **options)
        self.folder = root / "store"
        self.folder.mkdir()
        self._lose_after = lose_after

    @property
    def parts(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def commit(self, path: Path) -> None:
        super().commit(path)
        shutil.copy(path, self.folder / path.name)
        if sum(one.suffix == ".npz" for one in self.commits) == self._lose_after:
            self.cancel()


def test_a_portrait_and_a_sound_are_a_video(engine, tmp_path):
    context = LocalRunContext(tmp_path)
    result = engine.run(ask(speech(tmp_path, RATE_HZ)), context).values

    info = probe(result["video_path"])
    assert (info.video.width_px, info.video.height_px) == (SIDE_PX, SIDE_PX)
    assert info.audio is not None
    assert len(frames_of(result["video_path"])) == result["num_frames"] == 25
    assert (result["fps"], result["duration"], result["num_clips"]) == (25, 1.0, 2)
    assert (result["solver"], result["inference_steps"], result["guidance_scale"]) == ("ddim", STEPS, 3.5)
    assert (result["seed"], result["model"]) == (42, "Hallo2")
    assert {"load", "faces", "audio", "denoise", "denoise_per_step", "decode", "mux", "total"} == set(
        result["stage_seconds"]
    )
    assert any("embedding is zeros" in note for note in result["notes"])
    assert any("audio_separator" in note for note in result["notes"])


def test_progress_tells_the_clip_and_counts_all_steps(engine, tmp_path):
    context = LocalRunContext(tmp_path)
    engine.run(ask(speech(tmp_path, RATE_HZ)), context)

    clips = [
        (report.stage, report.done, report.total) for report in context.reports if report.unit == "steps"
    ]
    assert clips == [
        ("clip 1/2", 0, 4),
        ("clip 1/2", 1, 4),
        ("clip 1/2", 2, 4),
        ("clip 2/2", 2, 4),
        ("clip 2/2", 3, 4),
        ("clip 2/2", 4, 4),
        ("mux", 4, 4),
    ]
    assert [report.stage for report in context.reports[:2]] == ["faces", "audio"]


@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [(1, 1), (16 * FRAME_SAMPLES, 16), (16 * FRAME_SAMPLES + 1, 17)],
)
def test_the_video_is_as_long_as_the_sound(engine, tmp_path, num_samples, num_frames):
    inputs = ask(speech(tmp_path, num_samples), inference_steps=1, guidance_scale=1)
    result = engine.run(inputs, LocalRunContext(tmp_path)).values

    assert len(frames_of(result["video_path"])) == result["num_frames"] == num_frames
    assert result["num_clips"] == -(-num_frames // CLIP_FRAMES)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """The sound of three clips, the last one shorter."""
    return speech(tmp_path_factory.mktemp("film"), 3 * CLIP_FRAMES * FRAME_SAMPLES - 2000)


@pytest.fixture(scope="module")
def left_behind(loaded, film, tmp_path_factory) -> tuple[Path, ...]:
    """What an attempt had committed that was lost after two clips."""
    lost = Store(tmp_path_factory.mktemp("lost"), lose_after=2)
    with pytest.raises(Cancelled):
        loaded.run(ask(film, inference_steps=1), lost)
    return tuple(lost.parts)


def first_clip(context: LocalRunContext) -> str:
    return next(report.stage for report in context.reports if report.unit == "steps")


def test_a_film_that_was_lost_goes_on_and_is_the_unbroken_one(
    engine, film, left_behind, tmp_path, monkeypatch
):
    """Compared as it is drawn, before the encoder."""
    draw, drawn = ClipPipeline.clip, []
    monkeypatch.setattr(ClipPipeline, "clip", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    engine.run(ask(film, inference_steps=1), LocalRunContext(tmp_path / "whole"))
    *_, unbroken = drawn
    again = Store(tmp_path / "again", kept=left_behind)
    result = engine.run(ask(film, inference_steps=1), again).values

    assert len(left_behind) == 3  # two clips, and what the third begins from
    assert first_clip(again) == "clip 3/3"
    assert any("2 clips were there" in note for note in result["notes"])
    assert len(drawn) == 3 + 1
    assert np.array_equal(drawn[-1].frames, unbroken.frames)
    assert len(frames_of(result["video_path"])) == 45


@pytest.mark.parametrize("damage", ["a clip is gone", "the state is cut short", "another seed"])
def test_parts_that_do_not_fit_are_not_used(engine, film, left_behind, tmp_path, damage):
    kept = [Path(shutil.copy(part, tmp_path)) for part in left_behind]
    if damage == "a clip is gone":
        kept = kept[1:]
    if damage == "the state is cut short":
        (state,) = (part for part in kept if part.suffix == ".npz")
        state.write_bytes(state.read_bytes()[:100])

    again = LocalRunContext(tmp_path / "again", kept=kept)
    inputs = ask(film, inference_steps=1, seed=43 if damage == "another seed" else 42)
    result = engine.run(inputs, again).values

    assert first_clip(again) == "clip 1/3"
    assert len(frames_of(result["video_path"])) == result["num_frames"] == 45


def test_a_cancel_is_heard_between_steps(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(engine._pipeline._vae, "decode", lambda *_: pytest.fail("decoded"))
    context = LocalRunContext(tmp_path, cancel_at=3)

    with pytest.raises(Cancelled):
        engine.run(ask(speech(tmp_path, RATE_HZ), inference_steps=20), context)

    assert context.reports[-1].done == 3
    assert not context.commits


def test_no_more_clips_are_held_for_a_longer_film(engine, tmp_path, monkeypatch):
    """The one in work, the one before it, two that wait for the encoder and one that is encoded."""
    drawn, clips, held = ClipPipeline.clip, [], []

    def counted(self, *arguments):
        clip = drawn(self, *arguments)
        clips.append(weakref.ref(clip.motion))
        held.append(sum(motion() is not None for motion in clips))
        return clip

    monkeypatch.setattr(ClipPipeline, "clip", counted)
    sound = speech(tmp_path, 9 * CLIP_FRAMES * FRAME_SAMPLES)
    engine.run(ask(sound, inference_steps=1, guidance_scale=1), LocalRunContext(tmp_path))

    assert len(held) == 9
    assert max(held) <= 5


def run_out(times: int):
    """A hook that fails as a full GPU does, so many times."""
    left = [times]

    def hook(_network, _given) -> None:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return hook


def test_out_of_memory_is_answered_with_less_at_once(engine, tmp_path):
    sound = speech(tmp_path, RATE_HZ)
    usual = engine.run(ask(sound, inference_steps=1), LocalRunContext(tmp_path / "usual")).values
    with engine._pipeline._networks.denoising_unet.register_forward_pre_hook(run_out(1)):
        result = engine.run(ask(sound, inference_steps=1), LocalRunContext(tmp_path / "less")).values

    assert any("Out of memory at first" in note for note in result["notes"])
    difference = np.abs(frames_of(result["video_path"]).astype(int) - frames_of(usual["video_path"]))
    assert difference.mean() < 1


def test_out_of_memory_twice_is_told(engine, tmp_path):
    with (
        engine._pipeline._networks.denoising_unet.register_forward_pre_hook(run_out(2)),
        pytest.raises(OutOfMemory, match=r"2\.00 GiB"),
    ):
        engine.run(ask(speech(tmp_path, RATE_HZ)), LocalRunContext(tmp_path))


@pytest.mark.parametrize(
    ("field", "content"), [("audio_path", b"words"), ("image_path", b"words")], ids=["sound", "picture"]
)
def test_bad_inputs_are_told_by_their_field(engine, tmp_path, field, content):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(content)

    with pytest.raises(InvalidInput) as caught:
        engine.run(ask(speech(tmp_path, 100), **{field: str(bad)}), LocalRunContext(tmp_path))

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("net.pth", "net.pth"),
        (f"{VAE_FOLDER}/config.json", "sd-vae-ft-mse/config.json"),
        (f"{WAV2VEC_FOLDER}/model.safetensors", "wav2vec2-base-960h"),
    ],
)
def test_what_is_missing_is_named(hallo2_models_dir, tmp_path, name, told):
    shutil.copytree(hallo2_models_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / "hallo2" / name).unlink()

    with pytest.raises(ModelNotReady, match=told):
        resources(tmp_path)


@pytest.mark.parametrize("folder", [VAE_FOLDER, WAV2VEC_FOLDER])
def test_a_damaged_part_is_named_when_the_engine_loads(hallo2_models_dir, tmp_path, folder):
    shutil.copytree(hallo2_models_dir, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "hallo2" / folder).glob("*.safetensors"):
        path.write_bytes(b"broken")

    with pytest.raises(ModelNotReady, match=Path(folder).name):
        SPEC.make().load(resources(tmp_path))
