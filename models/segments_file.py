"""Transcripts: segments of words with times, as faster_whisper.transcribe_audio writes them, and plain lists.

The text of a segment is the truth about words, its word rows about times: where somebody has changed the
text, the words are laid anew over the old times.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from models.cues import first_problem, read_json, read_text, rows_of
from models.engine import InvalidInput
from models.script import tokens

MAX_TIME_S = 99 * 3600.0  # SRT has two digits for hours
MAX_TOKENS = 500_000  # some 50 hours of fast speech; each takes about half a kilobyte
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_SLACK_S = 1.0  # how far the times of a word may lie outside its segment
_MAX_UNSPLIT_CHARS = 8  # a longer word that lines may break inside becomes several
MAX_SEGMENT_CHARS = 50_000  # an hour of speech
_COMPARED_TOKENS = 1000
_EXACT_TOKENS = 200  # above this many, alignment takes the short cut for frequent words

Moment = Annotated[float, Field(ge=0, le=MAX_TIME_S, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Word:
    """`is_spaced`: a space goes before it. `probability` is None where no recogniser gave one."""

    text: str
    start_s: float
    end_s: float
    is_spaced: bool = True
    probability: float | None = None
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Entry `number` of the file, from 1; `are_times_estimated`: its words had no usable times."""

    number: int
    start_s: float
    end_s: float
    words: tuple[Word, ...]
    are_times_estimated: bool = False

    def renamed(self, plain: Callable[[str], str]) -> Segment:
        """The segment with each speaker's name put through `plain`."""
        named = (replace(word, speaker=word.speaker and plain(word.speaker)) for word in self.words)
        return replace(self, words=tuple(named))


@dataclass(frozen=True, slots=True)
class Transcript:
    """`language` is a code like zh, or empty. Segments are in the order of their start."""

    language: str
    segments: tuple[Segment, ...]


class WordRow(BaseModel):
    """A word of a JSON file; some aligners leave out times."""

    word: str
    start: Annotated[float, Field(allow_inf_nan=False)] | None = None
    end: Annotated[float, Field(allow_inf_nan=False)] | None = None
    probability: Annotated[float, Field(allow_inf_nan=False)] | None = None
    speaker: str | None = None


class SegmentRow(BaseModel):
    """A segment of a JSON file; keys of other programs are let pass."""

    start: Moment
    end: Moment
    text: str = ""
    words: list[WordRow] | None = None
    speaker: str | None = None


_ROWS = TypeAdapter(list[SegmentRow])


def read_transcript(path: Path, field: str, check: Callable[[], None] = lambda: None) -> Transcript:
    """The transcript of a JSON file; raises InvalidInput naming the entry that is malformed.

    `check` is called before each segment, and may raise to stop.
    """
    content = read_json(read_text(path, field), field)
    check()
    rows = validated_rows(rows_of(content, field), field)
    segments, num_words = [], 0
    for number, row in enumerate(rows, start=1):
        check()
        segments.append(segment_of(number, row))
        num_words += len(segments[-1].words)
        if num_words > MAX_TOKENS:
            raise InvalidInput(_too_many(field), field=field)
    segments.sort(key=lambda segment: segment.start_s)
    return Transcript(language_of(content), tuple(segments))


def _too_many(field: str) -> str:
    return f"{field} has more than {MAX_TOKENS:,} words; cut the transcript into several files"


def validated_rows(rows: list[Any], field: str) -> list[SegmentRow]:
    """Raises InvalidInput naming the first entry that is no segment, and where one has too many words."""
    try:
        segments = _ROWS.validate_python(rows)
    except ValidationError as error:
        raise InvalidInput(first_problem(error, field), field=field) from error
    for number, segment in enumerate(segments, start=1):
        if segment.end < segment.start:
            raise InvalidInput(f"{field}: entry {number}: ends before it starts", field=field)
        if max(len(segment.text), len(segment.words or ())) > MAX_SEGMENT_CHARS:
            problem = f"entry {number}: more than {MAX_SEGMENT_CHARS:,} characters or words in one segment"
            raise InvalidInput(f"{field}: {problem}", field=field)
    return segments


def language_of(content: Any) -> str:
    """`metadata.language`, or `language` at the top; empty where the file does not tell."""
    if not isinstance(content, dict):
        return ""
    metadata = content.get("metadata")
    told = metadata.get("language") if isinstance(metadata, dict) else None
    language = told or content.get("language")
    return language.strip().lower() if isinstance(language, str) else ""


def segment_of(number: int, row: SegmentRow) -> Segment:
    """The words of a row, with its own times for them where those can be right."""
    text = _CONTROLS.sub(
        " ", row.text if row.text.strip() else "".join(word.word for word in row.words or ())
    )
    timed = _timed_words(row)
    words = words_over(text, timed or _spread(text, row.start, row.end), row.start, row.end)
    named = tuple(replace(word, speaker=word.speaker or row.speaker or None) for word in words)
    return Segment(number, row.start, row.end, named, are_times_estimated=bool(words) and not timed)


def _timed_words(row: SegmentRow) -> tuple[Word, ...]:
    """The words of a row with their own times; empty where those cannot be right."""
    words: list[Word] = []
    low_s, high_s = row.start - _SLACK_S, row.end + _SLACK_S
    for word in row.words or ():
        text = _CONTROLS.sub(" ", word.word)
        if not text.strip():
            continue
        before_s = words[-1].start_s if words else 0.0
        if word.start is None or word.end is None or not low_s <= word.start <= word.end <= high_s:
            return ()
        if word.start < before_s:
            return ()
        is_spaced = not words or text[0].isspace()
        start_s, end_s = max(word.start, 0.0), max(word.end, 0.0)
        words.append(Word(text.strip(), start_s, end_s, is_spaced, word.probability, word.speaker))
    return tuple(words)


