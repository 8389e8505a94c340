"""The engine on a tiny random WanPipeline: real diffusers code from a saved folder to an H.264 file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

torch = pytest.importorskip("torch")

from models.engine import (  # noqa: E402 - torch first
    Cancelled,
    InvalidInput,
    ModelNotReady,
    OutOfMemory,
    PermanentFailure,
    Resources,
    TimedOut,
)
from models.media import probe  # noqa: E402
from models.site import Site, resources_of  # noqa: E402
from models.span_weights import SPAN_WEIGHTS  # noqa: E402
from models.text_to_video.denoising import StepWatch  # noqa: E402
from models.text_to_video.engine import DiffusersEngine  # noqa: E402
from models.text_to_video.presets import SHAPES  # noqa: E402
from models.text_to_video.prompt_cache import PromptCache  # noqa: E402
from models.video_streams import decode_video  # noqa: E402
from models.weights import locate  # noqa: E402
from models.zoo.text_to_video import MODELS, GenerateInputs  # noqa: E402
from tests.run_context import LocalRunContext  # noqa: E402
from tests.tiny_pipelines import MAX_TOKENS, NUM_FRAMES, SIDE_PX, save, save_tiny_wan, tiny_ltx  # noqa: E402

FPS, STEPS = 8, 4
FULL = MODELS[0].engines[0]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory) -> Path:
    """MEDIARAY_MODELS_DIR of an operator who put one model into it."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_wan(folder / "text_to_video" / "tiny-wan")
    return folder


@pytest.fixture(scope="module")
def engine(models_dir) -> DiffusersEngine:
    """The full engine as a replica makes and loads it."""
    made = FULL.make()
    made.load(resources_of(FULL, Site(models_dir=models_dir), device="cpu", threads=1))
    return made


def ask(**changes) -> GenerateInputs:
    usual = {
        "prompt": "a red circle moves to the left",
        "width": SIDE_PX,
        "height": SIDE_PX,
        "num_frames": NUM_FRAMES,
        "fps": FPS,
        "num_inference_steps": STEPS,
        "guidance_scale": 3.0,
        "seed": 7,
    }
    return GenerateInputs(**usual | changes)


def run(engine: DiffusersEngine, root: Path, context: LocalRunContext | None = None, **changes) -> dict:
    return engine.run(ask(**changes), context or LocalRunContext(root)).values


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame for frame, _ in decode_video(path)])


def digest(values: dict) -> str:
    return hashlib.sha256(frames_of(values["video_path"]).tobytes()).hexdigest()


@contextmanager
def counted(
    module, *, fail: int = 0, error: type[BaseException] = torch.OutOfMemoryError
) -> Iterator[list[int]]:
    """The passes of a network, of which the first `fail` end in `error`."""
    passes: list[int] = []

    def before(_module, _inputs) -> None:
        passes.append(1)
        if len(passes) <= fail:
            raise error("CUDA out of memory. Tried to allocate 4.00 GiB")

    with module.register_forward_pre_hook(before):
        yield passes


def test_the_file_is_the_clip_that_was_asked_for(engine, tmp_path) -> None:
    values = run(engine, tmp_path)
    info = probe(values["video_path"])
    assert values["video_path"].parent == tmp_path / "output"
    assert info.video is not None
    assert info.audio is None
    assert (info.video.codec, info.video.pixel_format) == ("h264", "yuv420p")
    assert (info.video.width_px, info.video.height_px, info.video.fps) == (SIDE_PX, SIDE_PX, FPS)
    assert info.duration_s == pytest.approx(NUM_FRAMES / FPS)
    frames = frames_of(values["video_path"])
    assert frames.shape == (NUM_FRAMES, SIDE_PX, SIDE_PX, 3)
    assert frames.std() > 5
    told = {name: values[name] for name in ("width", "height", "num_frames", "fps", "duration", "seed")}
    assert told == {"width": 64, "height": 64, "num_frames": 9, "fps": 8, "duration": 1.125, "seed": 7}
    assert (values["num_inference_steps"], values["guidance_scale"]) == (STEPS, 3.0)
    assert (values["model"], values["cache"]) == ("tiny-wan", "exact")


