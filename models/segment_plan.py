"""Which stretches of a sound become files: entries clipped, skipped or split. Pure; counts samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from models.cues import Cue

SPEECH = "speech"
SILENCE = "silence"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: shorter stretches are skipped, longer ones split."""

    min_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class Span:
    """One entry, or the silence between entries (which has no entry number)."""

    kind: str
    start_s: float
    end_s: float
    entry: int | None = None
    text: str = ""
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """One file to be: part `part` of `parts` of its span, as a range of samples."""

    span: Span
    part: int
    parts: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A span that becomes no file, and why."""

    span: Span
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """`failed` spans do not lie inside the sound; `skipped` ones are too short."""

    cuts: tuple[Cut, ...]
    skipped: tuple[Rejected, ...]
    failed: tuple[Rejected, ...]

    @property
    def num_successful(self) -> int:
        """Spans that became at least one file."""
        return sum(1 for cut in self.cuts if cut.part == 1)

    @property
    def spans(self) -> tuple[Span, ...]:
        """Every span that was looked at, once."""
        cut = [cut.span for cut in self.cuts if cut.part == 1]
        return (*cut, *(rejected.span for rejected in (*self.skipped, *self.failed)))


def plan_cuts(
    cues: Sequence[Cue], num_samples: int, rate_hz: int, limits: Limits, *, with_silence: bool
) -> Plan:
    """Cuts in order of time. A stretch that runs past the end of the sound is clipped to it."""
    speech = [Span(SPEECH, cue.start_s, cue.end_s, cue.number, cue.text, cue.speaker) for cue in cues]
    silence = _gaps(speech, num_samples / rate_hz) if with_silence else []
    cuts: list[Cut] = []
    skipped: list[Rejected] = []
    failed: list[Rejected] = []
    for span in sorted([*speech, *silence], key=lambda span: (span.start_s, span.entry or 0)):
        start, stop = (min(round(at_s * rate_hz), num_samples) for at_s in (span.start_s, span.end_s))
        if problem := _outside(span, num_samples / rate_hz):
            failed.append(Rejected(span, problem))
        elif stop == start or stop - start < round(limits.min_s * rate_hz):
            skipped.append(Rejected(span, "shorter than min_segment_duration"))
        else:
            cuts += _parts(span, start, stop, max_samples=math.floor(limits.max_s * rate_hz))
    return Plan(tuple(cuts), tuple(skipped), tuple(failed))


def _outside(span: Span, duration_s: float) -> str:
    """Why a span is nowhere in the sound; '' when it is somewhere."""
    if span.end_s < span.start_s:
        return "ends before it starts"
    return "starts after the end of the audio" if span.start_s >= duration_s else ""


def _parts(span: Span, start: int, stop: int, *, max_samples: int) -> Iterable[Cut]:
    parts = math.ceil((stop - start) / max_samples)
    borders = [start + (stop - start) * index // parts for index in range(parts + 1)]
    for part in range(parts):
        yield Cut(span, part + 1, parts, borders[part], borders[part + 1])


def _gaps(spans: Iterable[Span], duration_s: float) -> list[Span]:
    """What no entry covers, from the start of the sound to its end."""
    gaps: list[Span] = []
    covered_s = 0.0
    for span in sorted(spans, key=lambda span: span.start_s):
        if span.start_s >= duration_s:
            break
        if span.start_s > covered_s:
            gaps.append(Span(SILENCE, covered_s, span.start_s))
        covered_s = max(covered_s, span.end_s)
    if covered_s < duration_s:
        gaps.append(Span(SILENCE, covered_s, duration_s))
    return gaps
