"""Where the subtitles of a video are, from the text boxes of some of its frames. Pure.

Subtitles stand in rows that return at the same height, are centred, and change what they say. A channel's
logo returns as well, but stays the same and stands in a corner; text of the scene and credits do not return
at one height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from models.frame_images import Box
from models.text_rows import joined_rows, union

MARGIN_PX = 4
_MAX_OFF_CENTRE = 0.06  # of the frame's width, between the middle of a row and the middle of the frame
_MIN_ROW_HEIGHT, _MAX_ROW_HEIGHT = 0.015, 0.2  # of the frame's height
_LEAST_LENGTH = 1.5  # of a row, in heights: two full-width characters have more
_MAX_ROWS = 4  # a frame with more centred rows shows credits or a page
_SAME_PLACE = 0.8  # intersection over union from which two boxes are in one place
_LOGO_SHARE = 0.5  # of the frames
_MIN_RECURRENCE = 0.1  # of the frames with text
_VARIED_EDGE = 0.02  # of the frame's width
_UPPER_WEIGHT = 0.5  # what a band in the upper half counts beside one in the lower
_STATIC_WEIGHT = 0.35  # what a band counts whose text never changes
_LONE_FRAME_CONFIDENCE = 0.5


@dataclass(frozen=True, slots=True)
class SubtitleArea:
    """The area, None where there is none, and the share of the frames with text that have a row of it.

    `note` says in words what the numbers do not.
    """

    box: Box | None
    confidence: float
    num_text_frames: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of text of frame number `frame`."""

    frame: int
    box: Box

    @property
    def middle_y(self) -> float:
        return (self.box.y1 + self.box.y2) / 2

    @property
    def height(self) -> int:
        return self.box.y2 - self.box.y1


@dataclass(frozen=True, slots=True)
class _Band:
    """Rows of several frames at one height."""

    rows: tuple[_Row, ...]

    @property
    def frames(self) -> frozenset[int]:
        return frozenset(row.frame for row in self.rows)

    @property
    def middle_y(self) -> float:
        return median(row.middle_y for row in self.rows)

    @property
    def height(self) -> float:
        return median(row.height for row in self.rows)

    @property
    def is_text(self) -> bool:
        """Whether any row is clearly wider than high: what is not, in frame after frame, is no line."""
        return any(row.box.x2 - row.box.x1 >= _LEAST_LENGTH * row.height for row in self.rows)

    def is_varied(self, edge_px: float) -> bool:
        """Whether the rows differ in where they begin or end, so that they cannot all say the same."""
        begins, ends = ([row.box.x1 for row in self.rows], [row.box.x2 for row in self.rows])
        return max(max(begins) - min(begins), max(ends) - min(ends)) > edge_px


def find_subtitle_area(frames: Sequence[Sequence[Box]], *, width_px: int, height_px: int) -> SubtitleArea:
    """The area of the subtitles in frames of one size; `frames` holds the text boxes of each, in pixels."""
    rows = [_Row(number, box) for number, boxes in enumerate(frames) for box in joined_rows(boxes)]
    rows = _without_logos(rows, len(frames), lambda box: _is_centred(box, width_px))
    num_text_frames = len({row.frame for row in rows})
    bands = _bands(_candidates(rows, width_px, height_px))
    needed = min(len(frames), max(2, round(_MIN_RECURRENCE * num_text_frames)))
    bands = [band for band in bands if len(band.frames) >= needed and band.is_text]
    if not bands:
        return SubtitleArea(None, 0.0, num_text_frames, _why_none(num_text_frames))
    edge_px = _VARIED_EDGE * width_px
    best = max(bands, key=lambda band: _weight(band, height_px, edge_px))
    chosen = _with_neighbours(best, bands, is_varied=best.is_varied(edge_px), edge_px=edge_px)
    box = _around([row.box for band in chosen for row in band.rows], width_px, height_px)
    agreeing = frozenset[int]().union(*(band.frames for band in chosen))
    confidence = len(agreeing) / num_text_frames
    if len(frames) == 1:
        note = "only one frame was given: nothing shows that its text returns"
        return SubtitleArea(box, min(confidence, _LONE_FRAME_CONFIDENCE), num_text_frames, note)
    return SubtitleArea(box, round(confidence, 3), num_text_frames)


