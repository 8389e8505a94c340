"""Subtitle files as cues: who says what from when to when. Reads SRT, WebVTT, ASS and transcript JSON."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import pysubs2
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from models.engine import InvalidInput
from models.timed_text import blocks, lines_of

MAX_FILE_BYTES = 64 << 20
_ASS_HEADER = re.compile(
    r"(?:;[^\n]*\n\s*)*+\[(?:script info|v4\+? styles\+?|v4\+\+ styles|events|fonts)\]", re.I
)
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

_SPEAKER = re.compile(r"\[?(speaker[ _-]?\w+)(?:\]\s*[:：]?|\s*[:：])\s*(.*)", re.IGNORECASE | re.DOTALL)
# None looks past the next opening bracket: a text of nothing but those takes no longer than another.
_VTT_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s([^<>]+)>", re.IGNORECASE)
_VTT_TAG = re.compile(r"</?[a-z0-9:.][^<>]*>", re.IGNORECASE)
_SRT_TAG = re.compile(r"</?\s{0,4}[a-zA-Z][^<>]*>|\{\\[^{}]*\}")
_COMMON_SHARE = 0.75
_DASHES = "—·"  # Python spells these of GB 2312 by other characters
_HAN_IN_LATIN = re.compile(r"[a-z][\u4e00-\u9fff][a-z]")
_MAX_DEPTH = 100
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


class CueFormat(StrEnum):
    """What a subtitle file is written in."""

    SRT = "srt"
    VTT = "vtt"
    ASS = "ass"
    JSON = "json"


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
    """The cues of an SRT, WebVTT or ASS file, or of JSON: a list of entries, or an object with `segments`.

    The content decides which, not the name. Raises InvalidInput naming the entry that is malformed.
    """
    text = read_text(path, field)
    return _READERS[format_of(text)](text, field)


def format_of(text: str) -> CueFormat:
    """What a text is written in, by its first characters; SRT has no mark of its own."""
    start = text.lstrip()
    if start.startswith("WEBVTT"):
        return CueFormat.VTT
    if _ASS_HEADER.match(start):
        return CueFormat.ASS
    return CueFormat.JSON if start[:1] in {"[", "{"} else CueFormat.SRT


def read_text(path: Path, field: str) -> str:
    """The content of a text file in the encodings that subtitles have; raises InvalidInput."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InvalidInput(f"{field} is larger than {MAX_FILE_BYTES >> 20} MiB", field=field)
    content = path.read_bytes()
    text = _decoded(content, "utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig")
    if text is None:
        text = _chinese(content)
    if text is None:
        raise InvalidInput(f"{field} is not a text file; save it as UTF-8", field=field)
    return text


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _chinese(content: bytes) -> str | None:
    """The text in gb18030, which Chinese subtitle tools write without UTF-8.

    It decodes Western files as well, into rare characters between Latin letters. So those that are not
    ASCII have to be, for the most part, the common ones of GB 2312, and none may stand within a Latin word.
    """
    text = _decoded(content, "gb18030")
    if text is None or _HAN_IN_LATIN.search(text):
        return None
    foreign = [char for char in text if not char.isascii() and char not in _DASHES]
    common = sum(_is_common_han(char) for char in foreign)
    return text if common >= _COMMON_SHARE * len(foreign) else None


@lru_cache(maxsize=8192)
def _is_common_han(char: str) -> bool:
    """Marks of full width, and the characters that GB 2312 orders by sound because they are in daily use."""
    try:
        row = char.encode("gb2312")[0]
    except UnicodeEncodeError:
        return False
    return row in {0xA1, 0xA3} or 0xB0 <= row <= 0xD7


