"""Subtitle files as cues: who says what from when to when. Reads SRT and transcript JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pysubs2
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from models.engine import InvalidInput

MAX_FILE_BYTES = 64 << 20
_ENCODINGS = ("utf-8-sig", "gb18030")  # gb18030 is what Chinese subtitle tools write without UTF-8
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

_STAMP = r"\d{1,2}:\d{1,2}:\d{1,2}[.,]\d{1,3}"
_TIMING_LINE = re.compile(rf"\s*{_STAMP}\s*-->\s*{_STAMP}(\s.*)?")
_SPEAKER = re.compile(r"\[?(speaker[ _-]?\w+)(?:\]\s*[:：]?|\s*[:：])\s*(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Cue:
    """One entry; `number` counts from 1 in the order of the file. `end_s` may lie before `start_s`."""

    number: int
    start_s: float
    end_s: float
    text: str
    speaker: str | None = None


class _Entry(BaseModel):
    """One entry of a JSON file; keys of other programs are let pass."""

    start: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    end: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    text: str = ""
    speaker: str | None = None


_ENTRIES = TypeAdapter(list[_Entry])


def read_cues(path: Path, field: str) -> tuple[Cue, ...]:
    """The cues of an SRT file, or of JSON: a list of entries, or an object with `segments`.

    The content decides which, not the name. Raises InvalidInput naming the entry that is malformed.
    """
    text = _text_of(path, field)
    return _from_json(text, field) if text.lstrip()[:1] in {"[", "{"} else _from_srt(text, field)


def _text_of(path: Path, field: str) -> str:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InvalidInput(f"{field} is larger than {MAX_FILE_BYTES >> 20} MiB", field=field)
    content = path.read_bytes()
    for encoding in ("utf-16",) if content.startswith(_UTF16_MARKS) else _ENCODINGS:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InvalidInput(f"{field} is not a text file; save it as UTF-8", field=field)


def _from_json(text: str, field: str) -> tuple[Cue, ...]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{field} is not valid JSON: {error}", field=field) from error
    rows = content.get("segments") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise InvalidInput(f'{field}: a list, or an object with a list "segments", is expected', field=field)
    try:
        entries = _ENTRIES.validate_python(rows)
    except ValidationError as error:
        raise InvalidInput(_first_problem(error, field), field=field) from error
    return tuple(
        Cue(number, entry.start, entry.end, entry.text.strip(), entry.speaker)
        for number, entry in enumerate(entries, start=1)
    )


def _first_problem(error: ValidationError, field: str) -> str:
    problem = error.errors(include_url=False)[0]
    index, *rest = problem["loc"]
    where = ".".join(str(part) for part in rest)
    return f"{field}: entry {int(index) + 1}: {f'{where}: ' if where else ''}{problem['msg']}"


def _from_srt(text: str, field: str) -> tuple[Cue, ...]:
    _check_timing_lines(text, field)
    events: Any = pysubs2.SSAFile.from_string(text, format_="srt")
    if text.strip() and not events:
        raise InvalidInput(
            f"{field}: no subtitle entry found; SRT or transcript JSON is expected", field=field
        )
    return tuple(
        _with_speaker(number, event.start / 1000, event.end / 1000, event.plaintext.strip())
        for number, event in enumerate(events, start=1)
    )


def _check_timing_lines(text: str, field: str) -> None:
    """pysubs2 takes a timing line that it cannot read for text, which would lose the entry silently."""
    number = 0
    for line_number, line in enumerate(text.splitlines(), start=1):
        if "-->" not in line:
            continue
        number += 1
        if not _TIMING_LINE.fullmatch(line):
            problem = f"entry {number} (line {line_number}): malformed times: {line.strip()[:80]}"
            raise InvalidInput(f"{field}: {problem}", field=field)


def _with_speaker(number: int, start_s: float, end_s: float, text: str) -> Cue:
    """SRT has no field for speakers: `[SPEAKER_00] text` and `Speaker 1: text` are what people write."""
    found = _SPEAKER.match(text)
    if found is None:
        return Cue(number, start_s, end_s, text)
    return Cue(number, start_s, end_s, found[2].strip(), found[1])