def test_the_file_shows_what_the_bare_pipeline_makes(engine, models_dir, tmp_path) -> None:
    from diffusers import DiffusionPipeline

    bare = DiffusionPipeline.from_pretrained(
        models_dir / "text_to_video" / "tiny-wan", local_files_only=True, dtype=torch.float32
    )
    bare.set_progress_bar_config(disable=True)
    values = run(engine, tmp_path, negative_prompt="")
    pictures = bare(
        prompt=values["prompt"], negative_prompt="", width=SIDE_PX, height=SIDE_PX, num_frames=NUM_FRAMES,
        num_inference_steps=STEPS, guidance_scale=3.0, generator=torch.Generator("cpu").manual_seed(7),
        max_sequence_length=512, output_type="np",
    ).frames[0]  # fmt: skip
    error = np.mean((frames_of(values["video_path"]) / 255 - pictures) ** 2)
    assert 10 * np.log10(1 / error) > 25  # x264 and 4:2:0 of noise cost the rest


def test_a_seed_is_a_video(engine, tmp_path) -> None:
    first, again = (run(engine, tmp_path / name) for name in ("a", "b"))
    other = run(engine, tmp_path / "c", seed=8)
    assert digest(first) == digest(again) != digest(other)


def test_a_seed_that_is_not_given_belongs_to_the_task(engine, tmp_path) -> None:
    runs = [("a", "one"), ("b", "one"), ("c", "two")]
    first, again, other = (
        run(engine, tmp_path / root, LocalRunContext(tmp_path / root, task_id=task), seed=None)
        for root, task in runs
    )
    assert digest(first) == digest(again) != digest(other)
    assert digest(run(engine, tmp_path / "d", seed=first["seed"])) == digest(first)


def test_progress_goes_up_stage_by_stage(engine, tmp_path) -> None:
    context = LocalRunContext(tmp_path)
    run(engine, tmp_path, context)
    stages = {
        stage: [(report.done, report.total, report.unit) for report in reports]
        for stage, reports in groupby(context.reports, lambda report: report.stage)
    }
    assert list(stages) == ["encode", "denoise", "decode"]
    for reports in stages.values():
        done = [report[0] for report in reports]
        assert done == sorted(done)
        assert done[0] == 0
    assert stages["denoise"][-1] == (STEPS, STEPS, "steps")
    assert {report[0] for report in stages["denoise"]} == set(range(STEPS + 1))
    assert stages["decode"][-1] == (NUM_FRAMES, NUM_FRAMES, "frames")


def test_stages_are_measured(engine, tmp_path) -> None:
    seconds = run(engine, tmp_path, prompt="a green star")["stage_seconds"]
    assert set(seconds) == {"load", "encode", "denoise", "denoise_per_step", "decode", "mux", "total"}
    assert all(took_s > 0 for took_s in seconds.values())
    assert sum(seconds[name] for name in ("encode", "denoise", "decode", "mux")) <= seconds["total"] + 1e-3
    assert seconds["denoise_per_step"] == pytest.approx(seconds["denoise"] / STEPS, abs=1e-4)


def test_a_cancel_at_step_3_ends_before_step_4_and_nothing_is_decoded(engine, tmp_path) -> None:
    context = LocalRunContext(tmp_path, cancel_at=3)
    with (
        counted(engine._pipeline.vae.decoder) as decoded,
        counted(engine._pipeline.transformer) as passes,
        pytest.raises(Cancelled),
    ):
        run(engine, tmp_path, context)
    assert len(passes) == 2 * 3
    assert not decoded
    assert not list(context.output_dir.iterdir())
    assert digest(run(engine, tmp_path / "b")) == digest(
        run(engine, tmp_path / "c")
    )  # nothing is left behind


