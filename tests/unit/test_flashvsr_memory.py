"""The memory plan: the quickest that fits, and refusals that say the figure that decided."""

from __future__ import annotations

import pytest

from models.engine import InvalidInput, ModelNotReady, PermanentFailure
from models.flashvsr.geometry import Canvas, canvas_of
from models.flashvsr.memory_plan import FreeBytes, check_device, pixel_bytes, plan_memory, smaller_plan
from models.networks.flashvsr_config import FULL

GIB = 2**30
PIXEL = pixel_bytes(FULL, number_bytes=2, has_vae=False)
WEIGHT_BYTES = 2 * (1_418_996_800 + 287_845_888 + 45_338_371 + 2 * 30 * 512 * 1536)  # and the prompt's keys


def canvas(width_px, height_px):
    return Canvas(width_px, height_px, width_px, height_px)


def test_the_figures_of_a_pixel_are_those_of_the_table():
    assert PIXEL.cached == pytest.approx(4368 + 380, abs=5)
    assert PIXEL.work == 1792
    assert PIXEL.frames == 690
    assert pixel_bytes(FULL, number_bytes=4, has_vae=False).cached == 2 * PIXEL.cached


@pytest.mark.parametrize(
    ("width_px", "height_px", "gb"), [(1408, 768, 11.4), (1920, 1024, 17.8), (2560, 1536, 32.0)]
)
def test_what_the_documents_say_a_size_takes(width_px, height_px, gb):
    plan = plan_memory(canvas(width_px, height_px), PIXEL, FreeBytes(device=80 * GIB))
    assert (plan.device_bytes + WEIGHT_BYTES) / 1e9 == pytest.approx(gb, abs=0.1)


def test_what_fits_is_one_tile():
    plan = plan_memory(canvas(1408, 768), PIXEL, FreeBytes(device=20 * GIB, host=64 * GIB))
    assert len(plan.grid.tiles) == 1
    assert not plan.is_parked
    assert plan.words == ""


def test_less_memory_gives_tiles_then_parked_caches():
    seen = []
    for free in (80, 40, 30, 20, 12, 8, 6, 5):
        plan = plan_memory(canvas(2560, 1536), PIXEL, FreeBytes(device=free * GIB, host=64 * GIB))
        assert plan.device_bytes <= 0.9 * free * GIB
        seen.append((plan.is_parked, plan.grid.tile_area_px))
    assert seen[0] == (False, 2560 * 1536)
    assert [parked for parked, _ in seen] == sorted(parked for parked, _ in seen), "parked last"
    parked = [area for is_parked, area in seen if is_parked]
    assert len(parked) > 1
    assert parked == sorted(parked, reverse=True)


def test_the_words_of_tiles():
    plan = plan_memory(canvas(2560, 1536), PIXEL, FreeBytes(device=8 * GIB, host=64 * GIB))
    assert plan.words.startswith(f"in {len(plan.grid.tiles)} tiles of ")
    assert plan.words.endswith("caches wait in main memory between chunks")


def test_8k_input_is_refused_with_the_figure():
    with pytest.raises(InvalidInput, match=r"15360x8704.*GiB of main memory.*GiB can be used") as caught:
        plan_memory(canvas_of(7680, 4320, 2), PIXEL, FreeBytes(device=140 * GIB, host=256 * GIB))
    assert caught.value.field == "scale"


def test_8k_output_is_tiled_where_main_memory_holds_the_caches():
    plan = plan_memory(canvas_of(1920, 1080, 4), PIXEL, FreeBytes(device=74 * GIB, host=512 * GIB))
    assert plan.is_parked
    assert plan.grid.tile_area_px > 1920 * 1024


def test_frames_too_large_for_the_device_are_the_callers_to_change():
    with pytest.raises(InvalidInput, match=r"device memory beside the weights; 3\.6 GiB can be used"):
        plan_memory(canvas_of(3840, 2160, 2), PIXEL, FreeBytes(device=4 * GIB, host=999 * GIB))


def test_a_device_for_no_tile_at_all_is_ours_to_change():
    with pytest.raises(PermanentFailure, match=r"tiles of 256x256.*not even the smallest tile fits"):
        plan_memory(canvas(2560, 1536), PIXEL, FreeBytes(device=GIB // 2, host=64 * GIB))


def test_without_main_memory_beside_it_nothing_is_parked():
    with pytest.raises(InvalidInput, match="device memory"):
        plan_memory(canvas(2560, 1536), PIXEL, FreeBytes(device=8 * GIB))


def test_the_plan_after_a_failure_takes_much_less():
    free = FreeBytes(device=80 * GIB, host=64 * GIB)
    plan = plan_memory(canvas(2560, 1536), PIXEL, free)
    smaller = smaller_plan(canvas(2560, 1536), plan, PIXEL, free)
    assert smaller is not None
    assert smaller.device_bytes <= 0.75 * plan.device_bytes
    assert smaller.grid.tile_area_px < plan.grid.tile_area_px


def test_the_smallest_canvas_has_no_smaller_plan():
    free = FreeBytes(device=80 * GIB, host=64 * GIB)
    plan = plan_memory(canvas(128, 128), PIXEL, free)
    assert smaller_plan(canvas(128, 128), plan, PIXEL, free) is None


def test_a_gpu_too_small_for_the_weights_is_refused_with_the_figure():
    check_device(WEIGHT_BYTES, PIXEL, 8 * GIB)
    with pytest.raises(ModelNotReady, match=r"needs 3\.8 GiB of GPU memory.*this GPU has 3\.0 GiB"):
        check_device(WEIGHT_BYTES, PIXEL, 3 * GIB)
