from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine import Cancelled
from models.subtitle_rules import apply_rules

PIECES = [
    *(
        "um",
        "uh,",
        "the",
        "the,",
        "the the",
        "i",
        "I",
        "i'm",
        "i.e.",
        "Mr.",
        "ok",
        "iPhone",
        "e",
        "erm",
        "had had",
    ),
    *(
        "呃，",
        "嗯，",
        "这个",
        "这个这个",
        "天气",
        "Python",
        "１２",
        "10",
        "%",
        ",000",
        "www.a.com",
        "a@b.org",
    ),
    *(
        ".",
        "...",
        "。。",
        ",",
        "，",
        "!!",
        "？",
        "-",
        "“",
        "”",
        "<i>",
        "</i>",
        "{\\an8}",
        "[SPEAKER_00]",
        "\n",
        "\ue000",
    ),
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=9).map(" ".join),
    st.lists(st.sampled_from(PIECES), max_size=9).map("".join),
    st.text(max_size=12),
)


def one(text, language="en"):
    return apply_rules([text], language).texts[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("um, i think the the cat sat .", "I think the cat sat."),
        ("it's nice ,really!!! no", "It's nice, really! No"),
        ("what is that,and who", "What is that, and who"),
        ("wait....... what", "Wait... what"),
        ("i said i.e. the best. mr. smith left", "I said i.e. the best. Mr. smith left"),
        ("i'm sure i'd go; so will i.", "I'm sure I'd go; so will I."),
        ("I, um, think. Um.", "I think. Um."),
        ("uh-huh. umbrella", "Uh-huh. Umbrella"),
        ("the, the thing", "The thing"),
        ("I I was there", "I was there"),
        ("10 % of 1 ,000 at 3:30, i think", "10% of 1,000 at 3:30, I think"),
        ("<i>hello</i> there. <b>we</b> go", "<i>Hello</i> there. <b>We</b> go"),
        ("[SPEAKER_00] hello  there", "[SPEAKER_00] Hello there"),
        ("see www.foo.com,now or a@b.org ok", "See www.foo.com,now or a@b.org ok"),
        ("two\n\n  lines ", "Two\nlines"),
    ],
)
def test_english(before, after):
    assert one(before) == after


@pytest.mark.parametrize(
    "text",
    [
        *("He had had it.", "Very very good.", "No no no.", "I know that that is so.", "Bye-bye."),
        *(
            "Um.",
            "Uh-huh.",
            "iPhone sales rose.",
            "U.S. troops, e.g. those.",
            "3,5 or 3.5?",
            "AT&amp;T is big.",
        ),
        *("{\\an8}Up here.", "Well... maybe.", '"Why?" he said.', "Give it to to-day's man."),
    ],
)
def test_what_english_speakers_mean_is_left_alone(text):
    assert one(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("呃，我觉得,嗯,这个这个用Python写 2024年", "我觉得，这个用 Python 写 2024年"),
        ("你好,世界.对吧?", "你好，世界。对吧？"),
        ("买了5G手机和１２ＧＢ内存", "买了 5G 手机和 12GB 内存"),
        ("他说:“好,”是3:2,对", "他说：“好，”是3:2，对"),
        ("完了。。。", "完了……"),
    ],
)
def test_chinese(before, after):
    assert one(before, "zh") == after


@pytest.mark.parametrize("text", ["嗯。", "嗯，好的", "看看谢谢妈妈", "目的的确", "今年2024年", "圆周率3.14"])
def test_what_chinese_speakers_mean_is_left_alone(text):
    assert one(text, "zh") == text


@pytest.mark.parametrize(
    ("text", "language", "after"),
    [
        ("um vier Uhr. er kommt", "de", "Um vier Uhr. Er kommt"),
        ("istanbul. izmir", "tr", "istanbul. izmir"),
        ("これはPenです,ね", "ja", "これはPenです,ね"),
        ("hello，world。", "en", "Hello, world."),
    ],
)
def test_rules_of_one_language_do_not_touch_another(text, language, after):
    assert one(text, language) == after


def test_without_a_language_english_is_told_by_its_words():
    texts = ["um this is what you have to do", "and i was not there"]
    assert apply_rules(texts).texts == ("This is what you have to do", "and I was not there")
    assert apply_rules(["um vier Uhr kommt er nach Hause"]).texts == ("Um vier Uhr kommt er nach Hause",)


def test_a_sentence_that_goes_on_in_the_next_cue_gets_no_capital():
    texts = ["this is the start", "of a sentence.", "and another"]
    assert apply_rules(texts, "en").texts == ("This is the start", "of a sentence.", "And another")


def test_counts_say_how_many_texts_a_rule_changed():
    ruled = apply_rules(["the the cat", "um, a dog", "fine."], "en")
    assert ruled.counts == {"casing": 1, "fillers": 1, "repetitions": 1}


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, max_size=4), st.sampled_from(["en", "zh", "de", "tr", ""]))
def test_rules_applied_twice_are_rules_applied_once(texts, language):
    once = apply_rules(texts, language).texts
    assert len(once) == len(texts)
    assert apply_rules(once, language).texts == once


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.sampled_from(["en", "zh", ""]))
def test_a_text_with_words_is_never_emptied_and_markup_stays(text, language):
    ruled = one(text, language)
    assert any(map(str.isalnum, ruled)) == any(map(str.isalnum, text))
    for kept in ("<i>", "{\\an8}", "[SPEAKER_00]", "www.a.com", "\ue000"):
        assert ruled.count(kept) == text.count(kept)


def test_a_cancel_stops_the_rules():
    def cancelled():
        raise Cancelled

    with pytest.raises(Cancelled):
        apply_rules(["a"], check=cancelled)