def _is_centred(box: Box, width_px: int) -> bool:
    return abs((box.x1 + box.x2) / 2 - width_px / 2) <= _MAX_OFF_CENTRE * width_px


def _without_logos(rows: list[_Row], num_frames: int, is_centred: Callable[[Box], bool]) -> list[_Row]:
    """Rows but those that stand aside of the middle and stay in one place in most frames."""
    places: list[list[_Row]] = []
    for row in rows:
        if is_centred(row.box):
            continue
        home = next((place for place in places if _overlap(place[0].box, row.box) >= _SAME_PLACE), None)
        if home is None:
            places.append([row])
        else:
            home.append(row)
    needed = max(2, _LOGO_SHARE * num_frames)
    logos = {row for place in places if len({row.frame for row in place}) >= needed for row in place}
    return [row for row in rows if row not in logos]


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a.x2, b.x2) - max(a.x1, b.x1), min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_pixels(a) + _pixels(b) - shared)


def _pixels(box: Box) -> int:
    return (box.x2 - box.x1) * (box.y2 - box.y1)


def _candidates(rows: Iterable[_Row], width_px: int, height_px: int) -> list[_Row]:
    """Rows that may be of a subtitle by themselves, of frames that do not show a page of text."""
    low, high = _MIN_ROW_HEIGHT * height_px, _MAX_ROW_HEIGHT * height_px
    fit = [row for row in rows if _is_centred(row.box, width_px) and low <= row.height <= high]
    counts: dict[int, int] = {}
    for row in fit:
        counts[row.frame] = counts.get(row.frame, 0) + 1
    return [row for row in fit if counts[row.frame] <= _MAX_ROWS]


def _bands(rows: Iterable[_Row]) -> list[_Band]:
    """Rows grouped by height in the frame and size; every band's rows differ by less than half a row."""
    groups: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: (row.middle_y, row.frame)):
        home = next((group for group in reversed(groups) if _belongs(row, group[0])), None)
        if home is None:
            groups.append([row])
        else:
            home.append(row)
    return [_Band(tuple(group)) for group in groups]


def _belongs(row: _Row, first: _Row) -> bool:
    low, high = sorted((row.height, first.height))
    return abs(row.middle_y - first.middle_y) < 0.5 * low and low >= 0.5 * high


def _weight(band: _Band, height_px: int, edge_px: float) -> tuple[float, float]:
    """How much speaks for a band: in how many frames, how low, and whether its text changes."""
    is_lower = band.middle_y >= height_px / 2
    weight = len(band.frames) * (1 if is_lower else _UPPER_WEIGHT)
    return weight * (1 if band.is_varied(edge_px) else _STATIC_WEIGHT), band.middle_y


def _with_neighbours(best: _Band, bands: Sequence[_Band], *, is_varied: bool, edge_px: float) -> list[_Band]:
    """The band and those right above and below it: further lines of the same subtitles.

    Beside text that changes, a line that never does is something else.
    """
    chosen = [best]
    for band in _by_distance(best, bands):
        is_near = any(_gap(band, other) < 0.6 * best.height for other in chosen)
        is_alike = 0.6 <= band.height / best.height <= 1.7
        if is_near and is_alike and band.is_varied(edge_px) >= is_varied:
            chosen.append(band)
    return chosen


def _by_distance(best: _Band, bands: Sequence[_Band]) -> Iterator[_Band]:
    others = (band for band in bands if band is not best)
    yield from sorted(others, key=lambda band: abs(band.middle_y - best.middle_y))


def _gap(a: _Band, b: _Band) -> float:
    """Pixels between two bands; negative where they overlap."""
    return abs(a.middle_y - b.middle_y) - (a.height + b.height) / 2


def _around(boxes: Sequence[Box], width_px: int, height_px: int) -> Box:
    box = union(boxes)
    return Box(
        max(0, box.x1 - MARGIN_PX),
        max(0, box.y1 - MARGIN_PX),
        min(width_px, box.x2 + MARGIN_PX),
        min(height_px, box.y2 + MARGIN_PX),
    )


def _why_none(num_text_frames: int) -> str:
    if not num_text_frames:
        return "no subtitles found: no frame shows text"
    return "no subtitles found: no centred line of text returns at one height"
