"""Where a text is cut before it is spoken, and which scripts are in it."""

from __future__ import annotations

import time

import pytest

from models.text_segments import (
    PARAGRAPH_PAUSE_S,
    PHRASE_PAUSE_S,
    SENTENCE_PAUSE_S,
    Reading,
    Run,
    Script,
    is_speakable,
    num_tokens,
    other_letters,
    reading_of,
    runs,
    scripts_of,
    segments,
)

TEXTS = {
    "english": 'Dr. Smith paid $1,234.50. He left! "Why?" she asked... I don\'t know. It is 3.5 m.',
    "chinese": "今天天气很好。我们去公园散步吧！他说：“好的。”然后走了。",
    "no blanks": "a" * 400,
    "no marks": "word " * 300,
    "clauses": "第一，" * 200,
    "japanese": "今日は、いい天気ですね。「はい。」と彼女は言った！" * 3,
    "lines": "line one\n\nline two。三",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_nothing_is_lost_and_no_segment_is_too_long(text: str) -> None:
    found = segments(text, 20)
    assert "".join("".join(segment.text.split()) for segment in found) == "".join(text.split())
    assert all(num_tokens(segment.text) <= 20 for segment in found)
    assert [text[: segment.end].rstrip().endswith(segment.text.rstrip()) for segment in found].count(
        False
    ) == 0


def test_sentences_stay_whole_and_together_where_they_fit() -> None:
    text = "One sentence here. Another one there! " * 3
    assert [segment.text.strip() for segment in segments(text, 12)] == [
        "One sentence here. Another one there!",
        "One sentence here. Another one there!",
        "One sentence here. Another one there!",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "He met Dr. Li and Mr. Wu.",
        "It is 3.5 m long.",
        "See U.S. law.",
        "版本是1.5的软件。",
        "Go to example.com now.",
    ],
)
def test_a_point_inside_a_sentence_is_no_end(text: str) -> None:
    assert [segment.text for segment in segments(text, 20)] == [text]


def test_pauses_tell_lines_from_sentences_from_phrases() -> None:
    text = "甲乙丙丁戊己庚辛壬癸，甲乙丙丁戊己庚辛壬癸。甲乙丙丁戊己庚辛壬癸甲乙丙。\n甲乙丙。"
    pauses = [segment.pause_s for segment in segments(text, 20)]
    assert pauses == [PHRASE_PAUSE_S, SENTENCE_PAUSE_S, PARAGRAPH_PAUSE_S, PARAGRAPH_PAUSE_S]


@pytest.mark.parametrize("text", ["", "  \n ", "。！？", "...", "😀 — “”"])
def test_what_cannot_be_spoken_has_no_segments(text: str) -> None:
    assert not is_speakable(text)
    assert segments(text, 120) == []


def test_ten_thousand_characters_of_any_kind_are_cut() -> None:
    for text in ("。" * 9_999 + "甲", "a.b,c " * 1666, "a" * 10_000, " " * 9_999 + "a", "好，" * 5000):
        assert "".join(segment.text for segment in segments(text, 20)).strip()


@pytest.mark.parametrize("unit", ["A. ", '!"', "!", ".", "。”", "?!"])
def test_the_time_to_cut_grows_with_the_length_alone(unit: str) -> None:
    """Of the time a text takes, that of one eight times as long is about eight times; quadratic is 64."""

    def cpu_s(text: str) -> float:
        begin_s = time.process_time()
        segments(text, 60)
        return time.process_time() - begin_s

    short, long = ((unit * count)[:count] + "a" for count in (1250, 10_000))
    assert min(cpu_s(long) for _ in range(3)) < 24 * min(cpu_s(short) for _ in range(3))


def test_scripts_are_counted() -> None:
    assert scripts_of("Hello 世界, こ Привет 12") == {
        Script.LATIN: 1,
        Script.HAN: 2,
        Script.KANA: 1,
        Script.OTHER: 6,
    }
    assert other_letters("abc Привет") == "Приве"
    assert scripts_of("Ｈｉ café 1, 2") == {Script.LATIN: 1}


def test_runs_give_digits_to_the_main_script() -> None:
    assert runs("我用Python 3写，GPT-4很好。", Reading(Script.HAN, Script.HAN)) == [
        Run("我用", Script.HAN),
        Run("Python", Script.LATIN),
        Run(" 3写，", Script.HAN),
        Run("GPT-4", Script.LATIN),
        Run("很好。", Script.HAN),
    ]
    assert runs("I love 北京, 3 times.", Reading(Script.LATIN, Script.HAN)) == [
        Run("I love ", Script.LATIN),
        Run("北京,", Script.HAN),
        Run(" 3 times.", Script.LATIN),
    ]


def test_han_among_kana_is_japanese() -> None:
    text = "Python 3を東京で学ぶ。"
    assert runs(text, reading_of(text, "ja")) == [
        Run("Python", Script.LATIN),
        Run(" 3を東京で学ぶ。", Script.KANA),
    ]
    text = "I love 東京. It is とても good."
    assert [run.script for run in runs("I love 東京.", reading_of(text, "en"))] == [Script.LATIN, Script.KANA]
    text = "鲜の味是一家日本料理店"
    assert [run.script for run in runs(text, reading_of(text, "zh"))] == [Script.HAN, Script.KANA, Script.HAN]


@pytest.mark.parametrize("text", ["時々、佐々木さんと", "あゝ、ﾊﾟｰﾃｨｰだ", "〆切は〇日です", "ヷヸヹヺ・ヽヾ"])
def test_all_signs_of_japanese_are_letters_of_it(text: str) -> None:
    assert other_letters(text) == ""
    first, *others = runs(f"See {text}", reading_of(text, "en"))
    assert first == Run("See ", Script.LATIN)
    assert "".join(run.text for run in others if run.script is Script.KANA) == text
