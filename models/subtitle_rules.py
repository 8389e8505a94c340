"""Corrections of subtitle texts by rule: deterministic, and applied twice the same as once.

Each rule is narrow, so that what a speaker meant is never touched:
* punctuation: no space before a mark, one after a comma between letters, `!!!` as `!`, `....` as `...`;
  full-width marks beside Chinese characters, half-width ones where there are none.
* casing (Latin, not Turkish): the first letter of a sentence, where the word is all lower case; English `i`.
* fillers: English um, uh, erm; Chinese 呃 before a comma, and 嗯 between commas, where it is no answer.
* repetitions: English function words that never stand twice (`the the`; not `had had`, `very very`), and
  a few Chinese ones (这个这个).
* numbers: full-width digits and letters as half-width ones, `10 %` as `10%`, `1 ,000` as `1,000`.
* spacing: one space between Chinese and Latin words; none beside pure digits (2024年), as Chinese sets them.

A text that a rule would empty stays as it was. Tags, speaker labels, URLs and addresses are passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ffff"
_KANA_OR_HANGUL = re.compile(r"[\u3040-\u30ff\u1100-\u11ff\uac00-\ud7af]")
_ANY_HAN = re.compile(f"[{_HAN}]")
_LATIN_LETTER = re.compile(r"[A-Za-z\u00c0-\u024f]")

# What the rules do not look into: markup, speaker labels, addresses, and characters of private use.
_KEPT = re.compile(
    r"<[^<>\n]*>|\{[^{}\n]*\}|\[[^\[\]\n]*\]|https?://\S+|www\.\S+|\S+@\S+\.\w+|&#?\w+;"
    r"|\b\w+\.(?:com|org|net|io|cn|gov|edu)\b\S*|^\s*speaker[ _-]?\w+\s*[:：]|[\ue000-\uf8ff]+",
    re.IGNORECASE | re.MULTILINE,
)
_MARK = "\ue000"  # stands for one of those while the rules run

_ENGLISH_WORDS = frozenset(
    ["the", "and", "is", "you", "that", "it", "of", "to", "what", "this", "have", "with", "was", "are", "not"]
)
_ENGLISH_SHARE = 0.08
_NOT_ALWAYS_SENTENCE_END = frozenset(
    ["mr", "mrs", "ms", "dr", "st", "vs", "etc", "e.g", "i.e", "inc", "ltd", "co", "jr", "sr", "approx"]
)
_DOTLESS_LANGUAGES = frozenset({"tr", "az"})

_REPEATABLE = "the|a|an|of|to|and|or|but|i|we|he|she|they|my|your|our|their|with|from|if"
_CHINESE_REPEATS = "这个|那个|然后|就是|因为|所以|但是"
_HALF_TO_FULL = {",": "，", "?": "？", "!": "！", ";": "；", ":": "：", ".": "。"}
_FULL_TO_HALF = {full: half for half, full in _HALF_TO_FULL.items()}
_WIDE_ASCII = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B))}
_WIDE_ASCII |= {code: code - 0xFEE0 for code in range(0xFF41, 0xFF5B)}
_MAX_PASSES = 10

Rewrite = Callable[[str, "Setting"], str]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a rule knows beside the text: the language, and whether a sentence begins with it."""

    language: str
    is_sentence_start: bool = True

    @property
    def is_english(self) -> bool:
        return self.language == "en"


@dataclass(frozen=True, slots=True)
class Ruled:
    """Texts after the rules: as many, in the same order; `counts` says in how many texts a rule was used."""

    texts: tuple[str, ...]
    counts: dict[str, int] = field(default_factory=dict)


def apply_rules(texts: Sequence[str], language: str = "", check: Callable[[], None] = lambda: None) -> Ruled:
    """The texts of successive cues, corrected. Without a language code English is told by its words."""
    known = language.partition("-")[0].lower() or _guessed(texts)
    ruled: list[str] = []
    counts: Counter[str] = Counter()
    is_start = True
    for text in texts:
        check()
        changed, used = _corrected(text, Setting(known, is_start))
        ruled.append(changed)
        counts.update(used)
        is_start = _ends_sentence(changed) if changed.strip() else is_start
    return Ruled(tuple(ruled), dict(sorted(counts.items())))


def _guessed(texts: Sequence[str]) -> str:
    words = [word for text in texts for word in re.findall(r"[a-z']+", text.lower())]
    share = sum(word in _ENGLISH_WORDS for word in words) / (len(words) or 1)
    return "en" if share >= _ENGLISH_SHARE else ""


def _corrected(text: str, setting: Setting) -> tuple[str, set[str]]:
    """One text, by all rules until none changes it any more, and the names of those that did."""
    kept = _KEPT.findall(text)
    masked = _KEPT.sub(_MARK, text)
    used: set[str] = set()
    for _ in range(_MAX_PASSES):
        before = masked
        for name, rule in RULES.items():
            changed = rule(masked, setting)
            if changed != masked and _has_words(changed) >= _has_words(masked):
                used.add(name)
                masked = changed
        if masked == before:
            break
    parts = iter(kept)
    return re.sub(_MARK, lambda _found: next(parts), masked), used


def _has_words(text: str) -> bool:
    return any(char.isalnum() for char in text)


def _ends_sentence(text: str) -> bool:
    chunks = _KEPT.sub(_MARK, text).rstrip("\"'”’)）]」』》" + _MARK).split()
    return bool(chunks) and _is_sentence_end(chunks[-1])


def _whitespace(text: str, _setting: Setting) -> str:
    """Blanks of all kinds as one space; lines keep their breaks, empty ones go."""
    lines = (re.sub(r"[^\S\n]+", " ", line).strip() for line in text.replace("\r", "").split("\n"))
    return "\n".join(line for line in lines if line)


