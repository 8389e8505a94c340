"""Text to be spoken: its languages, and where a speaker would breathe: sentences, clauses, and runs. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

ENGLISH, CHINESE, JAPANESE = "en", "zh", "ja"
SENTENCE_PAUSE_S = 0.3
PARAGRAPH_PAUSE_S = 0.6
PHRASE_PAUSE_S = 0.12
_HAN_PER_KANA = 20  # Japanese has more kana than this


class Script(StrEnum):
    """What a text is written in."""

    LATIN = "Latin"
    HAN = "Han"
    KANA = "kana"
    OTHER = "other"


_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_LATIN = "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_IS_HAN, _IS_KANA, _IS_LATIN = (re.compile(f"[{letters}]") for letters in (_HAN, _KANA, _LATIN))
_WORD = re.compile(f"[{_LATIN}]+")
_ATOM = re.compile(rf"[{_LATIN}]{{1,4}}|\s+|.", re.DOTALL)  # as byte-pair vocabularies cut, about
_LATIN_RUN = re.compile(
    rf"[{_LATIN}][{_LATIN}0-9]*(?:[-'’.&+_/]?[{_LATIN}0-9]+)*(?: +[{_LATIN}][{_LATIN}0-9'’-]*)*"
)
_MARK = r"(?:[.!?,;:。！？，、；：…](?!\d))?"  # with the run that it ends: a mark alone says nothing
_EAST_RUN = re.compile(f"[{_HAN}{_KANA}]+(?:[、，。！？；：・「」『』]*[{_HAN}{_KANA}]+)*{_MARK}")
_KANA_RUN = f"[{_KANA}]+(?:[、，。！？；：・]*[{_KANA}]+)*{_MARK}"
_FOREIGN_RUN = {  # what is not in the main script
    Script.LATIN: _EAST_RUN,
    Script.HAN: re.compile(f"{_LATIN_RUN.pattern}|{_KANA_RUN}"),
    Script.KANA: _LATIN_RUN,
}

_CLOSERS = "\"'”’)\\]」』】》"
_SENTENCE = re.compile(  # bounded and never tried again shorter: else long runs of marks take quadratic time
    rf"(?:[。！？!?…]{{1,20}}+|(?<![.\d])\.(?!\d)|(?<=\d)\.(?=\s|$)|\.{{2,20}}+)[.!?{_CLOSERS}]{{0,20}}+"
    rf"(?=\s|$|[{_HAN}{_KANA}])"
    rf"|[。！？][{_CLOSERS}]{{0,20}}+"
)
_SPACE = re.compile(r"\s+")
_CLAUSE = re.compile(rf"[,;:，；：、—][{_CLOSERS}]*\s*")
ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|vs|etc|No|Fig|Inc|Ltd|Co|e\.g|i\.e)|\b[A-Z])\.$", re.IGNORECASE
)
_MAX_ABBREVIATION_CHARS = 5


@dataclass(frozen=True, slots=True)
class Segment:
    """What is spoken in one breath: `end` is where the text after it begins, `pause_s` the silence after."""

    text: str
    end: int
    pause_s: float


@dataclass(frozen=True, slots=True)
class Reading:
    """`main` is the script whose language says digits and signs; `han` is KANA where Han is Japanese."""

    main: Script
    han: Script


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of a segment in one script."""

    text: str
    script: Script