def read_json(text: str, field: str) -> Any:
    """The value; half characters, which JSON can spell and no file can hold, are replaced."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise InvalidInput(
            f"{field} is not valid JSON here: more than {_MAX_DEPTH} levels deep", field=field
        ) from error
    except ValueError as error:
        raise InvalidInput(f"{field} is not valid JSON: {error}", field=field) from error
    if _is_deep(content):
        raise InvalidInput(f"{field} is not valid JSON here: more than {_MAX_DEPTH} levels deep", field=field)
    return content if "\\u" not in text else _whole_characters(content)


def _is_deep(content: Any) -> bool:
    """Whether it is nested so deep that copying or writing it would fail."""
    level = [content]
    for _ in range(_MAX_DEPTH):
        level = [inner for value in level for inner in _inside(value) if isinstance(inner, list | dict)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return _LONE_SURROGATES.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    return value


def rows_of(content: Any, field: str, key: str = "segments") -> list[Any]:
    """The entries of a JSON file: the list itself, or the list under `key`."""
    rows = content.get(key) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise InvalidInput(f'{field}: a list, or an object with a list "{key}", is expected', field=field)
    return rows


def _from_json(text: str, field: str) -> tuple[Cue, ...]:
    rows = rows_of(read_json(text, field), field)
    try:
        entries = _ENTRIES.validate_python(rows)
    except ValidationError as error:
        raise InvalidInput(first_problem(error, field), field=field) from error
    return tuple(
        Cue(number, entry.start, entry.end, entry.text.strip(), entry.speaker)
        for number, entry in enumerate(entries, start=1)
    )


def first_problem(error: ValidationError, field: str) -> str:
    """The first malformed entry, by its number, and what is wrong with it."""
    problem = error.errors(include_url=False)[0]
    index, *rest = problem["loc"]
    where = ".".join(str(part) for part in rest)
    return f"{field}: entry {int(index) + 1}: {f'{where}: ' if where else ''}{problem['msg']}"


def _from_srt(text: str, field: str) -> tuple[Cue, ...]:
    """pysubs2 takes a last line of digits for the number of the next entry, so the blocks are read here."""
    lines = lines_of(text)
    found = blocks(lines, field, is_vtt=False)
    if text.strip() and not found:
        raise InvalidInput(
            f"{field}: no subtitle entry found; SRT, WebVTT, ASS or transcript JSON is expected", field=field
        )
    for block in found:
        if block.start_s < 0 or block.end_s < 0:
            problem = (
                f"entry {block.number} (line {block.first}): negative times: {lines[block.first - 1][:80]}"
            )
            raise InvalidInput(f"{field}: {problem}", field=field)
    return tuple(
        _with_speaker(block.number, block.start_s, block.end_s, _plain(lines[block.first : block.stop]))
        for block in found
    )


def _plain(lines: Sequence[str]) -> str:
    """Text without the tags of SRT, and without those of ASS that people put into it."""
    text = _SRT_TAG.sub("", "\n".join(lines)).replace("\\N", "\n").replace("\\h", " ")
    return text.strip()


def _with_speaker(number: int, start_s: float, end_s: float, text: str) -> Cue:
    """SRT has no field for speakers: `[SPEAKER_00] text` and `Speaker 1: text` are what people write."""
    found = _SPEAKER.match(text)
    if found is None:
        return Cue(number, start_s, end_s, text)
    return Cue(number, start_s, end_s, found[2].strip(), found[1])


def _from_vtt(text: str, field: str) -> tuple[Cue, ...]:
    """pysubs2 drops voices and takes comments for text, so the blocks are read here."""
    lines = lines_of(text)
    return tuple(
        _with_voice(block.number, block.start_s, block.end_s, "\n".join(lines[block.first : block.stop]))
        for block in blocks(lines, field, is_vtt=True)
    )


def _with_voice(number: int, start_s: float, end_s: float, text: str) -> Cue:
    voice = _VTT_VOICE.search(text)
    plain = html.unescape(_VTT_TAG.sub("", text)).strip()
    if voice is None:
        return _with_speaker(number, start_s, end_s, plain)
    return Cue(number, start_s, end_s, plain, html.unescape(voice[1]).strip())


def _from_ass(text: str, field: str) -> tuple[Cue, ...]:
    try:
        events: Any = pysubs2.SSAFile.from_string(text, format_="ass").get_text_events()
    except (ValueError, pysubs2.Pysubs2Error) as error:
        raise InvalidInput(f"{field} is not a readable ASS file: {error}", field=field) from error
    return tuple(
        Cue(number, event.start / 1000, event.end / 1000, event.plaintext.strip(), event.name or None)
        for number, event in enumerate(events, start=1)
    )


_READERS: dict[CueFormat, Callable[[str, str], tuple[Cue, ...]]] = {
    CueFormat.JSON: _from_json,
    CueFormat.SRT: _from_srt,
    CueFormat.VTT: _from_vtt,
    CueFormat.ASS: _from_ass,
}