@pytest.mark.parametrize("component", ["text_encoder", "transformer", "vae"])
def test_a_stop_is_heard_in_every_part(engine, tmp_path, component) -> None:
    context = LocalRunContext(tmp_path)
    part = getattr(engine._pipeline, component)
    with (
        (part.decoder if component == "vae" else part).register_forward_hook(lambda *_: context.time_out()),
        pytest.raises(TimedOut),
    ):
        run(engine, tmp_path, context, prompt=f"a blue square {component}")
    assert not list(context.output_dir.iterdir())


def modules(engine: DiffusersEngine) -> dict:
    pipeline = engine._pipeline
    return {"encode": pipeline.text_encoder, "denoise": pipeline.transformer, "decode": pipeline.vae.decoder}


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_out_of_memory_once_is_degraded_repeated_and_told(engine, tmp_path, stage) -> None:
    prompt = f"a black square {stage}"
    with counted(modules(engine)["denoise"]) as denoised, counted(modules(engine)[stage], fail=1):
        values = run(engine, tmp_path, prompt=prompt)
    assert engine._pipeline.vae.use_tiling
    assert [note for note in values["notes"] if "Out of memory" in note and "tiles" in note]
    assert len(denoised) == 2 * STEPS + (stage == "denoise")  # only what failed is repeated
    assert frames_of(values["video_path"]).shape[0] == NUM_FRAMES
    calm = run(engine, tmp_path / "calm", prompt=prompt)
    assert digest(calm) == digest(values)
    assert not [note for note in calm["notes"] if "emory" in note]


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_out_of_memory_twice_is_told_as_such(engine, tmp_path, stage) -> None:
    context = LocalRunContext(tmp_path)
    with counted(modules(engine)[stage], fail=2) as passes, pytest.raises(OutOfMemory, match=r"4\.00 GiB"):
        run(engine, tmp_path, context, prompt=f"a white star {stage}")
    assert len(passes) == 2
    assert not list(context.output_dir.iterdir())


def test_a_prompt_is_encoded_once(engine, tmp_path) -> None:
    with counted(engine._pipeline.text_encoder) as encoded:
        first = run(engine, tmp_path / "a", prompt="a white circle moves up")
        assert len(encoded) == 2  # the prompt and the negative one
        again = run(engine, tmp_path / "b", prompt="a white circle moves up")
        assert len(encoded) == 2
        run(engine, tmp_path / "c", prompt="a white circle moves down")
        assert len(encoded) == 4
    assert digest(first) == digest(again)


def test_the_prompt_cache_forgets_the_oldest_first() -> None:
    cpu = torch.device("cpu")
    cache = PromptCache(max_bytes=3 * 16)
    said = {name: (torch.full((4,), float(number)), None) for number, name in enumerate("abcd")}
    for name in "abc":
        cache.put(name, said[name])
    assert cache.get("a", cpu) is not None  # used, so that b is the oldest
    cache.put("d", said["d"])
    assert cache.get("b", cpu) is None
    for name in "acd":
        kept, nothing = cache.get(name, cpu)
        assert torch.equal(kept, said[name][0])
        assert nothing is None
    cache.put("large", torch.zeros(100))
    assert cache.get("large", cpu) is None


def test_guidance_of_one_asks_the_network_once_a_step(engine, tmp_path) -> None:
    with counted(engine._pipeline.transformer) as passes:
        run(engine, tmp_path, guidance_scale=1.0)
    assert len(passes) == STEPS


def test_a_cache_between_steps_is_opt_in_and_told(engine, tmp_path) -> None:
    exact = run(engine, tmp_path / "exact")
    cached = run(engine, tmp_path / "cached", cache="first_block_cache")
    assert cached["cache"] == "first_block_cache"
    assert [note for note in cached["notes"] if "FirstBlockCache" in note]
    assert digest(run(engine, tmp_path / "again")) == digest(
        exact
    )  # and gone with the task that asked for it
    with pytest.raises(InvalidInput, match="mag_ratios") as refused:
        run(engine, tmp_path / "mag", cache="mag_cache")
    assert refused.value.field == "cache"


