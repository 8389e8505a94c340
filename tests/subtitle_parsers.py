"""Strict little readers of SRT, WebVTT and ASS, written from the formats' own descriptions.

They share nothing with the code under test or its libraries, and refuse what a lenient player would accept.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

_SRT_TIMES = re.compile(r"(\d\d):([0-5]\d):([0-5]\d),(\d{3}) --> (\d\d):([0-5]\d):([0-5]\d),(\d{3})")
_VTT_TIMES = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})")
_ASS_TIME = re.compile(r"(\d{1,2}):([0-5]\d):([0-5]\d)\.(\d\d)")


@dataclass(frozen=True)
class Shown:
    """One entry; times in milliseconds."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    speaker: str = ""

    @property
    def text(self) -> str:
        return " ".join(self.lines)


def parse_srt(text: str) -> list[Shown]:
    shown = []
    for number, block in enumerate(_blocks(text), start=1):
        assert block[0] == str(number), f"entry {number} is numbered {block[0]}"
        start_ms, end_ms = _times(_SRT_TIMES, block[1])
        assert len(block) > 2, f"entry {number} has no text"
        assert not any("-->" in line for line in block[2:])
        shown.append(Shown(start_ms, end_ms, tuple(block[2:])))
    return shown


def parse_vtt(text: str) -> list[Shown]:
    first, *blocks = _blocks(text) if text.strip() != "WEBVTT" else [["WEBVTT"]]
    assert first == ["WEBVTT"]
    shown = []
    for block in blocks:
        at = 0 if "-->" in block[0] else 1
        start_ms, end_ms = _times(_VTT_TIMES, block[at])
        payload = "\n".join(block[at + 1 :])
        assert "-->" not in payload
        voice = re.match(r"<v ([^>\n]+)>", payload)
        payload = payload[voice.end() :] if voice else payload
        assert "<" not in payload, "an unescaped tag"
        assert not re.search(r"&(?!amp;|lt;|gt;)", payload), "an unescaped ampersand"
        lines = tuple(html.unescape(payload).split("\n"))
        shown.append(Shown(start_ms, end_ms, lines, html.unescape(voice[1]) if voice else ""))
    return shown


def parse_ass(text: str) -> list[Shown]:
    sections = dict(re.findall(r"^\[([^\]\n]+)\]\n(.*?)(?=^\[|\Z)", text, re.DOTALL | re.MULTILINE))
    assert {"Script Info", "V4+ Styles", "Events"} <= sections.keys()
    styles = set(re.findall(r"^Style: ([^,\n]+),", sections["V4+ Styles"], re.MULTILINE))
    shown = []
    for line in re.findall(r"^Dialogue: (.*)$", sections["Events"], re.MULTILINE):
        _layer, start, end, style, name, *_rest, payload = line.split(",", 9)
        assert style in styles
        assert "{" not in payload
        times = [_ASS_TIME.fullmatch(stamp) for stamp in (start, end)]
        start_ms, end_ms = (
            _ms(*map(int, found.groups()[:3]), int(found[4]) * 10) for found in times if found
        )
        shown.append(Shown(start_ms, end_ms, tuple(payload.split("\\N")), name))
    return shown


def _blocks(text: str) -> list[list[str]]:
    assert text.endswith("\n") or not text
    assert "\r" not in text
    return [block.split("\n") for block in re.split(r"\n{2,}", text.strip("\n")) if block]


def _times(pattern: re.Pattern[str], line: str) -> tuple[int, int]:
    found = pattern.fullmatch(line)
    assert found, f"malformed times: {line}"
    values = [int(value) for value in found.groups()]
    return _ms(*values[:4]), _ms(*values[4:])


def _ms(hours: int, minutes: int, seconds: int, milliseconds: int) -> int:
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + milliseconds