def _half_width(text: str, _setting: Setting) -> str:
    return text.translate(_WIDE_ASCII)


def _numbers(text: str, _setting: Setting) -> str:
    text = re.sub(r"(?<=\d) +%", "%", text)
    return re.sub(r"(?<=\d) +,(?=\d{3}(?!\d))", ",", text)


def _marks(text: str, _setting: Setting) -> str:
    text = re.sub(r"([!?,;:！？，；：、])\1+", r"\1", text)
    text = re.sub(r"\.{4,}", "...", text)
    text = re.sub(r"。{2,}", "……", text)
    text = re.sub(r"…{3,}", "……", text)
    text = re.sub(r"(?<=\w) +(?=[,.;:!?](?:\s|$))", "", text)
    text = re.sub(rf"(?<=[^\W\d_{_HAN}]) +,(?=[^\W\d_{_HAN}]{{2}})", ", ", text)
    return re.sub(rf"(?<=[^\W\d_{_HAN}])([,;!?])(?=[^\W\d_{_HAN}]{{2}})", r"\1 ", text)


def _chinese_marks(text: str, _setting: Setting) -> str:
    """Full-width marks after Chinese characters, half-width ones where a text has none."""
    if _KANA_OR_HANGUL.search(text):
        return text
    if not _ANY_HAN.search(text):
        return re.sub("([，？！；：。])( ?)", _narrowed, text) if _LATIN_LETTER.search(text) else text
    text = re.sub(rf"(?<=[{_HAN}”』」》]) *([,?!;:]) *(?![\d/])", lambda found: _HALF_TO_FULL[found[1]], text)
    text = re.sub(rf"(?<=\w) *([,?!;])(?= *[{_HAN}])", lambda found: _HALF_TO_FULL[found[1]], text)
    return re.sub(rf"(?<=[{_HAN}])\.(?=\s*$|\s*[{_HAN}])(?!\.)", "。", text, flags=re.MULTILINE)


def _narrowed(found: re.Match[str]) -> str:
    is_last = found.end() == len(found.string) or found.string[found.end()] in "\n\"'”’)"
    return _FULL_TO_HALF[found[1]] + ("" if is_last else " ")


def _fillers(text: str, setting: Setting) -> str:
    text = re.sub(r"(^|[，。？！、,\s])呃+[，、,…]+\s*", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"([，、,])\s*嗯+[，、,…]+\s*", r"\1", text)
    if not setting.is_english:
        return text
    filler = r"(?:u+m+|u+h+m*|e+r+m+)"
    text = re.sub(rf",\s*\b{filler}\b(?![-'’]),", "", text, flags=re.IGNORECASE)
    return re.sub(
        rf"(?<![-'’\w]){filler}\b(?![-'’.?!])(?:,|\.\.\.|…)?[^\S\n]*", "", text, flags=re.IGNORECASE
    )


def _repetitions(text: str, setting: Setting) -> str:
    text = re.sub(rf"({_CHINESE_REPEATS})\1+", r"\1", text)
    if not setting.is_english:
        return text
    return re.sub(rf"(?<![-'’\w])({_REPEATABLE})(?:,? +\1\b(?![-'’.]))+", r"\1", text, flags=re.IGNORECASE)


def _mixed_spacing(text: str, _setting: Setting) -> str:
    word = r"[A-Za-z][A-Za-z0-9]*|[0-9]+[A-Za-z][A-Za-z0-9]*"
    text = re.sub(rf"(?<=[{_HAN}])(?={word})", " ", text)
    return re.sub(rf"([A-Za-z][0-9]*)(?=[{_HAN}])", r"\1 ", text)


def _casing(text: str, setting: Setting) -> str:
    if setting.language in _DOTLESS_LANGUAGES:
        return text
    if setting.is_english:
        text = re.sub(r"(?<![\w.'’/-])i(?=$|[\s,!?;:…]|\.(?!\w)|['’](?:m|ll|ve|d|s)\b)", "I", text)
    is_start = setting.is_sentence_start
    parts = re.split(r"(\s+)", text)
    for at in range(0, len(parts), 2):
        if is_start:
            parts[at] = _capitalised(parts[at])
        if any(char.isalnum() for char in parts[at]):
            is_start = _is_sentence_end(parts[at])
    return "".join(parts)


def _capitalised(chunk: str) -> str:
    """The first word with a capital, where it is a plain lower-case one: not iPhone, not x2."""
    found = re.match(r"[^\w]*([^\W\d_]+)(?![\d_/@])", chunk)
    if found is None or not found[1].islower() or not _LATIN_LETTER.match(found[1]):
        return chunk
    upper = found[1][0].upper()
    at = found.start(1)
    return chunk[:at] + upper + chunk[at + 1 :] if len(upper) == 1 else chunk


def _is_sentence_end(chunk: str) -> bool:
    """Whether a sentence begins after the chunk: not after abbreviations, `...` or quotations."""
    text = chunk.rstrip(_MARK)
    if not text.endswith((".", "?", "!", "。", "？", "！")) or text.endswith(".."):
        return False
    stem = re.sub(r"^\W+|[.?!]+$", "", text).lower()
    is_abbreviation = stem in _NOT_ALWAYS_SENTENCE_END or "." in stem or (len(stem) == 1 and stem != "i")
    return not (text.endswith(".") and is_abbreviation)


RULES: dict[str, Rewrite] = {
    "whitespace": _whitespace,
    "half_width": _half_width,
    "numbers": _numbers,
    "punctuation": _marks,
    "chinese_punctuation": _chinese_marks,
    "fillers": _fillers,
    "repetitions": _repetitions,
    "mixed_spacing": _mixed_spacing,
    "casing": _casing,
}
