"""Japanese text as it is said, and its phonemes by misaki's table over words that MeCab cuts with UniDic."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

_NUMERALS = "一二三四五六七八九十百千万億兆"
_PLACES = ("千", "百", "十", "")
_MYRIADS = ("", "万", "億", "兆")
_MAX_DIGITS = 4 * len(_MYRIADS)
_SAID_DIGITS = ("ゼロ", "イチ", "ニ", "サン", "ヨン", "ゴ", "ロク", "ナナ", "ハチ", "キュー")

_UNITS = {
    **{"°C": "度", "%": "パーセント", "km": "キロメートル", "cm": "センチメートル", "mm": "ミリメートル"},
    **{"m": "メートル", "kg": "キログラム", "mg": "ミリグラム", "g": "グラム", "ml": "ミリリットル"},
    **{"mL": "ミリリットル", "L": "リットル", "GB": "ギガバイト", "MB": "メガバイト"},
}
_CURRENCIES = {"¥": "円", "$": "ドル", "€": "ユーロ", "£": "ポンド"}
_UNIT = re.compile(rf"(?<=\d)\s?({'|'.join(sorted(_UNITS, key=len, reverse=True))})(?![A-Za-z])")
_AMOUNT = re.compile(r"([¥$€£])\s?(\d+(?:,\d{3})*(?:\.\d+)?(?:[千万億兆]+)?)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DATE = re.compile(r"(?<!\d)(\d{4})[-/](0?[1-9]|1[0-2])[-/](0?[1-9]|[12]\d|3[01])(?!\d)")
_CLOCK = re.compile(r"(?<![\d:])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:])")
_PHONE = re.compile(r"(?<![\d-])0\d{1,4}-\d{1,4}-\d{3,4}(?![\d-])")
_RANGE = re.compile(r"(?<=[\d年月日時分円度人])\s?[~〜]\s?(?=\d)")
_MINUS = re.compile(r"(?<![A-Za-z0-9.])[-\u2212](?=\d)")
_FRACTION = re.compile(r"(?<![\d.])(\d+)分の(\d+)(?![\d.])")
_MINUTES = re.compile(r"(?<![\d.])(\d+)分")
_NUMBER = re.compile(r"\d+(?:\.\d+)*")
_SMALL = "ぁぃぅぇぉゃゅょァィゥェォャュョ"
_ABLE = "\u3041-\u3062\u3064-\u3092\u3094\u30a1-\u30c2\u30c4-\u30f2\u30f4"  # kana but for っ and ん
_STRAY_SMALL = re.compile(f"(?<![{_ABLE}])[{_SMALL}]")  # misaki's table knows none for these
_LARGE = str.maketrans(_SMALL, "あいうえおやゆよアイウエオヤユヨ")


def _sounds(counter: str, ends: str) -> dict[str, str]:
    """`ends`: pairs such as 四ヨジ, of the last numeral before `counter` and how both are said."""
    return {f"{said[0]}{counter}": said[1:] for said in ends.split()}


_COUNTED = {  # where the dictionary does not know how a number changes what it counts, or is changed by it
    **_sounds("時", "四ヨジ 七シチジ 九クジ"),
    **_sounds("月", "四シガツ 七シチガツ 九クガツ"),
    **_sounds("年", "四ヨネン"),
    **_sounds("円", "四ヨエン"),
    **_sounds("人", "四ヨニン"),
    **_sounds("本", "一イッポン 三サンボン 六ロッポン 八ハッポン 十ジュッポン"),
    **_sounds("匹", "一イッピキ 三サンビキ 六ロッピキ 八ハッピキ 十ジュッピキ"),
    **_sounds("杯", "一イッパイ 三サンバイ 六ロッパイ 八ハッパイ 十ジュッパイ"),
    **_sounds("回", "一イッカイ 六ロッカイ 八ハッカイ 十ジュッカイ"),
    **_sounds("階", "一イッカイ 三サンガイ 六ロッカイ 八ハッカイ 十ジュッカイ"),
    **_sounds("個", "一イッコ 六ロッコ 八ハッコ 十ジュッコ"),
    **_sounds("歳", "一イッサイ 八ハッサイ 十ジュッサイ"),
    **_sounds("冊", "一イッサツ 八ハッサツ 十ジュッサツ"),
    **_sounds("週間", "一イッシュウカン 八ハッシュウカン 十ジュッシュウカン"),
    **{
        key: said
        for moon in ("か月", "カ月", "ヶ月", "ケ月")
        for key, said in _sounds(moon, "一イッカゲツ 六ロッカゲツ 八ハッカゲツ 十ジュッカゲツ").items()
    },
}
_MINUTES_SAID = _sounds("分", "一イップン 三サンプン 四ヨンプン 六ロップン 八ハップン 十ジュップン")
_DAYS_SAID = {
    **{"二": "フツカ", "三": "ミッカ", "四": "ヨッカ", "五": "イツカ", "六": "ムイカ", "七": "なのか"},
    **{"八": "ヨーカ", "九": "ココノカ", "十": "トーカ"},
    **{"十四": "ジューヨッカ", "十七": "ジューシチニチ", "十九": "ジュークニチ"},
    **{"二十四": "ニジューヨッカ", "二十七": "ニジューシチニチ", "二十九": "ニジュークニチ"},
}
_DAY = re.compile(f"(?<![{_NUMERALS}])({'|'.join(sorted(_DAYS_SAID, key=len, reverse=True))})日(?!本)")
_FIRST = re.compile("(?<=月)一日")
_COUNTER = re.compile(rf"(?:{'|'.join(sorted(_COUNTED, key=len, reverse=True))})(?![木り人])")  # 六本木


class Japanese:
    """Phonemes of Japanese text in Kokoro's signs. The words (0.3 s, 35 MB) are read at the first text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, text: str) -> str:
        words = _STRAY_SMALL.sub(lambda match: match[0].translate(_LARGE), spoken(text))
        with self._lock:
            return str(self._cutlet(words)[0])

    @cached_property
    def _cutlet(self) -> Any:
        from misaki.cutlet import Cutlet  # noqa: PLC0415 - it opens a dictionary that few tasks need

        return Cutlet()