def test_sizes_are_snapped_and_told(engine, tmp_path) -> None:
    values = run(engine, tmp_path, width=70, height=90, num_frames=6, num_inference_steps=1)
    assert (values["width"], values["height"], values["num_frames"]) == (64, 96, 9)
    assert frames_of(values["video_path"]).shape == (9, 96, 64, 3)
    assert [note for note in values["notes"] if "70x90" in note]
    assert [note for note in values["notes"] if "9 instead of 6" in note]


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_broken_numbers_are_no_black_video(engine, tmp_path, stage) -> None:
    context = LocalRunContext(tmp_path)
    parameter = next(modules(engine)[stage].parameters())
    before = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.fill_(float("nan"))
        with pytest.raises(PermanentFailure, match="not numbers"):
            run(engine, tmp_path, context, prompt="a broken square")
    finally:
        with torch.no_grad():
            parameter.copy_(before)
    assert not list(context.output_dir.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        {"guidance_scale": float("nan")},
        {"guidance_scale": float("inf")},
        {"guidance_scale": -1},
        {"num_inference_steps": 0},
        {"num_inference_steps": 1000},
        {"num_frames": 0},
        {"num_frames": 10_000},
        {"width": -64},
        {"height": 100_000},
        {"fps": 0},
        {"seed": -1},
        {"seed": 2**63},
        {"prompt": ""},
        {"prompt": " \n"},
        {"prompt": "x" * 5_000},
        {"prompt": "a\x00cat"},
        {"cache": "fast"},
    ],
    ids=lambda wrong: "-".join(f"{name}={str(value)[:8]!r}" for name, value in wrong.items()),
)
def test_what_no_model_can_do_is_refused_at_submit(wrong) -> None:
    with pytest.raises(ValidationError):
        ask(**wrong)


@pytest.mark.parametrize(
    "prompt", ["🔴 红色 圆形 向 左 🎬", "a\r\nred\tcircle", "x" * 4_000], ids=["emoji", "lines", "long"]
)
def test_unusual_prompts_still_give_a_video(engine, tmp_path, prompt) -> None:
    values = run(engine, tmp_path, prompt=prompt, num_inference_steps=1)
    assert frames_of(values["video_path"]).shape[0] == NUM_FRAMES


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_folder_that_is_not_whole_is_not_ready(models_dir, tmp_path, damage) -> None:
    folder = save_tiny_wan(tmp_path / "text_to_video" / "damaged")
    victim = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    if damage == "truncated":
        victim.write_bytes(victim.read_bytes()[:-100])
    else:
        victim.unlink()
    resources = resources_of(FULL, Site(models_dir=tmp_path), device="cpu", threads=1)
    with pytest.raises(ModelNotReady, match="transformer"):
        DiffusersEngine().load(resources)


def stages_of(context: LocalRunContext) -> dict[str, list[float]]:
    return {
        stage: [report.done for report in reports]
        for stage, reports in groupby(context.reports, lambda report: report.stage)
    }


def test_a_pipeline_that_decodes_by_itself_gives_the_same_service(tmp_path) -> None:
    save(tiny_ltx(), tmp_path / "text_to_video" / "tiny-ltx")
    engine = DiffusersEngine()
    engine.load(resources_of(FULL, Site(models_dir=tmp_path), device="cpu", threads=1))
    context = LocalRunContext(tmp_path / "a")
    values = run(engine, tmp_path, context)
    frames = frames_of(values["video_path"])
    assert frames.shape == (NUM_FRAMES, SIDE_PX, SIDE_PX, 3)
    assert frames.std() > 5
    assert values["preset"] == "ltx-video"
    assert {stage: sorted(set(done)) for stage, done in stages_of(context).items()} == {
        "encode": [0],
        "denoise": list(range(STEPS + 1)),
        "decode": [0, *range(1, NUM_FRAMES + 1)],
    }
    assert values["stage_seconds"]["decode"] > 0
    with counted(engine._pipeline.vae.decoder) as decoded, pytest.raises(Cancelled):
        run(engine, tmp_path, LocalRunContext(tmp_path / "b", cancel_at=3))
    assert not decoded
    with counted(engine._pipeline.vae.decoder, fail=1):
        again = run(engine, tmp_path / "c")
    assert digest(again) == digest(values)
    assert [note for note in again["notes"] if "Out of memory" in note]


