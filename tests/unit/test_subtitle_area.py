from __future__ import annotations

import random

import pytest

from models.frame_images import Box
from models.subtitle_area import MARGIN_PX, find_subtitle_area
from models.text_rows import joined_rows

WIDTH, HEIGHT = 1280, 720
LOGO = Box(1080, 30, 1240, 80)


def line(width: int, middle_y: int, height: int = 44, off_centre: int = 0) -> Box:
    x1 = (WIDTH - width) // 2 + off_centre
    return Box(x1, middle_y - height // 2, x1 + width, middle_y + height // 2)


def find(frames):
    return find_subtitle_area(frames, width_px=WIDTH, height_px=HEIGHT)


def grown(x1: int, y1: int, x2: int, y2: int) -> Box:
    return Box(x1 - MARGIN_PX, y1 - MARGIN_PX, x2 + MARGIN_PX, y2 + MARGIN_PX)


def scene_text(rng: random.Random) -> Box:
    x1, y1 = rng.randrange(0, WIDTH - 300), rng.randrange(0, HEIGHT - 60)
    return Box(x1, y1, x1 + rng.randrange(60, 300), y1 + rng.randrange(20, 60))


def test_the_area_goes_around_all_lines():
    area = find([[line(300, 660)], [line(620, 660)], [], [line(418, 658)]])
    assert area.box == grown(330, 636, 950, 682)
    assert (area.confidence, area.num_text_frames) == (1.0, 3)


def test_two_lines_belong_together():
    frames = [
        [line(500, 660)],
        [line(400, 608), line(520, 660)],
        [line(440, 660)],
        [line(480, 608), line(300, 660)],
    ]
    area = find(frames)
    assert (area.box.y1, area.box.y2) == (608 - 22 - MARGIN_PX, 660 + 22 + MARGIN_PX)


def test_a_logo_does_not_count():
    frames = [[LOGO, line(300 + 40 * number, 660)] if number % 2 else [LOGO] for number in range(12)]
    area = find(frames)
    assert area.box == grown(270, 638, 1010, 682)
    assert (area.confidence, area.num_text_frames) == (1.0, 6)


def test_what_is_as_high_as_wide_is_no_subtitle():
    """A face is taken for text now and then; so is a sign in the middle."""
    faces = [[line(50, 250, height=56)] if number % 3 == 0 else [] for number in range(12)]
    area = find(faces)
    assert (area.box, area.confidence) == (None, 0.0)
    assert area.note == "no subtitles found: no centred line of text returns at one height"
    short = [line(50, 660), line(180, 660), line(94, 660)]  # one full-width character, four, two
    assert find([[box] for box in short]).box == grown(550, 638, 730, 682)


def test_text_of_the_scene_does_not_count():
    rng = random.Random(3)
    frames = [
        [scene_text(rng) for _ in range(3)] + [line(300 + 30 * n, 660)] * (n % 3 > 0) for n in range(18)
    ]
    area = find(frames)
    assert area.box is not None
    assert 638 - MARGIN_PX - 22 <= area.box.y1 <= 638
    assert 682 <= area.box.y2 <= 682 + MARGIN_PX + 22
    assert area.confidence == pytest.approx(12 / 18, abs=0.15)


def test_subtitles_at_the_top_are_found_where_the_lower_part_has_none():
    area = find([[line(300 + 50 * number, 60)] for number in range(6)])
    assert (area.box.y1, area.box.y2) == (38 - MARGIN_PX, 82 + MARGIN_PX)


def test_the_lower_part_is_preferred():
    area = find([[line(300 + 50 * number, 60), line(310 + 40 * number, 660)] for number in range(6)])
    assert area.box.y1 > HEIGHT / 2


def test_text_that_changes_is_preferred_to_a_sign_that_stays():
    area = find([[line(330, 560), line(310 + 60 * number, 60)] for number in range(6)])
    assert area.box.y2 < HEIGHT / 2


def test_one_subtitle_that_stays_is_an_area():
    area = find([[line(608, 672, 60)]] * 8)
    assert (area.box, area.confidence) == (grown(336, 642, 944, 702), 1.0)


def test_rolling_credits_are_none():
    frames = [[line(500, (y - 40 * number) % HEIGHT, 30) for y in range(40, 720, 90)] for number in range(12)]
    area = find(frames)
    assert area.box is None
    assert area.confidence == 0
    assert "no centred line" in area.note


@pytest.mark.parametrize("frames", [[], [[], []]], ids=["no frame", "no text"])
def test_no_text_is_no_area(frames):
    area = find(frames)
    assert (area.box, area.confidence, area.num_text_frames) == (None, 0.0, 0)
    assert "no frame shows text" in area.note


def test_a_logo_alone_is_no_area():
    assert find([[LOGO]] * 10).box is None


def test_text_that_comes_once_is_no_area():
    assert find([[line(400, 660)], [line(300, 200)], [line(350, 500)], []]).box is None


def test_one_frame_is_told_with_little_confidence():
    area = find([[line(400, 660)]])
    assert area.box == grown(440, 638, 840, 682)
    assert area.confidence == 0.5
    assert "one frame" in area.note


def test_the_area_stays_inside_the_frame():
    area = find([[line(1280, 700, 40)]] * 3)
    assert area.box == Box(0, 676, 1280, 720)


def test_the_order_of_boxes_does_not_matter():
    rng = random.Random(5)
    frames = [[LOGO, line(300 + 30 * n, 660), line(200 + 20 * n, 608), scene_text(rng)] for n in range(9)]
    shuffled = [rng.sample(boxes, len(boxes)) for boxes in frames]
    assert find(shuffled) == find(frames)


def test_pieces_of_one_row_are_joined():
    left, right, below = Box(100, 10, 200, 50), Box(220, 12, 300, 52), Box(100, 60, 200, 100)
    assert joined_rows([below, right, left]) == [below, Box(100, 10, 300, 52)]


@pytest.mark.parametrize(
    "other",
    [Box(260, 10, 300, 50), Box(210, 40, 300, 80), Box(210, 10, 300, 25)],
    ids=["too far", "lower", "far smaller"],
)
def test_boxes_that_are_no_row_stay_apart(other):
    assert len(joined_rows([Box(100, 10, 200, 50), other])) == 2
