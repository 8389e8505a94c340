"""A subtitle file whose texts can be changed while all else stays as it is written.

Times (also overlapping or negative ones), numbers, settings, styles, comments and the keys of other programs
are never touched: only the lines, fields or values that hold texts are replaced. Where a file mixes ends of
lines, all become CRLF. JSON is written anew, with the same values in the same order.
"""

from __future__ import annotations

import copy
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from models.cues import CueFormat, format_of, read_json, read_text, rows_of
from models.engine import InvalidInput
from models.segments_file import language_of, segment_of, validated_rows, word_rows, words_over
from models.timed_text import blocks, lines_of, stamp_s

_ASS_EVENT = re.compile(r"Dialogue\s*:", re.IGNORECASE)
_ASS_STAMP = re.compile(r"-?\d{1,3}:\d{1,2}:\d{1,2}(?:[.,]\d{1,3})?")
_ASS_DEFAULT_FIELDS = (
    "layer",
    "start",
    "end",
    "style",
    "name",
    "marginl",
    "marginr",
    "marginv",
    "effect",
    "text",
)


class Document(ABC):
    """`texts` are those of the entries in the order of the file, with line breaks as such."""

    language = ""
    texts: tuple[str, ...]
    times_s: tuple[tuple[float, float], ...]

    @abstractmethod
    def rewritten(self, texts: Sequence[str]) -> str:
        """The whole file with other texts: as many, in the same order."""

    @property
    def num_backwards(self) -> int:
        """Entries that end before they start, or begin before 0."""
        return sum(end_s < start_s or start_s < 0 for start_s, end_s in self.times_s)

    @property
    def num_overlaps(self) -> int:
        """Entries that begin before the one above them has ended."""
        return sum(after[0] < before[1] for before, after in pairwise(self.times_s))


def open_document(path: Path, field: str) -> Document:
    """The document that a file holds, whatever its name; raises InvalidInput naming the malformed entry."""
    text = read_text(path, field)
    return _OPENERS[format_of(text)](text, field)


class TimedText(Document):
    """SRT or WebVTT."""

    def __init__(self, text: str, field: str, *, is_vtt: bool) -> None:
        self._lines = lines_of(text)
        self._end = "\r\n" if "\r\n" in text else "\n"
        self._blocks = blocks(self._lines, field, is_vtt=is_vtt)
        if text.strip() and not self._blocks and not is_vtt:
            text = "no subtitle entry found; SRT, WebVTT, ASS or transcript JSON is expected"
            raise InvalidInput(f"{field}: {text}", field=field)
        self.texts = tuple("\n".join(self._lines[block.first : block.stop]) for block in self._blocks)
        self.times_s = tuple((block.start_s, block.end_s) for block in self._blocks)

    def rewritten(self, texts: Sequence[str]) -> str:
        lines, done = [], 0
        for block, text in zip(self._blocks, texts, strict=True):
            lines += self._lines[done : block.first]
            lines += text.split("\n") if block.first < block.stop else []
            done = block.stop
        return self._end.join(lines + self._lines[done:])