def _spread(text: str, start_s: float, end_s: float) -> tuple[Word, ...]:
    """The tokens of a text, each as long as its share of the characters."""
    return tuple(_shares(tokens(text), start_s, end_s))


def _shares(parts: Sequence[tuple[str, bool]], start_s: float, end_s: float) -> Iterator[Word]:
    length_s = max(end_s - start_s, 0.0)
    total, done = sum(len(text) for text, _ in parts), 0
    for text, is_spaced in parts:
        begin_s = start_s + length_s * done / total
        done += len(text)
        yield Word(
            text,
            min(begin_s, max(end_s, start_s)),
            min(start_s + length_s * done / total, max(end_s, start_s)),
            is_spaced,
        )


def words_over(
    text: str, timed: Sequence[Word], start_s: float = 0.0, end_s: float = 0.0
) -> tuple[Word, ...]:
    """The words of `text` with the times of `timed`, whose own texts may be older.

    A word that is in both keeps its times; changed ones share the times of what they stand for. Without
    any timed word, all share the time from `start_s` to `end_s`.
    """
    text = _CONTROLS.sub(" ", text)
    if not timed:
        return _spread(text, start_s, end_s)
    placed = _placed(text, timed)
    if placed is not None:
        return tuple(part for word in placed for part in _split_long(word))
    old = [part for word in timed for part in _spread_word(word)]
    new = tokens(text)
    keys = [_key(word.text) for word in old], [_key(part) for part, _ in new]
    return tuple(_laid(_opcodes(*keys), old, new))


def _opcodes(old: list[str], new: list[str]) -> Sequence[tuple[str, int, int, int, int]]:
    """What became of `old`. Far apart and long, they are one change: comparing them could take minutes."""
    num_old, num_new = len(old), len(new)
    longest = max(num_old, num_new)
    if longest <= _COMPARED_TOKENS:
        return SequenceMatcher(None, old, new, autojunk=longest > _EXACT_TOKENS).get_opcodes()
    shortest = min(num_old, num_new)
    head = next((at for at in range(shortest) if old[at] != new[at]), shortest)
    rest = range(shortest - head)
    tail = next((at for at in rest if old[-1 - at] != new[-1 - at]), len(rest))
    return [
        ("equal", 0, head, 0, head),
        ("replace", head, num_old - tail, head, num_new - tail),
        ("equal", num_old - tail, num_old, num_new - tail, num_new),
    ]


def _placed(text: str, words: Sequence[Word]) -> list[Word] | None:
    """The words with the spaces that `text` has between them; None where they do not spell `text`."""
    at = 0
    placed: list[Word] = []
    for word in words:
        found = _end_of_space(text, at)
        if not text.startswith(word.text, found):
            return None
        placed.append(replace(word, is_spaced=found > at or not placed))
        at = found + len(word.text)
    return placed if _end_of_space(text, at) == len(text) else None


def _end_of_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _split_long(word: Word) -> tuple[Word, ...]:
    """Some recognisers give a whole Chinese clause as one word, or several words as one."""
    is_whole = len(word.text) <= _MAX_UNSPLIT_CHARS and len(word.text.split()) == 1
    return (word,) if is_whole else _spread_word(word)


def _spread_word(word: Word) -> tuple[Word, ...]:
    first, *others = _spread(word.text, word.start_s, word.end_s)
    parts = (replace(first, is_spaced=word.is_spaced), *others)
    return tuple(replace(part, probability=word.probability, speaker=word.speaker) for part in parts)


def _key(text: str) -> str:
    """What makes two tokens the same word: letters and digits, whatever their case."""
    return "".join(char for char in text.casefold() if char.isalnum()) or text


def _laid(
    opcodes: Sequence[tuple[str, int, int, int, int]], old: Sequence[Word], new: Sequence[tuple[str, bool]]
) -> Iterator[Word]:
    for kind, first, stop, new_first, new_stop in opcodes:
        if kind == "equal":
            for word, (text, is_spaced) in zip(old[first:stop], new[new_first:new_stop], strict=True):
                yield replace(word, text=text, is_spaced=is_spaced)
        elif new_first < new_stop:
            yield from _shared(old, first, stop, new[new_first:new_stop])


def _shared(old: Sequence[Word], first: int, stop: int, new: Sequence[tuple[str, bool]]) -> Iterator[Word]:
    """New words in the time of `old[first:stop]`, or between its neighbours where that is nothing."""
    gone = old[first:stop]
    start_s = gone[0].start_s if gone else old[first - 1].end_s if first else old[0].start_s
    end_s = gone[-1].end_s if gone else old[stop].start_s if stop < len(old) else old[-1].end_s
    near = gone or old[max(first - 1, 0) : first + 1]
    sure = min((word.probability for word in gone if word.probability is not None), default=None)
    for word in _shares(new, start_s, end_s):
        yield replace(word, probability=sure, speaker=near[0].speaker)


def word_rows(words: Sequence[Word], lead: str) -> list[dict[str, Any]]:
    """Words as JSON has them: the space before a word is part of it; `lead` goes before the first."""
    rows = []
    for index, word in enumerate(words):
        space = lead if index == 0 else " " * word.is_spaced
        row: dict[str, Any] = {"word": space + word.text}
        row |= {"start": round(word.start_s, 3), "end": round(word.end_s, 3)}
        if word.probability is not None:
            row["probability"] = word.probability
        if word.speaker is not None:
            row["speaker"] = word.speaker
        rows.append(row)
    return rows


def spoken_s(words: Sequence[Word]) -> float:
    """Seconds from the first word to the end of the last."""
    return math.fsum((words[-1].end_s, -words[0].start_s)) if words else 0.0
