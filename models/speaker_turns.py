"""Who speaks when, and which word is whose."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from models.cues import first_problem, read_json, read_text, rows_of
from models.engine import InvalidInput
from models.script import SENTENCE_END, ends_with
from models.segments_file import Moment, Segment, Word

NEAR_S = 0.5  # a word outside all turns belongs to the nearest one within this
_LATE_S = 0.2  # they begin one late by half of this; a wrong turn moves a word by no more
_CLIP_S = 0.4  # recognisers begin the word after a pause too early, by up to this much
_MIN_WORD_S = 0.05
_MAJORITY = 2 / 3
_MAX_ODD_WORDS = 2
_TOUCH_S = 0.3
_MAX_NAME_CHARS = 64
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029,;<>\[\]{}\\]+")


@dataclass(frozen=True, slots=True)
class Turn:
    """Somebody speaks."""

    start_s: float
    end_s: float
    speaker: str


class _Row(BaseModel):
    start: Moment
    end: Moment
    speaker: Annotated[str, Field(min_length=1)]


_ROWS = TypeAdapter(list[_Row])


def read_turns(path: Path, field: str) -> tuple[Turn, ...]:
    """Turns of a diarization file: `exclusive` (where nobody speaks over another) before `segments`.

    Raises InvalidInput naming the entry that is malformed.
    """
    content = read_json(read_text(path, field), field)
    key = "exclusive" if isinstance(content, dict) and content.get("exclusive") else "segments"
    try:
        rows = _ROWS.validate_python(rows_of(content, field, key))
    except ValidationError as error:
        raise InvalidInput(first_problem(error, field), field=field) from error
    for number, row in enumerate(rows, start=1):
        if row.end < row.start:
            raise InvalidInput(f"{field}: entry {number}: ends before it starts", field=field)
    turns = (Turn(row.start, row.end, plain_name(row.speaker)) for row in rows)
    return tuple(sorted(turns, key=lambda turn: (turn.start_s, turn.end_s)))


def plain_name(name: str) -> str:
    """A speaker's name without what subtitle formats take for their own."""
    return " ".join(_UNSAFE.sub(" ", name).split())[:_MAX_NAME_CHARS].strip() or "unknown"


def with_speakers(
    segments: Iterable[Segment], turns: Sequence[Turn], check: Callable[[], None] = lambda: None
) -> tuple[Segment, ...]:
    """The segments with each word given to whom it overlaps most, or to the nearest within 0.5 s.

    The borders of turns are a little off: words at an end of a sentence that touch the turn of the speaker
    of the rest are that speaker's. A word that reaches into the silence before its turn begins with the turn,
    but not after the next word; the first and the last word of a turn reach to its borders where these are
    near. `check` is called for each word, and may raise to stop.
    """
    desk = _Desk(turns, check)
    claimed = [replace(part, words=tuple(_claimed(part.words, desk))) for part in segments]
    words = _stretched([word for part in claimed for word in part.words], desk)
    return tuple(replace(part, words=tuple(islice(words, len(part.words)))) for part in claimed)


def _claimed(words: Sequence[Word], desk: _Desk) -> Iterator[Word]:
    """Starts of words stay in the order in which they were."""
    following_s = iter([*(word.start_s for word in words[1:]), math.inf])
    for sentence in _sentences(words):
        speakers = _settled(sentence, [desk.speaker(word) for word in sentence], desk)
        for word, name in zip(sentence, speakers, strict=True):
            claimed = desk.claim(word, name)
            yield claimed if claimed.start_s <= next(following_s) else replace(claimed, start_s=word.start_s)


def _stretched(words: Sequence[Word], desk: _Desk) -> Iterator[Word]:
    """The words, each as far into the silence around it as its turn reaches.

    Measured on samples/conversation.wav and the dialogues of tests/sounds: after a silence, words begin up to
    0.13 s off and end up to 0.4 s early, where turns are within 0.06 s and 0.18 s.
    """
    heard_s = 0.0
    for word, following in zip_longest(words, words[1:]):
        yield desk.stretched(word, heard_s, following.start_s if following else math.inf)
        heard_s = max(heard_s, word.end_s)