def test_a_pipeline_without_a_step_callback_is_watched_by_its_progress_bar(models_dir, tmp_path) -> None:
    """As HunyuanVideo-1.5's; here Wan's own loop behind a call with fewer arguments."""
    from diffusers import WanPipeline

    class Unwatched(WanPipeline):
        def __call__(self, prompt, negative_prompt, width, height, frames, **rest):
            keywords = {"width": width, "height": height, "num_frames": frames}
            return super().__call__(
                prompt, negative_prompt, **keywords, num_inference_steps=STEPS, output_type="pt", **rest
            )

    engine = DiffusersEngine()
    engine.load(resources_of(FULL, Site(models_dir=models_dir), device="cpu", threads=1))
    engine._pipeline.__class__ = Unwatched
    context = LocalRunContext(tmp_path / "a")
    assert frames_of(run(engine, tmp_path, context)["video_path"]).shape[0] == NUM_FRAMES
    assert stages_of(context)["denoise"][-STEPS:] == list(range(1, STEPS + 1))
    with counted(engine._pipeline.transformer) as passes, pytest.raises(Cancelled):
        run(engine, tmp_path, LocalRunContext(tmp_path / "b", cancel_at=2))
    assert len(passes) == 2 * 2


class SlowEvent:
    """Stands for a CUDA event, which this machine may not have: done when it was asked three times."""

    def __init__(self) -> None:
        self.asked = 0

    def record(self) -> None: ...

    def query(self) -> bool:
        self.asked += 1
        return self.asked >= 3


def test_on_a_gpu_only_finished_steps_count_and_one_more_is_handed_out(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", SlowEvent)
    told: list[int] = []
    checks: list[int] = []
    watch = StepWatch(torch.device("cuda"), 3, told.append, lambda: checks.append(1))
    watch.step_ended()
    assert told == [0]
    watch.step_ended()
    assert told == [0, 1]
    assert len(checks) == 2  # a wish to stop is heard while the host waits
    watch.step_ended()
    assert told == [0, 1, 3]


def test_a_stop_is_heard_while_a_gpu_works_on_a_step(monkeypatch) -> None:
    def stop() -> None:
        raise Cancelled

    monkeypatch.setattr(torch.cuda, "Event", SlowEvent)
    watch = StepWatch(torch.device("cuda"), 9, lambda _done: None, stop)
    watch.step_ended()
    with pytest.raises(Cancelled):
        watch.step_ended()


def test_an_empty_models_folder_is_told_at_submit(tmp_path) -> None:
    with pytest.raises(ModelNotReady, match=r"model_index\.json"):
        resources_of(FULL, Site(models_dir=tmp_path), device="cpu", threads=1)


def test_the_embedded_way_enlarges_and_tells_what_it_knows(models_dir, tmp_path) -> None:
    """Files instead of a folder, a given preset, frames shown larger than they are drawn."""
    index = models_dir / "text_to_video" / "tiny-wan" / "model_index.json"
    weights = {weight.path: locate(weight) for weight in SPAN_WEIGHTS} | {"shapes/model_index.json": index}
    preset = replace(SHAPES, steps=2, num_frames=5, max_sequence_length=MAX_TOKENS)
    engine = DiffusersEngine(preset)
    engine.load(Resources(weights=weights))
    values = engine.run(GenerateInputs(prompt="a red dragon over Paris"), LocalRunContext(tmp_path)).values
    assert (values["width"], values["height"]) == (384, 384)
    assert (values["drawn_width"], values["drawn_height"]) == (64, 64)
    assert frames_of(values["video_path"]).shape == (5, 384, 384, 3)
    assert SHAPES.knows in values["notes"]
