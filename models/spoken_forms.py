"""Amounts, dates and times as they are said, for what the readers of each language get wrong. Pure."""

from __future__ import annotations

import calendar
import re
import unicodedata
from collections.abc import Callable

from cn2an import transform  # type: ignore[import-untyped]  # it has no stubs

_CURRENCIES = {  # English singular, plural, hundredth and its plural; Chinese unit
    "$": ("dollar", "dollars", "cent", "cents", "美元"),
    "€": ("euro", "euros", "cent", "cents", "欧元"),
    "£": ("pound", "pounds", "penny", "pence", "英镑"),
    "¥": ("yuan", "yuan", "fen", "fen", "元"),
}
_NUMBER = r"\d{1,3}(?:,\d{3})+|\d+"
_AMOUNT = re.compile(
    rf"([$€£¥])\s?({_NUMBER})(\.\d+)?(?:\s?(thousand|million|billion|trillion)\b)?", re.IGNORECASE
)
_ISO_DATE = re.compile(r"\b(\d{4})[-/](0?[1-9]|1[0-2])[-/](0?[1-9]|[12]\d|3[01])\b")
_CLOCK = re.compile(r"(?<![\d:])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_VERSION = re.compile(r"\d+(?:\.\d+){2,}")
_LONG_NUMBER = re.compile(r"(?<![\d.])(?:0\d+|\d{9,})(?![\d.])")
_DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")
_SILENT_CATEGORIES = frozenset({"So", "Sk", "Cf", "Cs", "Co", "Cn", "Cc"})


def plain(text: str) -> str:
    """`text` without pictures and invisible characters, with usual forms for full-width ones and digits."""
    kept = (
        " "
        if unicodedata.category(char) in _SILENT_CATEGORIES and char != "°"
        else str(unicodedata.digit(char, char))
        for char in unicodedata.normalize("NFKC", text)
    )
    return re.sub(r"\s+", " ", "".join(kept)).strip()


def english(text: str) -> str:
    """Amounts and dates in words around their numbers, which espeak reads."""
    return _ISO_DATE.sub(_english_date, _AMOUNT.sub(_english_amount, text))


def chinese(text: str) -> str:
    """All numbers, amounts, dates and times in Chinese characters."""
    steps: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
        (_AMOUNT, lambda match: f"{match[2]}{match[3] or ''}{_CURRENCIES[match[1]][4]}"),
        (_THOUSANDS, ""),
        (_ISO_DATE, lambda match: f"{match[1]}年{int(match[2])}月{int(match[3])}日"),
        (_CLOCK, _chinese_clock),
        (_VERSION, lambda match: match[0].replace(".", "点").translate(_DIGITS)),
        (_LONG_NUMBER, lambda match: match[0].translate(_DIGITS)),
    )
    for pattern, said in steps:
        text = pattern.sub(said, text)
    return transform(text.replace("°C", "摄氏度"), "an2cn").translate(_DIGITS)


def _english_amount(match: re.Match[str]) -> str:
    one, many, one_part, many_parts, _ = _CURRENCIES[match[1]]
    whole, fraction, scale = match[2], match[3] or "", match[4]
    if scale:
        return f"{whole}{fraction} {scale} {many}"
    if len(fraction) not in {0, 3}:
        return f"{whole}{fraction} {many}"
    said = f"{whole} {one if whole == '1' else many}"
    parts = int(fraction[1:] or 0)
    return f"{said} and {parts} {one_part if parts == 1 else many_parts}" if parts else said


def _english_date(match: re.Match[str]) -> str:
    return f"{calendar.month_name[int(match[2])]} {int(match[3])}, {match[1]}"


def _chinese_clock(match: re.Match[str]) -> str:
    hour, minute, second = int(match[1]), int(match[2]), match[3]
    said = f"{hour}点{minute}分" if minute else f"{hour}点整"
    return f"{said}{int(second)}秒" if second else said
