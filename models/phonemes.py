"""Text to the phonemes that the Kokoro and Piper networks were trained on: English, Mandarin and Japanese.

English is read by espeak-ng, with the signs of misaki where Kokoro has its own; Mandarin by misaki's table of
pinyin over words that jieba cuts; Japanese by `models.japanese`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jieba  # type: ignore[import-untyped]  # it has no stubs
from misaki.zh import ZHG2P

from models import spoken_forms
from models.espeak import Espeak
from models.japanese import Japanese, with_units
from models.text_segments import ABBREVIATION, Reading, Script, runs, scripts_of

_MARKS = ".!?,;:—…"
_TAIL = re.compile(rf"[{_MARKS}][{_MARKS}\s\"'”’)\]}}»]*$")
_FROM_ESPEAK = (  # longer ones first
    *(("aɪ", "I"), ("aʊ", "W"), ("oʊ", "O"), ("eɪ", "A"), ("ɔɪ", "Y"), ("tʃ", "ʧ"), ("dʒ", "ʤ")),
    *(("ɜː", "ɜɹ"), ("r", "ɹ"), ("ɚ", "əɹ"), ("ɐ", "ə"), ("ɾ", "T"), ("ʔ", "t"), ("ː", "")),
)
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]+|[^\u3400-\u4dbf\u4e00-\u9fff]+")
_CHINESE_MARKS = str.maketrans(
    {
        **{"、": ",", "〇": "零"},
        "。": ".",
        **dict.fromkeys("《「『【〈", "“"),
        **dict.fromkeys("》」』】〉", "”"),
    }
)
_UNITS: dict[Script, Callable[[str], str]] = {  # said in the main language, also where they are Latin letters
    Script.LATIN: lambda text: text.replace("°C", " degrees Celsius"),
    Script.HAN: lambda text: text.replace("°C", "摄氏度"),
    Script.KANA: with_units,
}


class Phonemizer:
    """Reads segments of text. One espeak-ng child process for all threads."""

    def __init__(self, espeak: Espeak) -> None:
        self._espeak = espeak
        self._readers: dict[Script, Callable[[str], str]] = {
            Script.LATIN: lambda text: kokoro_signs(self.english(text)),
            Script.HAN: _Mandarin(),
            Script.KANA: Japanese(),
        }

    def kokoro(self, segment: str, reading: Reading) -> str:
        """The phonemes of a segment, each of its scripts read in its language."""
        text = _UNITS[reading.main](spoken_forms.plain(segment))
        said = [self._readers[run.script](run.text) for run in runs(text, reading)]
        return re.sub(r"\s+", " ", " ".join(said)).strip()

    def english(self, segment: str) -> str:
        """The IPA of English text, with the marks that end its clauses."""
        clauses = self._espeak.clauses(spoken_forms.english(spoken_forms.plain(segment)))
        return with_marks(clauses)


def with_marks(clauses: Sequence[tuple[str, str]]) -> str:
    """The IPA of clauses, each with the mark that ended it.

    The text of a clause goes one character beyond its end, except that of the last.
    """
    said = []
    for number, (text, ipa) in enumerate(clauses, start=1):
        is_last = number == len(clauses)
        said.append(ipa + _mark_of(text if is_last else text[:-1], is_last=is_last))
    return " ".join(piece for piece in said if piece.strip(_MARKS + " "))


def kokoro_signs(ipa: str) -> str:
    """The IPA of espeak-ng in Kokoro's signs."""
    for sign, ours in _FROM_ESPEAK:
        ipa = ipa.replace(sign, ours)
    return ipa


def _mark_of(text: str, *, is_last: bool) -> str:
    tail = _TAIL.search(text)
    if tail is None or (not is_last and ABBREVIATION.search(text.rstrip())):
        return ""
    return tail.group()[0]


def unread_in_mandarin(text: str) -> str:
    """The Han characters of a text that are left out, since no reading in Mandarin is known for them."""
    spoken = spoken_forms.plain(text).translate(_CHINESE_MARKS)
    return "".join(
        char
        for char in dict.fromkeys(spoken)
        if scripts_of(char).get(Script.HAN) and not (_is_han(char) and _said(char, ZHG2P.word2ipa))
    )


class _Mandarin:
    """jieba's words in misaki's phonemes. The dictionary (about 1 s) is read at the first text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, text: str) -> str:
        with self._lock:
            tokenizer, to_ipa = self._reader
        spoken = spoken_forms.chinese(text).translate(_CHINESE_MARKS)
        said = (
            " ".join(_said(word, to_ipa) for word in tokenizer.cut(part)) if _is_han(part) else _spaced(part)
            for part in _HAN.findall(spoken)
        )
        return "".join(said).replace("\u032f", "")

    @cached_property
    def _reader(self) -> tuple[Any, Any]:
        """The tokenizer with jieba's dictionary, and the table.

        Read from the package here: jieba's own loading trusts and writes a file of a known name in the folder
        of temporary files.
        """
        tokenizer = jieba.Tokenizer()
        tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
        tokenizer.initialized = True
        return tokenizer, ZHG2P.word2ipa


def _said(word: str, to_ipa: Callable[[str], str]) -> str:
    """The phonemes of a word; of its characters where one has no known reading, which is left out."""
    try:
        return to_ipa(word)
    except ValueError:
        return "".join(_said(char, to_ipa) for char in word) if len(word) > 1 else ""


def _is_han(part: str) -> bool:
    return "\u3400" <= part[0] <= "\u9fff"


def _spaced(marks: str) -> str:
    """Marks as they stand in Latin text."""
    return re.sub(rf"\s*([{_MARKS}”)]+)\s*", r"\1 ", marks)
