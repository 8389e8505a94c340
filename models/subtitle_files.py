"""The files that a layout becomes: SRT, WebVTT, ASS and JSON, in the words of each format.

SRT and ASS have no way to spell some characters that they use themselves, so these are written by their
full-width twins: `<` before a letter and `-->` in SRT, braces in ASS. WebVTT escapes them.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pysubs2
from pydantic import JsonValue

from models.disk import disk_errors
from models.segments_file import word_rows
from models.subtitle_layout import LaidCue
from models.subtitle_lines import joined

_BACKSLASH_GUARD = "\ue000"  # pysubs2 takes \N in a text for a line break, in every format
_SRT_TAG = re.compile(r"<(?=[/a-zA-Z])")
_ASS_BRACES = str.maketrans({"{": "｛", "}": "｝"})
_ASS_BACKSLASH = "\\\u2060"  # a word joiner after it keeps \N from being a line break
_FONT_SIZE, _MARGIN_PX = 64, 60
_SCREEN = {"PlayResX": "1920", "PlayResY": "1080", "ScaledBorderAndShadow": "yes", "WrapStyle": "2"}
# White for the first speaker; the others are far apart in hue and light enough for a dark outline.
_COLOURS = (
    (255, 255, 255),
    (255, 230, 90),
    (120, 220, 255),
    (160, 255, 150),
    (255, 175, 130),
    (230, 180, 255),
)

SUFFIXES: Mapping[str, str] = {
    "basic": ".srt",
    "with_speakers": "_with_speakers.srt",
    "word_timestamps": "_words.json",
    "json": ".json",
    "vtt": ".vtt",
    "ass": ".ass",
}


def write_subtitles(
    cues: Sequence[LaidCue], folder: Path, name: str, metadata: dict[str, JsonValue]
) -> dict[str, Path]:
    """All six files of a layout, by the names of SUFFIXES."""
    texts: dict[str, Callable[[], str]] = {
        "basic": lambda: srt(cues),
        "with_speakers": lambda: srt(cues, with_speakers=True),
        "word_timestamps": lambda: _json({"metadata": metadata, "words": _words(cues)}),
        "json": lambda: _json({"metadata": metadata, "segments": [_entry(cue) for cue in cues]}),
        "vtt": lambda: vtt(cues),
        "ass": lambda: ass(cues),
    }
    paths = {kind: folder / f"{name}{suffix}" for kind, suffix in SUFFIXES.items()}
    with disk_errors():
        for kind, path in paths.items():
            path.write_text(texts[kind](), encoding="utf-8")
    return paths


def srt(cues: Sequence[LaidCue], *, with_speakers: bool = False) -> str:
    """`[SPEAKER_00] text` is how speakers are written; the label is no part of the line's width."""

    def text(cue: LaidCue) -> str:
        label = f"[{cue.speaker}] " if with_speakers and cue.speaker else ""
        return label + _SRT_TAG.sub("＜", cue.text).replace("-->", "→")

    return _plain(cues, "srt", text)


def vtt(cues: Sequence[LaidCue]) -> str:
    """Speakers are voices: `<v SPEAKER_00>text`."""

    def text(cue: LaidCue) -> str:
        voice = f"<v {html.escape(cue.speaker, quote=False)}>" if cue.speaker else ""
        return voice + html.escape(cue.text, quote=False)

    return _plain(cues, "vtt", text)


def _plain(cues: Sequence[LaidCue], format_: str, text: Callable[[LaidCue], str]) -> str:
    document: Any = pysubs2.SSAFile()
    for cue in cues:
        guarded = text(cue).replace("\\", "\\" + _BACKSLASH_GUARD)
        document.append(pysubs2.SSAEvent(**_times_ms(cue), text=guarded))
    written: str = document.to_string(format_, keep_ssa_tags=True)
    return written.replace("\\" + _BACKSLASH_GUARD, "\\")


def ass(cues: Sequence[LaidCue]) -> str:
    """One style a speaker, for a screen of 1920x1080."""
    document: Any = pysubs2.SSAFile()
    document.info |= _SCREEN
    speakers = dict.fromkeys(cue.speaker for cue in cues)
    styles = {speaker: _style_name(speaker, at) for at, speaker in enumerate(speakers)}
    for at, name in enumerate(styles.values()):
        document.styles[name] = _style(_COLOURS[at % len(_COLOURS)])
    for cue in cues:
        text = cue.text.translate(_ASS_BRACES).replace("\\", _ASS_BACKSLASH).replace("\n", "\\N")
        about = {"style": styles[cue.speaker], "name": cue.speaker or ""}
        document.append(pysubs2.SSAEvent(text=text, **about))
    return _with_stamps(str(document.to_string("ass", header_notice="")), cues)


def _with_stamps(text: str, cues: Sequence[LaidCue]) -> str:
    """pysubs2 has one digit for hours and ends at ten; players read more digits, and so does pysubs2."""
    head, begin, events = text.partition("\nDialogue: ")
    parts = (begin + events).split("\nDialogue: ")
    for at, cue in enumerate(cues, start=1):
        layer, _, _, rest = parts[at].split(",", 3)
        parts[at] = ",".join((layer, _ass_stamp(cue.start_s), _ass_stamp(cue.end_s), rest))
    return head + "\nDialogue: ".join(parts)


def _ass_stamp(seconds: float) -> str:
    minutes, rest_cs = divmod(round(seconds * 100), 6000)
    return f"{minutes // 60}:{minutes % 60:02}:{rest_cs // 100:02}.{rest_cs % 100:02}"


def _style_name(speaker: str | None, at: int) -> str:
    return "Default" if speaker is None else f"{at + 1} {speaker}"


def _style(colour: tuple[int, int, int]) -> Any:
    shape = {"fontsize": _FONT_SIZE, "outline": 3.0, "shadow": 1.0, "marginv": _MARGIN_PX}
    return pysubs2.SSAStyle(primarycolor=pysubs2.Color(*colour), **shape)


def _times_ms(cue: LaidCue) -> dict[str, int]:
    return {"start": round(cue.start_s * 1000), "end": round(cue.end_s * 1000)}


def _entry(cue: LaidCue) -> dict[str, Any]:
    return {
        "id": cue.number,
        **{"start": cue.start_s, "end": cue.end_s, "speaker": cue.speaker},
        **{"text": joined(cue.words), "lines": list(cue.lines), "words": word_rows(cue.words, "")},
    }


def _words(cues: Sequence[LaidCue]) -> list[dict[str, Any]]:
    """Every word with the number of its cue; `word` begins with a space where one goes before it."""
    return [{**row, "cue": cue.number} for cue in cues for row in word_rows(cue.words, " ")]


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
