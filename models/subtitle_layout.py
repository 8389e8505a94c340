"""Words as cues that people can read: cut, broken into lines, and timed.

A cue has one speaker, one or two lines, and shows for 0.84 to 7 s, with 80 ms between two cues. Cues are
cut where the speaker changes, at pauses, and between sentences where that leaves each long enough. People
who speak at once are shown one after the other, in the order in which they begin.

No word is lost or moved. Where speech is too fast for the rules, the cue is shorter than it should be or
comes later than its words, and `Layout` counts such cues. Times are whole hundredths of a second, because
ASS knows no finer ones. Memory grows with the number of words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from models.script import SENTENCE_END, ends_with, reading_s
from models.segments_file import Segment, Word, spoken_s
from models.subtitle_lines import MAX_LINES, Atom, LineFill, atoms_of, broken, limit_of, roughness

MIN_CS, MAX_CS, GAP_CS = 84, 700, 8
MAX_LATIN_CPS = 20.0
_EASY_LATIN_CPS = 17.0  # what a cue lingers for where nobody speaks after it
_LINGER_CS = 50  # past the last word, for reading
_LATE_CS = 20  # how far a cue may wait for the one before it to have been seen
_SHORTEST_CS = 30  # a shorter flash would not be seen at all; people who speak at once get MIN_CS each
_DRIFT_CS = 25
_PAUSE_S = 0.6
_BREATH_S = 0.25
_SCRAP_COLUMNS = 12
_CHECK_EVERY = 500


@dataclass(frozen=True, slots=True)
class LaidCue:
    """A cue as it is shown; `spoken_s` is how long its words take."""

    number: int
    start_s: float
    end_s: float
    lines: tuple[str, ...]
    words: tuple[Word, ...]
    speaker: str | None

    @property
    def text(self) -> str:
        """The lines as lines."""
        return "\n".join(self.lines)

    @property
    def spoken_s(self) -> float:
        return spoken_s(self.words)


@dataclass(frozen=True, slots=True)
class Layout:
    """The cues in order, and how many of them the speech made break a rule."""

    cues: tuple[LaidCue, ...]

    @property
    def num_fast(self) -> int:
        """Cues that take longer to read than they show."""
        return sum(reading_s(cue.text, MAX_LATIN_CPS) > cue.end_s - cue.start_s + 0.005 for cue in self.cues)

    @property
    def num_short(self) -> int:
        """Cues that show for less than 0.83 s."""
        return sum(round((cue.end_s - cue.start_s) * 100) < MIN_CS for cue in self.cues)

    @property
    def num_moved(self) -> int:
        """Cues that begin, or end, more than 0.25 s away from their words to make room for others."""
        return sum(_drift_cs(cue) > _DRIFT_CS for cue in self.cues)


def lay_out(segments: Sequence[Segment], check: Callable[[], None]) -> Layout:
    """The cues of segments that are in the order of their start; `check` may raise to stop."""
    drafts = [draft for run in _runs(segments) for draft in _cut(run, check)]
    drafts.sort(key=lambda draft: draft[0].start_s)
    return Layout(tuple(_timed(drafts)))


def _runs(segments: Sequence[Segment]) -> Iterator[list[Word]]:
    """Stretches of words without a change of speaker, a pause, or a step back in time."""
    run: list[Word] = []
    for segment in segments:
        for word in segment.words:
            if run and _is_apart(run[-1], word):
                yield run
                run = []
            run.append(word)
    if run:
        yield run


def _is_apart(before: Word, word: Word) -> bool:
    if before.speaker != word.speaker or word.start_s < before.start_s:
        return True
    return word.start_s - before.end_s >= _PAUSE_S


def _cut(run: Sequence[Word], check: Callable[[], None]) -> list[list[Atom]]:
    """The cheapest way to cut a run into cues that fit, by dynamic programming over their ends."""
    atoms, limit = atoms_of(run), limit_of(run)
    prices = [_price(*pair) for pair in zip(atoms, [*atoms[1:], None], strict=True)]
    costs, cuts = [0.0] + [math.inf] * len(atoms), [0] * (len(atoms) + 1)
    for first in range(len(atoms)):
        if first % _CHECK_EVERY == 0:
            check()
        for stop, cost in _cues_from(atoms, prices, first, limit):
            if costs[first] + cost < costs[stop]:
                costs[stop], cuts[stop] = costs[first] + cost, first
    stops = [len(atoms)]
    while stops[-1]:
        stops.append(cuts[stops[-1]])
    return [atoms[first:stop] for first, stop in pairwise(reversed(stops))]


@dataclass(frozen=True, slots=True)
class _Price:
    """What it costs to end a cue after an atom: `rough` always, and more by where the cue began."""

    rough: float
    ends_sentence: bool
    until_s: float


def _price(last: Atom, after: Atom | None) -> _Price:
    if after is None:
        return _Price(0.0, ends_sentence=True, until_s=math.inf)
    breath = 0.5 if after.start_s - last.end_s >= _BREATH_S else 1.0
    ends_sentence = ends_with(last.text, SENTENCE_END)
    return _Price(3.0 * breath * roughness(last, after), ends_sentence, after.start_s)


def _cues_from(
    atoms: Sequence[Atom], prices: Sequence[_Price], first: int, limit: int
) -> Iterator[tuple[int, float]]:
    """Every cue that may begin with an atom: where it stops, and what it costs.

    A cue costs 1; several sentences in one, a rough end, and a flash or a scrap cost more.
    """
    fill, width, cost = LineFill(limit), 0, 1.0
    start_s = atoms[first].start_s
    for at in range(first, len(atoms)):
        atom, price = atoms[at], prices[at]
        fits = fill.add(atom) <= MAX_LINES and atom.end_s - start_s <= MAX_CS / 100
        if at > first and not fits:
            return
        width += atom.width
        is_flash = price.until_s - start_s < (MIN_CS + GAP_CS) / 100
        is_scrap = width < _SCRAP_COLUMNS and not price.ends_sentence
        yield at + 1, cost + price.rough + 4.0 * is_flash + is_scrap
        cost += 1.6 * price.ends_sentence


def _timed(drafts: Sequence[Sequence[Atom]]) -> Iterator[LaidCue]:
    free_cs = 0
    for index, atoms in enumerate(drafts):
        words = tuple(word for atom in atoms for word in atom.words)
        lines = broken(atoms, limit_of(words))
        start_cs = max(_cs(atoms[0].start_s), free_cs)
        following_cs = _cs(drafts[index + 1][0].start_s) if index + 1 < len(drafts) else None
        end_cs = _end_cs(start_cs, _cs(atoms[-1].end_s), "\n".join(lines), following_cs)
        free_cs = end_cs + GAP_CS
        yield LaidCue(index + 1, start_cs / 100, end_cs / 100, lines, words, words[0].speaker)


def _end_cs(start_cs: int, spoken_cs: int, text: str, following_cs: int | None) -> int:
    """When a cue goes: after its words, later for reading, earlier where the next one needs the screen."""
    read_cs = start_cs + math.ceil(100 * reading_s(text, _EASY_LATIN_CPS))
    wanted_cs = max(spoken_cs, start_cs + MIN_CS, min(read_cs, spoken_cs + _LINGER_CS))
    end_cs = min(wanted_cs, start_cs + MAX_CS)
    if following_cs is None:
        return end_cs
    until_cs = following_cs - GAP_CS
    if until_cs - start_cs < MIN_CS:
        shortest_cs = MIN_CS if spoken_cs > following_cs + _DRIFT_CS else _SHORTEST_CS
        until_cs = max(min(start_cs + MIN_CS, until_cs + _LATE_CS), start_cs + shortest_cs)
    return min(end_cs, until_cs)


def _cs(seconds: float) -> int:
    return round(seconds * 100)


def _drift_cs(cue: LaidCue) -> int:
    first, last = cue.words[0], cue.words[-1]
    return max(abs(_cs(cue.start_s) - _cs(first.start_s)), _cs(last.end_s) - _cs(cue.end_s))
