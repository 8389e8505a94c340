"""Corrections of subtitle texts by rule: deterministic, and applied twice the same as once.

Each rule is narrow, so that what a speaker meant is never touched:
* punctuation: no space before a mark (French has one), one after a comma between letters, `!!!` after a word
  as `!`, `....` as `...`; full-width marks beside Chinese characters, half-width ones where there are none.
* casing (Latin, not Turkish): the first letter of a sentence, where the word is all lower case; English `i`
  where its neighbours show that a person is meant.
* fillers: English um, uh, erm in lower case or where a sentence begins; Chinese 呃 before a comma, and 嗯
  between commas, where it is no answer.
* repetitions: English function words that never stand twice (`the the`; not `had had`, `a, a`, `The The`),
  and a few Chinese ones (这个这个).
* numbers: full-width digits and letters as half-width ones, English and Chinese `10 %` as `10%`, `1 ,000`
  as `1,000`.
* spacing: one space between Chinese and Latin words; none beside pure digits (2024年), as Chinese sets them.

A text that a rule would empty stays as it was. Tags, words that tags divide, speaker labels, URLs and
addresses are passed over; a text that looks like a program keeps its marks, numbers and case. A text of
more than 5,000 characters is no subtitle and stays as it is. Every pattern takes time in proportion to its
text, because a regular expression lets no other thread of a replica run.
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

_TAG = r"<[^<>\n]*>|\{[^{}\n]*\}|\[[^\[\]\n]*\]|&#?\w{1,32};"
_LETTER = rf"[^\W{_HAN}]"  # of words that spaces part, and digits
_NAME = r"[A-Za-z0-9_.+-]"
# What the rules do not look into: words that markup divides, markup, addresses, escapes of ASS, speaker
# labels, and characters of private use.
_KEPT = re.compile(
    rf"(?P<word>(?<!{_LETTER}){_LETTER}+(?:(?:{_TAG})+{_LETTER}+)+"
    rf"|[a-z][a-z0-9+.-]{{1,15}}://\S+|www\.\S+|(?<!{_NAME}){_NAME}{{1,64}}@[A-Za-z0-9.-]{{1,255}}"
    r"|\b\w+\.(?:com|org|net|io|cn|gov|edu)\b\S*|\b\w{1,63}(?:\.\w{1,63}){1,6}/\S*)"
    rf"|{_TAG}|\\[Nnh]|^[^\S\n]*speaker[ _-]?\w+[^\S\n]*[:：]|[\ue000-\uf8ff]+",
    re.IGNORECASE | re.MULTILINE,
)
_MARK, _WORD_MARK = "\ue000", "\ue001"  # stand for one of those while the rules run

_ENGLISH_WORDS = frozenset(
    ["the", "and", "is", "you", "that", "it", "of", "to", "what", "this", "have", "with", "was", "are", "not"]
)
_ENGLISH_SHARE = 0.08
_NOT_ALWAYS_SENTENCE_END = frozenset(
    ["mr", "mrs", "ms", "dr", "st", "vs", "etc", "e.g", "i.e", "inc", "ltd", "co", "jr", "sr", "approx"]
)
_TITLES = frozenset(["mr", "mrs", "ms", "dr", "st", "prof", "jr", "sr"])
_DOTLESS_LANGUAGES = frozenset({"tr", "az"})

_REPEATABLE = "the|a|an|of|to|and|or|but|i|we|he|she|they|my|your|our|their|with|from|if"
_CHINESE_REPEATS = "这个|那个|然后|就是|因为|所以|但是"
_HALF_TO_FULL = {",": "，", "?": "？", "!": "！", ";": "；", ":": "：", ".": "。"}
_FULL_TO_HALF = {full: half for half, full in _HALF_TO_FULL.items()}
_WIDE_ASCII = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B))}
_WIDE_ASCII |= {code: code - 0xFEE0 for code in range(0xFF41, 0xFF5B)}
_MAX_PASSES = 10
_MAX_CHARS = 5000
_TOO_LONG = "too_long_for_rules"

_PROGRAM = re.compile(r"[=+*_|]|\w[(\[]")
_PROSE_ONLY = frozenset({"numbers", "punctuation", "casing"})
_CLOSERS = r"[\s\"'”’)）」』》]"

_FILLER = r"(?:u+m+|u+h+m*|e+r+m+)"
_FILLERS = (
    re.compile(rf",\s*\b({_FILLER})\b(?![-'’]),", re.IGNORECASE),
    re.compile(rf"(?<![-'’\w])({_FILLER})\b(?![-'’.?!])(?:,|…)?[^\S\n]*", re.IGNORECASE),
)
_ONLY_FILLER = re.compile(rf"{_FILLER}[,…]?", re.IGNORECASE)
_LOOK_BACK_CHARS = 40
_NOT_AFTER_I = "in|is|of|and|or|to|on|at|for|with|from|by|as|then|through"  # part i of, where i is
_BEFORE_I = "am|was|do|did|will|would|can|could|should|shall|have|had|may|might|must|than"
_I_OF_A_PERSON = tuple(
    re.compile(rf"(?<![\w.'’/-]){pattern}")
    for pattern in (
        r"()i(?=['’](?:m|ll|ve|d)\b)",
        rf"()i(?= +(?!(?:{_NOT_AFTER_I})\b)[a-z]{{2}})",
        rf"((?i:{_BEFORE_I}) +)i(?=$|[\s,!?;:…]|\.(?!\w))",
    )
)

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
    known = language.partition("-")[0].lower() or _guessed(texts, check)
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


def _guessed(texts: Sequence[str], check: Callable[[], None]) -> str:
    num_words = num_english = 0
    for text in texts:
        check()
        words = re.findall(r"[a-z']+", text[:_MAX_CHARS].lower())
        num_words += len(words)
        num_english += sum(word in _ENGLISH_WORDS for word in words)
    return "en" if num_english >= _ENGLISH_SHARE * (num_words or 1) else ""


def _corrected(text: str, setting: Setting) -> tuple[str, set[str]]:
    """One text, by all rules until none changes it any more, and the names of those that did."""
    if len(text) > _MAX_CHARS:
        return text, {_TOO_LONG}
    used: set[str] = set()
    for _ in range(_MAX_PASSES):
        changed = _passed(text, setting, used)
        if changed == text:
            break
        text = changed
    return text, used


def _passed(text: str, setting: Setting, used: set[str]) -> str:
    """One text after each rule once; adds to `used` the names of those that changed it."""
    kept = (found[0] for found in _KEPT.finditer(text))
    masked = _masked(text)
    for name, rule in RULES.items():
        changed = rule(masked, setting) if _may(name, masked) else masked
        if changed != masked and _has_words(changed) >= _has_words(masked):
            used.add(name)
            masked = changed
    return re.sub(f"[{_MARK}{_WORD_MARK}]", lambda _found: next(kept), masked)


def _masked(text: str) -> str:
    return _KEPT.sub(lambda found: _WORD_MARK if found["word"] else _MARK, text)


def _may(name: str, text: str) -> bool:
    return name not in _PROSE_ONLY or not _PROGRAM.search(text)


def _has_words(text: str) -> bool:
    return any(char.isalnum() or char == _WORD_MARK for char in text)


def _ends_sentence(text: str) -> bool:
    chunks = _masked(text[-_MAX_CHARS:]).rstrip("\"'”’)）]」』》" + _MARK).split()
    return bool(chunks) and _is_sentence_end(chunks[-1])


def _whitespace(text: str, _setting: Setting) -> str:
    """Blanks as one space, but those that forbid a break; lines keep their breaks, empty ones go."""
    lines = (
        re.sub(r"[^\S\n\u00a0\u202f]+", " ", line).strip() for line in text.replace("\r", "").split("\n")
    )
    return "\n".join(line for line in lines if line)


def _half_width(text: str, _setting: Setting) -> str:
    return text.translate(_WIDE_ASCII)


def _numbers(text: str, setting: Setting) -> str:
    """`10 %` is how other languages write it, and `10 % 3` is a sum."""
    if setting.is_english or _ANY_HAN.search(text):
        text = re.sub(r"(?<=\d) +%(?![A-Za-z0-9_])(?! +(?:\d|[A-Za-z]\b|\())", "%", text)
    return re.sub(r"(?<=\d) +,(?=\d{3}(?!\d))", ",", text)


def _marks(text: str, setting: Setting) -> str:
    text = re.sub(rf"(?<=\w)([!?,;])\1+(?={_CLOSERS}|$)|(?<=[{_HAN}])([!?,;])\2+", r"\1\2", text)
    text = re.sub(r"([！？，；：、])\1+", r"\1", text)
    text = re.sub(r"\.{4,}", "...", text)
    text = re.sub(r"。{2,}", "……", text)
    text = re.sub(r"…{3,}", "……", text)
    if setting.language != "fr":
        closing = ",.;:!?" if setting.language else ",."
        text = re.sub(rf"(?<=\w) +(?=[{closing}](?:\s|$))", "", text)
    text = re.sub(rf"(?<=[^\W\d_{_HAN}]) +,(?=[^\W\d_{_HAN}]{{2}})", ", ", text)
    return re.sub(rf"(?<=[^\W\d_{_HAN}])([,;!?])(?=[^\W\d_{_HAN}]{{2}})", r"\1 ", text)


def _chinese_marks(text: str, _setting: Setting) -> str:
    """Full-width marks after Chinese characters, half-width ones where a text has none."""
    if _KANA_OR_HANGUL.search(text):
        return text
    if not _ANY_HAN.search(text):
        return re.sub("([，？！；：。])( ?)", _narrowed, text) if _LATIN_LETTER.search(text) else text
    text = re.sub(
        rf"(?<=[{_HAN}”』」》]) *([,?!;]|:(?!:)) *(?![\d/])", lambda found: _HALF_TO_FULL[found[1]], text
    )
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
    for pattern in _FILLERS:
        text = pattern.sub(lambda found: "" if _is_filler(found, setting) else found[0], text)
    return text


def _is_filler(found: re.Match[str], setting: Setting) -> bool:
    """Not Mr. Um, nor UMM; a capital is one only where a sentence begins."""
    before = found.string[max(0, found.start() - _LOOK_BACK_CHARS) : found.start()]
    last = before.split()[-1:]
    if last and last[0].rstrip(".").lower() in _TITLES:
        return False
    if found[1].islower() or not found[1][1:].islower():
        return found[1].islower()
    spoken = [part for part in before.split() if _has_words(part) and not _ONLY_FILLER.fullmatch(part)]
    return _is_sentence_end(spoken[-1]) if spoken else setting.is_sentence_start


def _repetitions(text: str, setting: Setting) -> str:
    text = re.sub(rf"({_CHINESE_REPEATS})\1+", r"\1", text)
    if not setting.is_english:
        return text
    pattern = rf"(?<![-'’\w])({_REPEATABLE})((?: +\1\b(?![-'’.,]))+)"
    return re.sub(pattern, _said_once, text, flags=re.IGNORECASE)


def _said_once(found: re.Match[str]) -> str:
    """Names are written with capitals: The The."""
    others = found[2].split()
    return found[1] if all(word.islower() or word == "I" for word in others) else found[0]


def _mixed_spacing(text: str, _setting: Setting) -> str:
    word = r"[A-Za-z][A-Za-z0-9]*|[0-9]+[A-Za-z][A-Za-z0-9]*"
    text = re.sub(rf"(?<=[{_HAN}])(?={word})", " ", text)
    return re.sub(rf"([A-Za-z][0-9]*)(?=[{_HAN}])", r"\1 ", text)


def _casing(text: str, setting: Setting) -> str:
    if setting.language in _DOTLESS_LANGUAGES:
        return text
    if setting.is_english:
        for pattern in _I_OF_A_PERSON:
            text = pattern.sub(r"\1I", text)
    is_start = setting.is_sentence_start
    parts = re.split(r"(\s+)", text)
    for at in range(0, len(parts), 2):
        if is_start:
            parts[at] = _capitalised(parts[at])
        if _has_words(parts[at]):
            is_start = _is_sentence_end(parts[at])
    return "".join(parts)


def _capitalised(chunk: str) -> str:
    """The first word with a capital, where it is a plain lower-case one: not iPhone, not x2."""
    found = re.match(rf"[^\w{_WORD_MARK}]*([^\W\d_]+)(?![\w/@])", chunk)
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
    stem = re.sub(r"\A\W+", "", text.rstrip(".?!"))
    is_abbreviation = (
        stem.lower() in _NOT_ALWAYS_SENTENCE_END or "." in stem or (len(stem) == 1 and stem != "I")
    )
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
