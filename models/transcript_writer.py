"""A transcript as this server writes it: JSON of metadata, segments with words, and statistics.

    {"metadata": {…}, "segments": [{"id", "start", "end", "text", "avg_logprob", "no_speech_prob",
     "words": [{"word", "start", "end", "probability"}]}], "statistics": {…}}

Times are seconds from the start of the file. Ids count from 1. Segments follow each other without overlap,
and so do words; the words of a segment, joined, are its text (they carry the blanks before them).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO


@dataclass(frozen=True, slots=True)
class HeardWord:
    """`text` has the blank before it, where there is one."""

    start_s: float
    end_s: float
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class HeardSegment:
    """`words` is empty where no times of words were asked for."""

    start_s: float
    end_s: float
    text: str
    avg_logprob: float
    no_speech_prob: float
    words: tuple[HeardWord, ...] = ()


def placed(segment: HeardSegment, *, offset_s: float, after_s: float, until_s: float) -> HeardSegment:
    """The segment moved by `offset_s`, its times and those of its words in order within after..until."""
    words: list[HeardWord] = []
    at_s = after_s
    for word in segment.words:
        start_s = _within(word.start_s + offset_s, at_s, until_s)
        at_s = _within(word.end_s + offset_s, start_s, until_s)
        words.append(replace(word, start_s=start_s, end_s=at_s))
    start_s = _within(segment.start_s + offset_s, after_s, words[0].start_s if words else until_s)
    end_s = _within(segment.end_s + offset_s, words[-1].end_s if words else start_s, until_s)
    return replace(segment, start_s=start_s, end_s=end_s, words=tuple(words))


class TranscriptWriter:
    """Writes segments as they come, so that a long transcript is never held; `finish` makes the file."""

    def __init__(self, path: Path, scratch_dir: Path) -> None:
        self._path = path
        self._rows_path = scratch_dir / f"{path.stem}.rows"
        self._rows: TextIO = self._rows_path.open("w", encoding="utf-8")
        self._totals = _Totals()
        self.num_segments = 0
        self.end_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()

    def add(self, segment: HeardSegment) -> None:
        """Append a segment that starts no earlier than the last one ended."""
        self.num_segments += 1
        self.end_s = segment.end_s
        self._totals.add(segment)
        self._rows.write("" if self.num_segments == 1 else ",\n")
        self._rows.write(_json(_row(self.num_segments, segment)))

    def finish(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Write the file; returns its statistics."""
        self._rows.close()
        statistics = {"total_segments": self.num_segments, **self._totals.rounded()}
        with self._path.open("w", encoding="utf-8") as target, self._rows_path.open(encoding="utf-8") as rows:
            target.write(f'{{"metadata": {_json(metadata)},\n"segments": [\n')
            shutil.copyfileobj(rows, target)
            target.write(f'\n],\n"statistics": {_json(statistics)}}}\n')
        self._rows_path.unlink()
        return statistics


@dataclass(slots=True)
class _Totals:
    """What the statistics are made of."""

    words: int = 0
    characters: int = 0
    speech_s: float = 0.0
    probability: float = 0.0

    def add(self, segment: HeardSegment) -> None:
        self.words += len(segment.words)
        self.characters += len(segment.text)
        self.speech_s += segment.end_s - segment.start_s
        self.probability += sum(word.probability for word in segment.words)

    def rounded(self) -> dict[str, Any]:
        mean = round(self.probability / self.words, 4) if self.words else None
        return {
            "total_words": self.words,
            "total_characters": self.characters,
            "speech_duration": round(self.speech_s, 3),
            "average_word_probability": mean,
        }


def _row(number: int, segment: HeardSegment) -> dict[str, Any]:
    return {
        "id": number,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "avg_logprob": round(segment.avg_logprob, 4),
        "no_speech_prob": round(segment.no_speech_prob, 4),
        "words": [_word_row(word) for word in segment.words],
    }


def _word_row(word: HeardWord) -> dict[str, Any]:
    return {
        "word": word.text,
        "start": round(word.start_s, 3),
        "end": round(word.end_s, 3),
        "probability": round(word.probability, 4),
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _within(value: float, low: float, high: float) -> float:
    return max(low, min(value, high))
