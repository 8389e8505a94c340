"""Captions of scenes in English and Chinese, in many wordings.

The wordings of `held_out.json` are kept out of here: they test whether words were understood or sentences
learned by heart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from training.shapes.scenes import Scene, Thing
from training.shapes.words import ENGLISH, LANGUAGES, Words

Rng = np.random.Generator
_T = TypeVar("_T")


_SAYS_MEDIUM = 0.2
_SAYS_SIZE = 0.85
_SAYS_BACKGROUND = 0.75
_FILLER_CHANCES = (0.5, 0.25, 0.15, 0.1)  # of none, one, two, three


@dataclass(frozen=True, slots=True)
class Caption:
    """A text, and the background it tells ("" where it leaves it open)."""

    text: str
    background: str


def caption(scene: Scene, language: str, rng: Rng) -> Caption:
    """One of the ways to tell a scene in a language."""
    words = LANGUAGES[language]
    says_background = rng.random() < _SAYS_BACKGROUND
    behind = _pick(words.behind, rng).format(background=_pick(words.backgrounds[scene.background], rng))
    if len(scene.things) == 1:
        text = _sentence(scene.things[0], words, behind if says_background else None, rng)
    else:
        text = _pair(scene.things, words, behind if says_background else None, rng)
    for _ in range(int(rng.choice(len(_FILLER_CHANCES), p=_FILLER_CHANCES))):
        text = _with_filler(text, words, rng)
    if words is ENGLISH and rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return Caption(text, scene.background if says_background else "")


def _sentence(thing: Thing, words: Words, behind: str | None, rng: Rng) -> str:
    fitting = [text for text in words.sentences if ("{behind}" in text) == (behind is not None)]
    moves, moving = _pick(words.motions[thing.motion], rng)
    return _pick(fitting, rng).format(
        thing=_named(thing, words, rng), moves=moves, moving=moving, behind=behind
    )


def _pair(things: Sequence[Thing], words: Words, behind: str | None, rng: Rng) -> str:
    clauses = []
    for thing in things:
        verb = _pick(words.motions[thing.motion], rng)[int(rng.integers(2))]
        clauses.append(words.gap.join((_named(thing, words, rng), verb)))
    text = _pick(words.pairs, rng).format(first=clauses[0], second=clauses[1])
    if behind is None:
        return text
    comma = "," + words.gap
    return behind + comma + text if rng.random() < 0.5 else text + comma + behind


def _named(thing: Thing, words: Words, rng: Rng) -> str:
    says_size = rng.random() < (_SAYS_MEDIUM if thing.size == "medium" else _SAYS_SIZE)
    return (
        _pick(words.things if says_size else words.plain_things, rng)
        .format(
            color=_pick(words.colors[thing.color], rng),
            shape=_pick(words.shapes[thing.shape], rng),
            size=_pick(words.sizes[thing.size], rng),
        )
        .replace("的的", "的")
    )


def _with_filler(text: str, words: Words, rng: Rng) -> str:
    filler = _pick(words.fillers, rng)
    if words is ENGLISH:
        parts = text.split(" ")
        parts.insert(int(rng.integers(len(parts) + 1)), filler)
        return " ".join(parts)
    place = int(rng.integers(len(text) + 1)) if rng.random() < 0.3 else 0
    return text[:place] + filler + text[place:]


def _pick(options: Sequence[_T], rng: Rng) -> _T:
    return options[int(rng.integers(len(options)))]