def with_units(text: str) -> str:
    """`text` with the units after its numbers in words: done before Latin words are told apart."""
    return _UNIT.sub(lambda match: _UNITS[match[1]], text)


def spoken(text: str) -> str:
    """All numbers, amounts, dates and times in characters that are read as they are said."""
    steps: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
        (_AMOUNT, lambda match: match[2] + _CURRENCIES[match[1]]),
        (_THOUSANDS, ""),
        (_DATE, lambda match: f"{match[1]}年{int(match[2])}月{int(match[3])}日"),
        (_CLOCK, _clock),
        (_PHONE, lambda match: " ノ ".join(map(_digits, match[0].split("-")))),
        (_RANGE, "から"),
        (_MINUS, "マイナス"),
        (_FRACTION, lambda match: f"{_number(match[1])}ブンノ {_number(match[2])}"),
        (_MINUTES, _minutes),
        (_NUMBER, lambda match: _number(match[0])),
        (_FIRST, " ツイタチ"),
        (_DAY, lambda match: f" {_DAYS_SAID[match[1]]}"),
        (_COUNTER, lambda match: f" {_COUNTED[match[0]]}"),
    )
    for pattern, said in steps:
        text = pattern.sub(said, text)
    return text


def _clock(match: re.Match[str]) -> str:
    hour, minute, second = (int(part or 0) for part in match.groups())
    return f"{hour}時" + (f"{minute}分" if minute or second else "") + (f"{second}秒" if second else "")


def _minutes(match: re.Match[str]) -> str:
    said = _number(match[1])
    return f"{said[:-1]} {_MINUTES_SAID.get(f'{said[-1]}分', f'{said[-1]}フン')}"


def _number(written: str) -> str:
    """Numerals of a number with any number of points; digit by digit where it is no amount."""
    whole, *rest = written.split(".")
    if len(rest) > 1:
        return " テン ".join(_whole(part) for part in (whole, *rest))
    if rest:
        return ("レー" if int(whole) == 0 else _whole(whole)) + f" テン {_digits(rest[0])} "
    return _whole(whole)


def _whole(written: str) -> str:
    if len(written) > _MAX_DIGITS or (written[0] == "0" and len(written) > 1):
        return _digits(written)
    groups = []
    for place, myriad in enumerate(_MYRIADS):
        end = len(written) - 4 * place
        group = _group(written[max(0, end - 4) : max(0, end)], is_leading=place == 0)
        groups.append(group + myriad if group else "")
    return "".join(reversed(groups)) or _digits(written)


def _group(written: str, *, is_leading: bool) -> str:
    """Numerals of up to four digits. One thousand is 千, but 一千 before a myriad."""
    said = ""
    for digit, place in zip(written.rjust(4, "0"), _PLACES, strict=True):
        is_silent = digit == "1" and place and (is_leading or place != "千")
        if digit != "0":
            said += ("" if is_silent else _NUMERALS[int(digit) - 1]) + place
    return said


def _digits(written: str) -> str:
    return " ".join(_SAID_DIGITS[int(digit)] for digit in written)
