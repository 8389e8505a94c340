"""Which boxes of text stand in one row. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from models.frame_images import Box

_SHARED_HEIGHT = 0.6  # of the lower box
_ALIKE = 0.5  # lowest to highest box of one row


def row_groups(boxes: Sequence[Box]) -> list[list[int]]:
    """The numbers of the boxes by row, each row from left to right; rows in order of their first numbers.

    Boxes of one row are alike in height, side by side, and less than that height apart.
    """
    rows: list[list[int]] = []
    for number in sorted(range(len(boxes)), key=lambda number: boxes[number].x1):
        home = next((row for row in rows if _continues(boxes[row[-1]], boxes[number])), None)
        if home is None:
            rows.append([number])
        else:
            home.append(number)
    return sorted(rows, key=min)


def joined_rows(boxes: Sequence[Box]) -> list[Box]:
    """One box for each row."""
    return [union(boxes[number] for number in row) for row in row_groups(boxes)]


def union(boxes: Iterable[Box]) -> Box:
    """The smallest box around all of them."""
    x1, y1, x2, y2 = zip(*((box.x1, box.y1, box.x2, box.y2) for box in boxes), strict=True)
    return Box(min(x1), min(y1), max(x2), max(y2))


def _continues(left: Box, right: Box) -> bool:
    low, high = sorted((left.y2 - left.y1, right.y2 - right.y1))
    shared = min(left.y2, right.y2) - max(left.y1, right.y1)
    return shared >= _SHARED_HEIGHT * low and low >= _ALIKE * high and right.x1 - left.x2 < high
