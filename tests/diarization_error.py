"""Diarization error rate: missed, false and confused speech over all speech of the reference.

Exact, by the stretches between all borders; overlapping speech counts once per speaker; speakers are
mapped one to one so that the error is least. A collar leaves out that much on either side of each border
of the reference, as NIST's md-eval does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True, slots=True)
class Turn:
    start_s: float
    end_s: float
    speaker: str


@dataclass(frozen=True, slots=True)
class DiarizationError:
    """Seconds of each error, and of speech in the reference."""

    missed_s: float
    false_s: float
    confused_s: float
    speech_s: float

    @property
    def rate(self) -> float:
        return (self.missed_s + self.false_s + self.confused_s) / self.speech_s

    def __str__(self) -> str:
        parts = (self.missed_s, self.false_s, self.confused_s)
        missed, false, confused = (part / self.speech_s for part in parts)
        return f"DER {self.rate:.3f} (missed {missed:.3f}, false {false:.3f}, confused {confused:.3f})"


def read_rttm(path: Path) -> list[Turn]:
    """The SPEAKER lines of a file."""
    rows = [line.split() for line in path.read_text().splitlines() if line.startswith("SPEAKER ")]
    return [Turn(float(row[3]), float(row[3]) + float(row[4]), row[7]) for row in rows]


def diarization_error(
    reference: Sequence[Turn], found: Sequence[Turn], *, collar_s: float = 0.0
) -> DiarizationError:
    """The error of `found`; the reference must hold speech outside the collars."""
    pieces = list(_pieces(reference, found, collar_s))
    names = dict(zip(*_mapping(pieces), strict=True))
    missed = false = confused = speech = 0.0
    for length_s, truth, guess in pieces:
        correct = len(truth & {names.get(speaker, "") for speaker in guess})
        missed += length_s * max(0, len(truth) - len(guess))
        false += length_s * max(0, len(guess) - len(truth))
        confused += length_s * (min(len(truth), len(guess)) - correct)
        speech += length_s * len(truth)
    return DiarizationError(missed, false, confused, speech)


_Piece = tuple[float, frozenset[str], frozenset[str]]


def _pieces(reference: Sequence[Turn], found: Sequence[Turn], collar_s: float) -> Iterable[_Piece]:
    """The stretches in which nothing changes: length, who speaks, who was found; collars left out."""
    borders = [border for turn in reference for border in (turn.start_s, turn.end_s)]
    times = {border for turn in found for border in (turn.start_s, turn.end_s)}
    times |= {border + side for border in borders for side in (-collar_s, 0.0, collar_s)}
    for start_s, end_s in pairwise(sorted(times)):
        middle_s = (start_s + end_s) / 2
        if all(abs(middle_s - border) > collar_s for border in borders):
            yield end_s - start_s, _speaking(reference, middle_s), _speaking(found, middle_s)


def _speaking(turns: Sequence[Turn], at_s: float) -> frozenset[str]:
    return frozenset(turn.speaker for turn in turns if turn.start_s <= at_s < turn.end_s)


def _mapping(pieces: Sequence[_Piece]) -> tuple[list[str], list[str]]:
    """Found speakers, and the one of the reference that each is taken for."""
    truths = sorted({speaker for _, truth, _ in pieces for speaker in truth})
    guesses = sorted({speaker for _, _, guess in pieces for speaker in guess})
    together_s = np.zeros((len(guesses), len(truths)))
    for length_s, truth, guess in pieces:
        for speaker in guess:
            for name in truth:
                together_s[guesses.index(speaker), truths.index(name)] += length_s
    rows, columns = linear_sum_assignment(together_s, maximize=True)
    return [guesses[row] for row in rows], [truths[column] for column in columns]
