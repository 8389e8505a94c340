"""Japanese numbers in words, and that whatever is written has phonemes of the model."""

from __future__ import annotations

import random

import pytest

from models import spoken_forms
from models.japanese import Japanese, spoken, with_units
from models.networks.kokoro import TOKENS

KANA = [*map(chr, range(0x3041, 0x3097)), *map(chr, range(0x30A1, 0x30FF)), *map(chr, range(0xFF66, 0xFFA0))]
SIGNS = [
    *"漢字一十百千日月時分本々〆〇、。！？「」・…〜（）0123456789.,:-/¥%m ",
    "\u0661",
    "\u1369",
    "\u2780",
    "𠮷",
]


@pytest.fixture(scope="module")
def japanese() -> Japanese:
    return Japanese()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("2024-03-15", "二千二十 ヨネン三月十五日"),
        ("4月1日", " シガツ ツイタチ"),
        ("10月14日", "十月 ジューヨッカ"),
        ("19:05に", "十 クジ 五フンに"),
        ("10:00", "十時"),
        ("30分と十分", "三 ジュップンと十分"),
        ("￥1,234,567", "百二十三万四千五百六十七円"),
        ("$3.5", "三 テン ゴ ドル"),
        ("0.25%", "レー テン ニ ゴ パーセント"),
        ("-5℃", "マイナス五度"),
        ("5 km走る", "五キロメートル走る"),
        ("10000000", "一千万"),
        ("10010001", "一千一万一"),
        ("9999999999999999", "九千九百九十九兆九千九百九十九億九千九百九十九万九千九百九十九"),
        (
            "12345678901234567",
            "イチ ニ サン ヨン ゴ ロク ナナ ハチ キュー ゼロ イチ ニ サン ヨン ゴ ロク ナナ",
        ),
        ("0", "ゼロ"),
        ("007", "ゼロ ゼロ ナナ"),
        ("090-1234-5678", "ゼロ キュー ゼロ ノ イチ ニ サン ヨン ノ ゴ ロク ナナ ハチ"),
        ("1.2.3", "一 テン 二 テン 三"),
        ("3分の1", "三ブンノ 一"),
        ("10〜20人", "十から二十人"),
        ("3本と六本木", " サンボンと六本木"),
    ],
)
def test_numbers_dates_and_amounts(written: str, said: str) -> None:
    assert spoken(with_units(spoken_forms.plain(written))).rstrip() == said


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("「こんにちは」と、彼は言った。", "“koɲɲiʨiβa” to, kaɾe βa iʔta."),
        ("4時に300円", "joʥi ɲi sambʲakɯ eɴ"),
        ("2人で20日", "ɸɯtaɾʲi de haʦɨka"),
        ("ﾊﾟｰﾃｨｰ", "paːtʲiː"),
        ("あーぁ", "aːa"),
    ],
)
def test_phonemes(japanese: Japanese, text: str, phonemes: str) -> None:
    assert japanese(spoken_forms.plain(text)) == phonemes


def test_whatever_is_written_is_read_in_signs_of_the_model(japanese: Japanese) -> None:
    chance = random.Random(4)
    for _ in range(2000):
        text = with_units(spoken_forms.plain("".join(chance.choices(KANA + SIGNS, k=chance.randint(1, 12)))))
        assert "number length" not in japanese(text).lower()


def test_plain_japanese_loses_no_sign(japanese: Japanese) -> None:
    kana = "".join(chr(number) for number in range(0x3041, 0x3097))
    assert set(japanese(kana)) <= TOKENS.keys()
