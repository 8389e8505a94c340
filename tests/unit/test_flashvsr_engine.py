"""The engine on tiny weights: every frame, the exact size, times and sound; breaks, memory, refusals."""

from __future__ import annotations

import hashlib
import subprocess

import av
import numpy as np
import pytest
import torch

from models.engine import (
    Cancelled,
    InvalidInput,
    ModelNotReady,
    OutOfMemory,
    PermanentFailure,
    Resources,
)
from models.flashvsr.engine import FlashVsrEngine
from models.flashvsr.memory_plan import FreeBytes, pixel_bytes
from models.media import ffmpeg_path, probe
from models.networks.flashvsr_config import FULL
from models.networks.flashvsr_transformer import TransformerStream
from models.video_streams import VideoWriter, concat_chunks, decode_video
from models.zoo.flashvsr import UpscaleInputs, predicted_size
from tests.flashvsr_tiny import TINY, save_original, save_part, tiny_weights
from tests.run_context import LocalRunContext
from tests.stores import SAMPLES

BUNNY = SAMPLES / "bigbuckbunny.mp4"
EMBEDDED_FACTS = {
    *("video_path", "width", "height", "total_frames", "fps"),
    *("duration", "scale", "has_audio", "notes", "video_info"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_original(tmp_path_factory.mktemp("models"), tiny_weights())


def loaded(folder):
    engine = FlashVsrEngine(TINY)
    engine.load(Resources(device="cpu", threads=1, weights={"flashvsr": folder}))
    return engine


@pytest.fixture(scope="module")
def engine(folder):
    return loaded(folder)


@pytest.fixture
def short_parts(monkeypatch):
    monkeypatch.setattr("models.flashvsr.kept_parts.PART_CHUNKS", 2)  # 29 frames, then 16


def make(target, *arguments):
    subprocess.run([ffmpeg_path(), "-v", "error", "-y", *arguments, str(target)], check=True)
    return target


def clip(target, size="48x32", frames=21, *arguments):
    source = f"testsrc=size={size}:rate=25"
    return make(
        target, "-f", "lavfi", "-i", source, "-frames:v", str(frames), "-pix_fmt", "yuv444p", *arguments
    )


def upscale(engine, context, source, **given):
    return engine.run(UpscaleInputs(video_path=str(source), **{"scale": 2, **given}), context).values


def times_of(path):
    return [time_s for _, time_s in decode_video(path)]


def frames_of(path):
    return np.stack([frame for frame, _ in decode_video(path)])


def sound_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        found = [packet for packet in container.demux(stream) if packet.dts is not None]
        return [(packet.pts * packet.time_base, hashlib.md5(bytes(packet)).hexdigest()) for packet in found]


@pytest.mark.parametrize(
    ("size", "frames", "given"),
    [
        ("16x16", 1, {"scale": 1}),
        ("33x21", 5, {"scale": 1.5}),
        ("47x33", 22, {"scale": 2}),
        ("63x17", 29, {"scale": 3}),
        ("31x63", 30, {"scale": 4}),
        ("15x11", 45, {"scale": 6.5}),
        ("200x120", 2, {"scale": 2, "preprocess_width": 128}),
    ],
    ids=str,
)
def test_exactly_the_frames_and_the_size(engine, tmp_path, size, frames, given):
    source = clip(tmp_path / "clip.mp4", size, frames)
    values = upscale(engine, LocalRunContext(tmp_path), source, **given)
    inputs = UpscaleInputs(video_path=str(source), **given)
    sizes = predicted_size(*(int(side) for side in size.split("x")), inputs)
    video = probe(values["video_path"]).video
    assert video is not None
    assert (video.width_px, video.height_px) == sizes.output == (values["width"], values["height"])
    assert values["total_frames"] == video.num_frames == frames
    assert times_of(values["video_path"]) == times_of(source)


def test_the_result_says_what_the_embedded_engine_says_and_how_it_came_about(engine, tmp_path):
    context = LocalRunContext(tmp_path, task_id="89abcdef-0123-4567-89ab-cdef01234567")
    values = upscale(engine, context, clip(tmp_path / "phone call.mp4"), scale=3, seed=5)
    assert set(values) > EMBEDDED_FACTS
    assert values["video_path"] == context.output_dir / "phone call_flashvsr_89abcdef.mp4"
    assert list(context.output_dir.iterdir()) == [values["video_path"]]
    assert (values["variant"], values["version"], values["attention"]) == ("tiny_long", "v1.1", "gathered")
    assert (values["seed"], values["network_scale"]) == (5, 4)
    assert values["tiles"] == {"count": 1, "width": 256, "height": 128, "parked": False}
    assert values["peak_gpu_memory_bytes"] is None
    assert "the network enlarged 4 times, and the result was resized to 3 times" in values["notes"]
    stages = {"load", "prepare", "projector", "transformer", "decoder", "finish", "encode", "mux", "total"}
    assert set(values["stage_seconds"]) == stages
    assert all(took_s >= 0 for took_s in values["stage_seconds"].values())
    done = [(report.done, report.total) for report in context.reports if report.stage == "upscale"]
    assert done == [(0, 21), (21, 21)]
    assert {report.unit for report in context.reports} == {"frames"}


def test_the_colours_are_those_of_the_input(engine, tmp_path):
    source = make(
        tmp_path / "bunny.mp4", "-i", str(BUNNY), "-vf", "scale=96:64", "-frames:v", "21", "-qp", "0"
    )
    values = upscale(engine, LocalRunContext(tmp_path), source)
    wanted, made = frames_of(source).mean((1, 2)), frames_of(values["video_path"]).mean((1, 2))
    assert np.abs(wanted - made).max() < 10


@pytest.mark.parametrize("variant", ["tiny", "full"])
def test_other_variants(engine, tmp_path, variant):
    source = clip(tmp_path / "clip.mp4", frames=1)
    usual = upscale(engine, LocalRunContext(tmp_path / "usual"), source)
    # the engine takes any of the network's variants, whatever the catalogue lets through
    inputs = UpscaleInputs(video_path=str(source), scale=2).model_copy(update={"model_variant": variant})
    values = engine.run(inputs, LocalRunContext(tmp_path)).values
    assert values["variant"] == variant
    same = np.array_equal(frames_of(usual["video_path"]), frames_of(values["video_path"]))
    assert same is (variant == "tiny"), "tiny is tiny_long in less memory"


def test_sound_is_copied_and_a_variable_rate_kept(engine, tmp_path):
    source = make(
        tmp_path / "vfr.mkv",
        *("-i", str(BUNNY), "-t", "2", "-vf", r"select='lt(n\,6)+not(mod(n\,11))',scale=48:32"),
        *("-fps_mode", "vfr", "-c:a", "aac", "-ac", "2"),
    )
    values = upscale(engine, LocalRunContext(tmp_path), source)
    assert values["has_audio"]
    assert times_of(values["video_path"]) == times_of(source)
    assert sound_of(values["video_path"]) == sound_of(source)


def test_a_turned_film_comes_out_upright(engine, tmp_path):
    lying = clip(tmp_path / "lying.mp4", "64x32", 2)
    source = make(tmp_path / "turned.mp4", "-display_rotation", "90", "-i", str(lying), "-c", "copy")
    values = upscale(engine, LocalRunContext(tmp_path), source)
    video = probe(values["video_path"]).video
    assert video is not None
    assert (video.width_px, video.height_px, video.rotation_deg) == (64, 128, 0)


HDR = ("-vf", "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc")


@pytest.mark.parametrize(
    ("arguments", "note", "transfer"),
    [
        ((), "input of 10 bits a channel: converted to 8", 6),
        (HDR, "HDR input: its light was brought into the range of SDR (BT.709), with 8 bits a channel", 1),
    ],
    ids=["10-bit", "pq"],
)
def test_deep_and_hdr_input_is_converted_and_that_is_said(engine, tmp_path, arguments, note, transfer):
    source = clip(tmp_path / "deep.mp4", "48x32", 3, "-pix_fmt", "yuv420p10le", *arguments)
    values = upscale(engine, LocalRunContext(tmp_path), source)
    video = probe(values["video_path"]).video
    assert video is not None
    assert note in values["notes"]
    assert (video.pixel_format, video.color.transfer) == ("yuv420p", transfer)


PIXEL = pixel_bytes(FULL, number_bytes=2, has_vae=False)


def has_memory(engine, monkeypatch, free):
    """As if the networks were of the published size: tiny ones take less than the frames."""
    monkeypatch.setattr(engine, "_pixel_bytes", lambda variant: PIXEL)
    monkeypatch.setattr(engine, "_free_bytes", lambda: free)


def test_tiles_are_said_and_exact(engine, tmp_path, monkeypatch):
    source = clip(tmp_path / "clip.mp4", "180x60", 22)
    tile_px = 256 * 128
    needed_bytes = tile_px * PIXEL.cached + PIXEL.at_work(tile_px) + 384 * 128 * PIXEL.frames
    has_memory(engine, monkeypatch, FreeBytes(device=int(needed_bytes / 0.9 * 1.01), host=1 << 40))
    values = upscale(engine, LocalRunContext(tmp_path), source)
    assert values["tiles"] == {"count": 2, "width": 256, "height": 128, "parked": True}
    assert any(note.startswith("to fit into memory: in 2 tiles of 256x128") for note in values["notes"])
    assert (values["width"], values["height"], values["total_frames"]) == (360, 120, 22)


class Exhausted:
    """Steps of the transformer, some of which run out of memory."""

    def __init__(self, monkeypatch, *failing):
        self.steps = 0
        true_step = TransformerStream.step

        def step(stream, *given):
            self.steps += 1
            if self.steps in failing:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")
            return true_step(stream, *given)

        monkeypatch.setattr(TransformerStream, "step", step)


def test_out_of_memory_means_smaller_tiles_from_the_last_part_on(engine, tmp_path, monkeypatch, short_parts):
    source = clip(tmp_path / "clip.mp4", "180x60", 40)
    has_memory(engine, monkeypatch, FreeBytes(device=1 << 40, host=1 << 40))
    Exhausted(monkeypatch, 3)
    context = LocalRunContext(tmp_path)
    values = upscale(engine, context, source)
    assert values["total_frames"] == 40
    assert times_of(values["video_path"]) == times_of(source)
    assert values["tiles"]["count"] == 2
    note = (
        "out of memory at first (in one tile), so the rest was done with less: in 2 tiles of 256x128 pixels"
    )
    assert any(text.startswith(note) for text in values["notes"])
    assert len(context.commits) == len(set(context.commits)) == 2, "no part was made twice"


def test_out_of_memory_twice_is_a_failure(engine, tmp_path, monkeypatch):
    source = clip(tmp_path / "clip.mp4", "180x60", 5)
    has_memory(engine, monkeypatch, FreeBytes(device=1 << 40, host=1 << 40))
    Exhausted(monkeypatch, 1, 2)
    with pytest.raises(
        OutOfMemory, match=r"no memory for this video: CUDA out of memory\. Tried to allocate 2 GiB$"
    ):
        upscale(engine, LocalRunContext(tmp_path), source)


def test_out_of_memory_in_the_smallest_tile_is_a_failure(engine, tmp_path, monkeypatch):
    Exhausted(monkeypatch, 1)
    with pytest.raises(OutOfMemory, match="no plan takes less"):
        upscale(engine, LocalRunContext(tmp_path), clip(tmp_path / "clip.mp4"))


@pytest.mark.parametrize(
    ("free_gib", "kind", "text"),
    [
        (2, InvalidInput, r"GiB of device memory beside the weights; 1\.8 GiB can be used"),
        (1, PermanentFailure, r"0\.9 GiB can be used: not even the smallest tile fits"),
    ],
    ids=["the picture", "the smallest tile"],
)
def test_too_large_is_refused_with_the_figure_before_anything_runs(
    engine, tmp_path, monkeypatch, free_gib, kind, text
):
    has_memory(engine, monkeypatch, FreeBytes(device=free_gib << 30))
    counter = Exhausted(monkeypatch)
    with pytest.raises(kind, match=text):
        upscale(engine, LocalRunContext(tmp_path), clip(tmp_path / "clip.mp4", "900x720", 2))
    assert counter.steps == 0


def test_cancel_stops_between_chunks_and_keeps_finished_parts(engine, tmp_path, short_parts):
    source = clip(tmp_path / "clip.mp4", frames=80)
    context = LocalRunContext(tmp_path, cancel_at=53)
    with pytest.raises(Cancelled):
        upscale(engine, context, source)
    assert max(report.done for report in context.reports) == 53
    assert list(context.output_dir.iterdir()) == []
    assert set(context.scratch_dir.iterdir()) == set(context.commits)
    assert len(context.commits) >= 1


def test_a_next_attempt_goes_on_after_the_finished_parts(engine, tmp_path, monkeypatch, short_parts):
    """Every picture is that of an attempt that was never broken, bit by bit, as it goes to the encoder."""
    drawn: list[np.ndarray] = []
    write = VideoWriter.write
    monkeypatch.setattr(
        VideoWriter,
        "write",
        lambda self, frame, time_s: drawn.append(frame.copy()) or write(self, frame, time_s),
    )
    source = clip(tmp_path / "clip.mp4", frames=100)
    drawn.clear()
    whole = LocalRunContext(tmp_path / "whole")
    upscale(engine, whole, source)
    expected = list(drawn)
    drawn.clear()
    assert [path.name for path in whole.commits] == sorted(path.name for path in whole.commits)
    counter = Exhausted(monkeypatch)
    context = LocalRunContext(tmp_path, kept=whole.commits[:3])
    values = upscale(engine, context, source)
    assert [path.name for path in context.commits] == [path.name for path in whole.commits[3:]]
    assert len(expected) == 100
    assert np.array_equal(drawn, expected[21 + 5 * 8 :])
    assert times_of(values["video_path"]) == times_of(source)
    assert f"{21 + 5 * 8} frames were there from an earlier attempt" in values["notes"]
    assert values["total_frames"] == 100
    steps, counter.steps = counter.steps, 0
    assert steps == 11, "the caches were filled from chunk 0"
    again = upscale(engine, LocalRunContext(tmp_path / "again", kept=whole.commits), source)
    assert again["total_frames"] == 100
    assert counter.steps == 0, "nothing was left to do"


@pytest.fixture(scope="module")
def earlier(engine, tmp_path_factory):
    """A clip, and the attempt that made it larger."""
    folder = tmp_path_factory.mktemp("earlier")
    source = clip(folder / "clip.mp4", frames=3)
    context = LocalRunContext(folder)
    upscale(engine, context, source)
    return source, context


CHANGES = ({"seed": 1}, {"scale": 3}, {"sparse_ratio": 1.5}, {"local_range": 9}, "input")


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_parts_of_another_request_are_not_taken(engine, earlier, tmp_path, change):
    source, first = earlier
    given = {} if change == "input" else change
    if change == "input":
        source = clip(tmp_path / "clip.mp4", "48x32", 3, "-vf", "negate")
    second = LocalRunContext(tmp_path, kept=first.commits)
    values = upscale(engine, second, source, **given)
    assert len(second.commits) == 1
    assert second.commits[0].name != first.commits[0].name
    assert not [note for note in values["notes"] if "earlier attempt" in note]


def test_what_is_finished_can_be_exported(engine, tmp_path, short_parts):
    """As the dialect's export_from_chunks joins it: by name, with sound of the same length."""
    source = make(tmp_path / "film.mp4", "-i", str(BUNNY), "-t", "3", "-vf", "scale=48:32", "-ac", "2")
    context = LocalRunContext(tmp_path, cancel_at=60)
    with pytest.raises(Cancelled):
        upscale(engine, context, source)
    joined = tmp_path / "joined.mp4"
    num_frames = concat_chunks(context.commits[::-1], source, joined)
    assert num_frames in {29, 45, 61}
    assert times_of(joined) == times_of(source)[:num_frames]
    assert probe(joined).audio is not None


def test_a_damaged_part_is_made_again(engine, earlier, tmp_path):
    source, first = earlier
    damaged = tmp_path / first.commits[0].name
    damaged.write_bytes(b"no video")
    context = LocalRunContext(tmp_path / "second", kept=[damaged])
    assert upscale(engine, context, source)["total_frames"] == 3
    assert len(context.commits) == 1


@pytest.mark.parametrize("name", ["portrait.png", "conversation.wav"])
def test_what_is_no_video_is_refused(engine, tmp_path, name):
    with pytest.raises(InvalidInput, match="video") as caught:
        upscale(engine, LocalRunContext(tmp_path), SAMPLES / name)
    assert caught.value.field == "video_path"


def test_weights_that_are_no_numbers_fail_instead_of_making_a_black_film(tmp_path):
    weights = tiny_weights()
    weights["decoder"]["decoder.26.bias"].fill_(float("nan"))
    engine = loaded(save_original(tmp_path / "models", weights))
    with pytest.raises(PermanentFailure, match="not numbers"):
        upscale(engine, LocalRunContext(tmp_path), clip(tmp_path / "clip.mp4", frames=1))


@pytest.mark.parametrize("part", ["transformer", "projector", "decoder", "prompt"])
def test_a_missing_file_is_named_at_load(tmp_path, part):
    folder = save_original(tmp_path, tiny_weights())
    path = save_part(folder, part, tiny_weights()[part])
    path.unlink()
    with pytest.raises(ModelNotReady, match=path.name.replace(".", r"\.")):
        loaded(folder)


def test_full_without_its_file_is_the_callers_to_change(tmp_path):
    folder = save_original(tmp_path, tiny_weights())
    (folder / "Wan2.1_VAE.pth").unlink()
    inputs = UpscaleInputs(video_path=str(clip(tmp_path / "clip.mp4"))).model_copy(
        update={"model_variant": "full"}
    )
    engine = loaded(folder)
    with pytest.raises(InvalidInput, match=r"full cannot run here: .*Wan2\.1_VAE\.pth") as caught:
        engine.run(inputs, LocalRunContext(tmp_path))
    assert caught.value.field == "model_variant"
    assert upscale(engine, LocalRunContext(tmp_path), tmp_path / "clip.mp4")["total_frames"] == 21