def is_speakable(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return any(char.isalnum() for char in text)


def scripts_of(text: str) -> dict[Script, int]:
    """How much of each script is in it: characters, but words of Latin letters."""
    others = sum(char.isalpha() and _script_of(char) is Script.OTHER for char in text)
    counts = {
        Script.LATIN: len(_WORD.findall(text)),
        Script.HAN: len(_IS_HAN.findall(text)),
        Script.KANA: len(_IS_KANA.findall(text)),
        Script.OTHER: others,
    }
    return {script: count for script, count in counts.items() if count}


def other_letters(text: str) -> str:
    """The first few letters of scripts that are neither Latin, Han nor kana."""
    found = dict.fromkeys(char for char in text if char.isalpha() and _script_of(char) is Script.OTHER)
    return "".join(list(found)[:5])


def language_of(text: str) -> str:
    """What most of the text is written in: en, zh, or ja where kana stand among Han characters."""
    scripts = scripts_of(text)
    eastern = scripts.get(Script.HAN, 0) + scripts.get(Script.KANA, 0)
    if not eastern or eastern < scripts.get(Script.LATIN, 0):
        return ENGLISH
    return JAPANESE if _is_japanese(scripts) else CHINESE


def reading_of(text: str, language: str) -> Reading:
    """How `text` is read by a speaker of `language`, en, zh or ja."""
    if language == ENGLISH:
        return Reading(Script.LATIN, Script.KANA if _is_japanese(scripts_of(text)) else Script.HAN)
    main = {CHINESE: Script.HAN, JAPANESE: Script.KANA}[language]
    return Reading(main, main)


def runs(text: str, reading: Reading) -> list[Run]:
    """`text` in stretches of one script; digits and signs belong to the main one, in Japanese Han too."""
    found, at = [], 0
    for match in _FOREIGN_RUN[reading.main].finditer(text):
        other = _script_of(match[0][0])
        if other is not Script.LATIN:
            other = Script.KANA if _IS_KANA.search(match[0]) else reading.han
        found += [Run(text[at : match.start()], reading.main), Run(match[0], other)]
        at = match.end()
    found.append(Run(text[at:], reading.main))
    return [run for run in found if run.text.strip()]


def num_tokens(text: str) -> int:
    """About how many tokens a speech model makes of it: four Latin letters, or another character, is one."""
    return sum(not match.group().isspace() for match in _ATOM.finditer(text))


def segments(text: str, max_tokens: int) -> list[Segment]:
    """All of `text` in segments of at most `max_tokens`: whole sentences together where they fit.

    A sentence that is longer is cut at clauses, else between words, else anywhere. What has nothing to speak
    is left out.
    """
    found: list[Segment] = []
    for start, paragraph in _paragraphs(text):
        pieces = _pieces(paragraph, start, max_tokens)
        packed = list(_packed(pieces, max_tokens))
        if packed:
            last = packed[-1]
            packed[-1] = Segment(last.text, last.end, PARAGRAPH_PAUSE_S)
        found += packed
    return found


def _is_japanese(scripts: Mapping[Script, int]) -> bool:
    """Whether Han characters are Japanese: a stray の is also found in Chinese."""
    return scripts.get(Script.KANA, 0) * _HAN_PER_KANA > scripts.get(Script.HAN, 0)


def _script_of(char: str) -> Script:
    if _IS_LATIN.match(char):
        return Script.LATIN
    if _IS_HAN.match(char):
        return Script.HAN
    if _IS_KANA.match(char):
        return Script.KANA
    # modifier letters and full-width forms stand for Latin ones
    return Script.LATIN if _IS_LATIN.match(unicodedata.normalize("NFKC", char)) else Script.OTHER


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Where each line starts, and the line."""
    at = 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            yield at, line
        at += len(line)


def _pieces(paragraph: str, start: int, max_tokens: int) -> Iterator[Segment]:
    """Sentences, and parts of those that are too long, each with the pause after it."""
    at = start
    for sentence in _sentences(paragraph):
        parts = list(_parts(sentence, max_tokens))
        for number, part in enumerate(parts, start=1):
            at += len(part)
            yield Segment(part, at, SENTENCE_PAUSE_S if number == len(parts) else PHRASE_PAUSE_S)


def _sentences(paragraph: str) -> Iterator[str]:
    start = 0
    for match in _SENTENCE.finditer(paragraph):
        end = match.end()
        if not ABBREVIATION.search(paragraph, max(start, end - _MAX_ABBREVIATION_CHARS), end):
            yield paragraph[start:end]
            start = end
    yield paragraph[start:]


def _parts(sentence: str, max_tokens: int) -> Iterator[str]:
    """`sentence` in parts of at most `max_tokens`, cut after a clause, else a word, else anywhere."""
    start = 0
    while (reach := _reach(sentence, start, max_tokens)) < len(sentence):
        window = sentence[start:reach]
        cut = next(
            (ends[-1] for ends in (_cuts(_CLAUSE, window), _cuts(_SPACE, window)) if ends), len(window)
        )
        yield sentence[start : start + cut]
        start += cut
    yield sentence[start:]


def _reach(text: str, start: int, max_tokens: int) -> int:
    """Where the longest stretch from `start` ends that has at most `max_tokens`, in steps of a token."""
    for match in _ATOM.finditer(text, start):
        max_tokens -= 0 if match.group().isspace() else 1
        if max_tokens < 0:
            return match.start()
    return len(text)


def _cuts(pattern: re.Pattern[str], text: str) -> list[int]:
    return [match.end() for match in pattern.finditer(text)]


def _packed(pieces: Iterable[Segment], max_tokens: int) -> Iterator[Segment]:
    """Neighbours put together while they fit."""
    kept, size = Segment("", 0, 0.0), 0
    for piece in pieces:
        tokens = num_tokens(piece.text)
        if size + tokens <= max_tokens:
            kept, size = Segment(kept.text + piece.text, piece.end, piece.pause_s), size + tokens
            continue
        if is_speakable(kept.text):
            yield kept
        kept, size = piece, tokens
    if is_speakable(kept.text):
        yield kept
