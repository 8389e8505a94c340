"""What writing systems ask of a subtitle: how wide a text is, how long it takes to read, where it breaks."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Closing marks stay with what they close, opening marks with what they open (kinsoku shori, JIS X 4051).
CLOSING = frozenset("，。、；：？！…”’）】》〉」』〕｝·～,.;:?!)]}%'\"々ー")
OPENING = frozenset("“‘（【《〈「『〔｛([{$￥¥#@")
SENTENCE_END = frozenset(".?!…。？！")
CLAUSE_END = frozenset(",;:，、；：—")

_TOKEN = re.compile(r"\S+")
_HANGUL = re.compile(r"[ᄀ-ᇿ㄰-㆏ꥠ-꥿가-퟿]")
_WIDE_CPS = 9.0  # characters a second that adults read of Chinese
_HANGUL_CPS = 12.0


@lru_cache(maxsize=8192)
def columns_of(char: str) -> int:
    """2 for a full-width character, 0 for a mark that stands over another, else 1."""
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def columns(text: str) -> int:
    return sum(map(columns_of, text))


def is_wide(text: str) -> bool:
    """Whether any character is full-width: Chinese, Japanese, Korean."""
    return any(columns_of(char) == 2 for char in text)


@lru_cache(maxsize=8192)
def _breaks_alone(char: str) -> bool:
    """Whether a line may break beside the character without a space; Korean breaks at spaces."""
    return columns_of(char) == 2 and not _HANGUL.match(char)


def may_break(before: str, after: str) -> bool:
    """Whether a line may break between two characters that no space parts."""
    if after in CLOSING or before in OPENING or columns_of(after) == 0:
        return False
    return _breaks_alone(before) or _breaks_alone(after)


def tokens(text: str) -> list[tuple[str, bool]]:
    """The smallest parts that lines and cues may be cut into, each with whether a space goes before it."""
    found: list[tuple[str, bool]] = []
    for match in _TOKEN.finditer(text):
        chunk, start = match[0], 0
        for at in range(1, len(chunk) + 1):
            if at == len(chunk) or may_break(chunk[at - 1], chunk[at]):
                found.append((chunk[start:at], start == 0))
                start = at
    return found


def reading_s(text: str, latin_cps: float) -> float:
    """Seconds that reading takes: `latin_cps` characters a second, 9 where full-width, 12 in Korean."""
    return sum(_char_s(char, latin_cps) for char in text if columns_of(char))


def _char_s(char: str, latin_cps: float) -> float:
    if columns_of(char) == 1:
        return 1 / latin_cps
    return 1 / (_HANGUL_CPS if _HANGUL.match(char) else _WIDE_CPS)


def ends_with(text: str, marks: frozenset[str]) -> bool:
    """Whether the text ends with one of `marks`, quotes and brackets after it aside."""
    return text.rstrip("\"'”’)）]」』》")[-1:] in marks
