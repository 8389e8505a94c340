"""One cue's words as one or two lines: never wider than allowed, balanced, broken where it reads well.

Sources: the timed text style guides of broadcasters (Netflix general requirements, BBC subtitle guidelines):
break after punctuation, before conjunctions and prepositions, never between an article and its noun.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.script import CLAUSE_END, SENTENCE_END, columns, ends_with, is_wide, may_break
from models.segments_file import Word

LATIN_COLUMNS = 42
WIDE_COLUMNS = 40  # 20 full-width characters; a Latin letter between them takes half a place
MAX_LINES = 2

_BREAK_BEFORE_WORDS = """
and but or nor so yet because although though while when where who which that if unless until since after
before as than of in on at by for from with without into onto over under about through between against to
und oder aber weil dass et ou mais que y o pero porque
"""
_NO_BREAK_AFTER_WORDS = """
a an the my your his her its our their this these those i you he she we they is are was were be been am have
has had do does did don't doesn't didn't will would can could shall should may might must not very mr mrs ms
dr st to of in on at by for from with into der die das ein eine le la les un une el los las una
"""
_BREAK_BEFORE = frozenset(_BREAK_BEFORE_WORDS.split())
_NO_BREAK_AFTER = frozenset(_NO_BREAK_AFTER_WORDS.split())


@dataclass(frozen=True, slots=True)
class Atom:
    """Words that stay on one line because no break is allowed between them; `width` in columns."""

    words: tuple[Word, ...]
    text: str
    width: int
    is_spaced: bool
    start_s: float
    end_s: float


def atoms_of(words: Sequence[Word]) -> list[Atom]:
    """The words in order, glued where only a break of a word could part them (20 + -year)."""
    groups: list[list[Word]] = []
    for word in words:
        is_apart = not groups or word.is_spaced or may_break(groups[-1][-1].text[-1], word.text[0])
        if is_apart:
            groups.append([word])
        else:
            groups[-1].append(word)
    return [_atom(tuple(group)) for group in groups]


def _atom(words: tuple[Word, ...]) -> Atom:
    text = joined(words)
    end_s = max(word.end_s for word in words)
    return Atom(words, text, columns(text), words[0].is_spaced, words[0].start_s, end_s)


def joined(words: Sequence[Word]) -> str:
    """The words as running text."""
    return "".join(" " * (word.is_spaced and at > 0) + word.text for at, word in enumerate(words))


def limit_of(words: Sequence[Word]) -> int:
    """Columns that a line of this text may have."""
    return WIDE_COLUMNS if any(is_wide(word.text) for word in words) else LATIN_COLUMNS


class LineFill:
    """Fills lines one atom after another, as full as they get: whether a text fits at all."""

    def __init__(self, limit: int) -> None:
        self.num_lines = 0
        self._limit = limit
        self._width = 0

    def add(self, atom: Atom) -> int:
        """Lines used with this atom. One that is wider than a line gets a line of its own."""
        more = atom.width + (atom.is_spaced and self._width > 0)
        if self.num_lines and self._width + more <= self._limit:
            self._width += more
        else:
            self.num_lines += 1
            self._width = atom.width
        return self.num_lines


def broken(atoms: Sequence[Atom], limit: int) -> tuple[str, ...]:
    """The atoms as one line where they fit, else as the best two, which the caller made sure are enough."""
    if len(atoms) < 2 or _width(atoms) <= limit:
        return (_text(atoms),)
    splits = range(1, len(atoms))
    fits = [at for at in splits if all(_fits(part, limit) for part in (atoms[:at], atoms[at:]))]
    best = min(fits, key=lambda at: _badness(atoms, at, limit))
    return _text(atoms[:best]), _text(atoms[best:])


def _fits(atoms: Sequence[Atom], limit: int) -> bool:
    return len(atoms) == 1 or _width(atoms) <= limit


def _width(atoms: Sequence[Atom]) -> int:
    return sum(atom.width + (atom.is_spaced and at > 0) for at, atom in enumerate(atoms))


def _text(atoms: Sequence[Atom]) -> str:
    return joined([word for atom in atoms for word in atom.words])


def _badness(atoms: Sequence[Atom], at: int, limit: int) -> float:
    """Unbalanced lines are bad, a longer upper line a little worse, and so is a break inside a phrase."""
    upper, lower = _width(atoms[:at]), _width(atoms[at:])
    return abs(upper - lower) / limit + 0.05 * (upper > lower) + roughness(atoms[at - 1], atoms[at])


def roughness(before: Atom, after: Atom) -> float:
    """How much a break between two atoms hurts: 0 after a sentence, 1 inside a phrase."""
    if ends_with(before.text, SENTENCE_END):
        return 0.0
    if ends_with(before.text, CLAUSE_END):
        return 0.15
    if before.text.casefold() in _NO_BREAK_AFTER:
        return 1.0
    return 0.3 if after.text.casefold() in _BREAK_BEFORE else 0.55