class AssText(Document):
    """ASS and SSA: the last field of each Dialogue line; drawings have no text."""

    def __init__(self, text: str, field: str) -> None:
        self._lines = lines_of(text)
        self._end = "\r\n" if "\r\n" in text else "\n"
        self._field = field
        fields = _event_fields(self._lines, field)
        self._num_fields = len(fields)
        found = [at for at, line in enumerate(self._lines) if _ASS_EVENT.match(line)]
        parts = [(at, self._parts(at, number)) for number, at in enumerate(found, start=1)]
        spoken = [(at, values) for at, values in parts if not re.search(r"\\p[1-9]", values[-1])]
        self._places = [at for at, _ in spoken]
        self.texts = tuple(_line_breaks(values[-1]) for _, values in spoken)
        self.times_s = tuple(self._times_s(values, fields, at) for at, values in spoken)

    def _parts(self, at: int, number: int) -> list[str]:
        values = self._lines[at].split(",", self._num_fields - 1)
        if len(values) < self._num_fields:
            problem = f"entry {number} (line {at + 1}): fewer fields than Format names"
            raise InvalidInput(f"{self._field}: {problem}", field=self._field)
        return values

    def _times_s(self, values: list[str], fields: Sequence[str], at: int) -> tuple[float, float]:
        stamps = [values[fields.index(name)].strip() for name in ("start", "end")]
        if not all(_ASS_STAMP.fullmatch(stamp) for stamp in stamps):
            problem = f"line {at + 1}: malformed times: {' '.join(stamps)[:80]}"
            raise InvalidInput(f"{self._field}: {problem}", field=self._field)
        return stamp_s(stamps[0]), stamp_s(stamps[1])

    def rewritten(self, texts: Sequence[str]) -> str:
        lines = list(self._lines)
        for at, text in zip(self._places, texts, strict=True):
            values = lines[at].split(",", self._num_fields - 1)
            if _line_breaks(values[-1]) != text:
                lines[at] = ",".join([*values[:-1], text.replace("\n", "\\N")])
        return self._end.join(lines)


def _event_fields(lines: Sequence[str], field: str) -> tuple[str, ...]:
    """The Format of [Events]; it has to end with Text, because only the last field may hold commas."""
    is_inside = False
    for line in lines:
        if line.strip().startswith("["):
            is_inside = line.strip().lower() == "[events]"
        elif is_inside and line.lower().startswith("format:"):
            fields = tuple(name.strip().lower() for name in line.partition(":")[2].split(","))
            if fields[-1] != "text" or not {"start", "end"} <= set(fields):
                problem = "Format of [Events] has to name Start and End, and Text as the last field"
                raise InvalidInput(f"{field}: {problem}", field=field)
            return fields
    return _ASS_DEFAULT_FIELDS


def _line_breaks(text: str) -> str:
    return text.replace("\\N", "\n").replace("\\n", "\n")


class JsonText(Document):
    """Transcript JSON: where a text changes, its words are laid anew over their times."""

    def __init__(self, text: str, field: str) -> None:
        self._content = read_json(text, field)
        rows = rows_of(self._content, field)
        self._rows = validated_rows(rows, field)
        _refuse_no_numbers(text, field)
        self.language = language_of(self._content)
        self._raw = [self._text_of(row) for row in rows]
        self.texts = tuple(raw.strip() for raw in self._raw)
        self.times_s = tuple((row.start, row.end) for row in self._rows)

    @staticmethod
    def _text_of(row: dict[str, Any]) -> str:
        text: str = row.get("text") or ""
        return text if text.strip() else "".join(word["word"] for word in row.get("words") or ())

    def rewritten(self, texts: Sequence[str]) -> str:
        content = copy.deepcopy(self._content)
        rows = content["segments"] if isinstance(content, dict) else content
        for at, (row, text) in enumerate(zip(rows, texts, strict=True)):
            if text != self.texts[at]:
                self._change(row, at, text)
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    def _change(self, row: dict[str, Any], at: int, text: str) -> None:
        lead = " " if self._raw[at][:1].isspace() else ""
        row["text"] = lead + text
        if row.get("words"):
            segment = segment_of(at + 1, self._rows[at])
            row["words"] = word_rows(words_over(text, segment.words, segment.start_s, segment.end_s), lead)


def _refuse_no_numbers(text: str, field: str) -> None:
    """NaN and Infinity in the keys of other programs: no other program could read them."""

    def refuse(name: str) -> Any:
        raise InvalidInput(f"{field} is not valid JSON: {name} is no number", field=field)

    if "NaN" in text or "Infinity" in text:
        json.loads(text, parse_constant=refuse)


_OPENERS: dict[CueFormat, Callable[[str, str], Document]] = {
    CueFormat.SRT: lambda text, field: TimedText(text, field, is_vtt=False),
    CueFormat.VTT: lambda text, field: TimedText(text, field, is_vtt=True),
    CueFormat.ASS: AssText,
    CueFormat.JSON: JsonText,
}
