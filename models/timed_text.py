"""SRT and WebVTT as blocks of lines: where each entry's text stands, so that all else can stay as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.engine import InvalidInput

_STAMP = r"-?(?:\d{1,4}:)?\d{1,2}:\d{1,2}[.,]\d{1,3}"
_TIMING_LINE = re.compile(rf"\s*({_STAMP})\s*-->\s*({_STAMP})(?:\s.*)?")
# Texts may hold an arrow as well (A --> B); times have a colon before it, or nothing but digits.
_MEANS_TIMES = re.compile(r"\s*-?\d[\d:.,]*\s*-->|\s*-->|[^\n]{0,40}-->\s*-?\d+:\d")


@dataclass(frozen=True, slots=True)
class Block:
    """One entry; its text is lines `first` to `stop` (exclusive, from 0). Times are as written: any sign."""

    number: int
    start_s: float
    end_s: float
    first: int
    stop: int


def lines_of(text: str) -> list[str]:
    """Lines without their ends. Only line feeds end a line: a form feed inside a text does not."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def blocks(lines: Sequence[str], field: str, *, is_vtt: bool) -> list[Block]:
    """The entries in the order of the file; raises InvalidInput for one whose times cannot be read."""
    timed = list(_timing_lines(lines, field))
    found = []
    for number, (index, start_s, end_s) in enumerate(timed, start=1):
        following = timed[number][0] if number < len(timed) else None
        stop = _stop_of_vtt(lines, index + 1) if is_vtt else _stop_of_srt(lines, index + 1, following)
        found.append(Block(number, start_s, end_s, index + 1, stop))
    return found


def _timing_lines(lines: Sequence[str], field: str) -> Iterator[tuple[int, float, float]]:
    number = 0
    for index, line in enumerate(lines):
        if not _MEANS_TIMES.match(line):
            continue
        number += 1
        found = _TIMING_LINE.fullmatch(line)
        if found is None:
            problem = f"entry {number} (line {index + 1}): malformed times: {line.strip()[:80]}"
            raise InvalidInput(f"{field}: {problem}", field=field)
        yield index, stamp_s(found[1]), stamp_s(found[2])


def stamp_s(stamp: str) -> float:
    """Seconds of `[-][h:]m:s.fraction`, where a comma may stand for the point."""
    sign = -1 if stamp.startswith("-") else 1
    seconds = 0.0
    for part in stamp.lstrip("-").replace(",", ".").split(":"):
        seconds = seconds * 60 + float(part)
    return sign * seconds


def _stop_of_vtt(lines: Sequence[str], first: int) -> int:
    """A blank line ends a WebVTT cue."""
    return next((index for index in range(first, len(lines)) if not lines[index].strip()), len(lines))


def _stop_of_srt(lines: Sequence[str], first: int, following: int | None) -> int:
    """Programs write blank lines inside SRT texts, so an entry ends at the number of the next one."""
    stop = len(lines) if following is None else following
    if following is not None and stop > first and lines[stop - 1].strip().isdigit():
        stop -= 1
    while stop > first and not lines[stop - 1].strip():
        stop -= 1
    return stop