def _sentences(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Stretches up to the end of a sentence, or a pause."""
    sentence: list[Word] = []
    for word in words:
        if sentence and word.start_s - sentence[-1].end_s >= NEAR_S:
            yield sentence
            sentence = []
        sentence.append(word)
        if ends_with(word.text, SENTENCE_END):
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _settled(words: Sequence[Word], speakers: list[str | None], desk: _Desk) -> list[str | None]:
    """The speakers, where one or two odd words at an end go with the rest if they touch its turns."""
    name, votes = Counter(speakers).most_common(1)[0]
    if name is None or votes < _MAJORITY * len(words):
        return speakers
    odd = [at for at, speaker in enumerate(speakers) if speaker != name]
    ends = {*range(_MAX_ODD_WORDS), *range(len(words) - _MAX_ODD_WORDS, len(words))}
    mends = {at for at in odd if at in ends and desk.distance_s(words[at], name) <= _TOUCH_S}
    return [name if at in mends else speaker for at, speaker in enumerate(speakers)]


class _Desk:
    """Finds turns by time; turns may overlap."""

    def __init__(self, turns: Sequence[Turn], check: Callable[[], None]) -> None:
        self._check = check
        self._turns = turns
        self._starts = [turn.start_s for turn in turns]
        # A tree of the latest ends: node n has 2n and 2n+1 below it, the turns are its leaves. So one long
        # turn at the beginning does not make every word look at all turns.
        self._leaves = 1 << max(len(turns) - 1, 0).bit_length()
        ends = [turn.end_s for turn in turns]
        self._latest_ends = [-math.inf] * self._leaves + ends + [-math.inf] * (self._leaves - len(ends))
        for node in range(self._leaves - 1, 0, -1):
            self._latest_ends[node] = max(self._latest_ends[2 * node], self._latest_ends[2 * node + 1])

    def speaker(self, word: Word) -> str | None:
        turn = max(self._near(word), key=lambda turn: (_overlap_s(word, turn), -turn.start_s), default=None)
        return turn.speaker if turn else None

    def distance_s(self, word: Word, speaker: str) -> float:
        """From the word to the nearest turn of a speaker; 0 where they overlap."""
        near = (_overlap_s(word, turn) for turn in self._near(word) if turn.speaker == speaker)
        return max(0.0, -max(near, default=-math.inf))

    def claim(self, word: Word, speaker: str | None) -> Word:
        """The word as the speaker's, without what of it lies before anybody speaks."""
        near = self._near(word)
        start_s = min((turn.start_s for turn in near if turn.speaker == speaker), default=word.start_s)
        is_early = word.start_s < start_s <= min(word.start_s + _CLIP_S, word.end_s - _MIN_WORD_S)
        is_silence = not any(turn.start_s < start_s and turn.end_s > word.start_s for turn in near)
        return replace(word, speaker=speaker, start_s=start_s if is_early and is_silence else word.start_s)

    def stretched(self, word: Word, after_s: float, until_s: float) -> Word:
        """The word from the beginning of its turn and to its end, if nothing is said in between.

        Others are silent from `after_s`, and until `until_s`.
        """
        own = [
            turn for turn in self._near(word) if turn.speaker == word.speaker and _overlap_s(word, turn) >= 0
        ]
        start_s = max((turn.start_s for turn in own if turn.start_s <= word.start_s), default=word.start_s)
        end_s = min((turn.end_s for turn in own if turn.end_s >= word.end_s), default=word.end_s)
        is_first = after_s <= start_s >= word.start_s - _LATE_S
        is_last = end_s - _MIN_WORD_S <= until_s and end_s <= word.end_s + NEAR_S
        return replace(
            word,
            start_s=start_s if is_first else word.start_s,
            end_s=max(word.end_s, min(end_s, until_s)) if is_last else word.end_s,
        )

    def _near(self, word: Word) -> list[Turn]:
        """Turns within 0.5 s of the word, the latest first."""
        self._check()
        num_begun = bisect_left(self._starts, word.end_s + NEAR_S)
        found, nodes = [], [(1, 0, self._leaves)]
        while nodes:
            node, first, size = nodes.pop()
            if first >= num_begun or self._latest_ends[node] <= word.start_s - NEAR_S:
                continue
            if size == 1:
                found.append(self._turns[first])
            else:
                half = size // 2
                nodes += [(2 * node, first, half), (2 * node + 1, first + half, half)]
        return found


def _overlap_s(word: Word, turn: Turn) -> float:
    """Seconds in common; negative is the distance."""
    return min(word.end_s, turn.end_s) - max(word.start_s, turn.start_s)


def summary(words_of_cues: Iterable[tuple[str | None, Sequence[Word], float]]) -> dict[str, dict[str, Any]]:
    """Cues, words and spoken seconds of each speaker; words of nobody count as `unknown`."""
    rows: dict[str, dict[str, Any]] = {}
    for speaker, words, duration_s in words_of_cues:
        row = rows.setdefault(speaker or "unknown", {"segments": 0, "words": 0, "duration": 0.0})
        row["segments"] += 1
        row["words"] += len(words)
        row["duration"] = round(row["duration"] + duration_s, 3)
    return rows
