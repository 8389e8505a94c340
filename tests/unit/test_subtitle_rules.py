from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import subtitle_rules
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
        *("Ａ", "Um,", "a@", "x=", "i", "do", "\\h", "://"),
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
        ("the the thing, the end", "The thing, the end"),
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


@pytest.mark.parametrize(
    "text",
    [
        *("Mr. Um said so", "Mr. um said so", "Ask UMM Studio", "The UM campus", "Vitamin a, a day"),
        *(
            "Ping 2001:db8::1 now",
            "Use std::vector here",
            "Ratio 1::2",
            "Part i, section ii",
            "Look at part i.",
        ),
        *(
            "For i in range(10): i += 1",
            "Where i is the index",
            "10 % 3 == 1",
            "What is 10 % 3?",
            "x = a,b;c!=d",
        ),
        *("Type !!important", "if (a || b)?? then", "The The", "See ftp://a.b/c,d"),
        *("Go to example.co.uk/foo,bar now", "Henry i. was king", "A price\u00a0: ten"),
    ],
)
def test_what_only_looks_like_a_slip_is_left_alone(text):
    assert one(text) == text


def test_french_keeps_its_spaces_and_so_does_a_text_of_unknown_language():
    assert one("Bonjour ! Ça va\u00a0? Oui ; non : 10 %", "fr") == "Bonjour ! Ça va\u00a0? Oui ; non : 10 %"
    assert one("Bonjour ! Ça va ?", "") == "Bonjour ! Ça va ?"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("hello. Um, there", "Hello. There"),
        ("i was there and so was i", "I was there and so was I"),
        ("what can i do", "What can I do"),
        ("it costs 10 % now!!", "It costs 10% now!"),
    ],
)
def test_slips_are_still_told_from_what_looks_like_them(before, after):
    assert one(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{\\k20}um{\\k30}brel{\\k10}la", "{\\k20}um{\\k30}brel{\\k10}la"),
        ("<i>um</i>brella stand", "<i>um</i>brella stand"),
        ("<b>uh</b>uru", "<b>uh</b>uru"),
        (
            "Wait<00:00:01.000><c>um</c><00:00:01.200><c>pire</c>",
            "Wait<00:00:01.000><c>um</c><00:00:01.200><c>pire</c>",
        ),
        ("{\\an8}um, hello", "{\\an8}Hello"),
        ("\\hhello there", "\\hHello there"),
        ("\\hum, hello", "\\hHello"),
    ],
)
def test_markup_is_no_border_of_words_and_escapes_are_no_letters(before, after):
    assert one(before) == after


ADVERSARIES = [
    *(
        "你好啊。",
        "a@",
        "a",
        "aé",
        "a.",
        "a.com",
        "?!",
        ".",
        "<",
        "<a",
        "a<b>",
        "a<",
        "{",
        "[",
        "&a",
        "&",
        "www.a",
    ),
    *(
        "http:",
        "a+",
        "a://",
        " ",
        "a ",
        "\n",
        "speaker ",
        "speaker\n",
        ", ",
        ",,",
        "um",
        "um ",
        "Um, ",
        "u",
        "uh",
    ),
    *(
        "the ",
        "the, ",
        "呃",
        "，嗯，",
        "这个",
        "1 ",
        "1 ,",
        "10 %",
        "10 % ",
        "好1",
        "好 ",
        "a1",
        "i ",
        "i",
        "do i ",
    ),
    *("a-", "-", "'", "“", "\ue000", "\\h", "(", "a(", "我a", "…", "。", "a/", "a_", "A. ", "。\n", "\u00a0"),
]


@pytest.mark.parametrize("piece", ADVERSARIES, ids=ascii)
def test_no_pattern_takes_longer_than_in_proportion(monkeypatch, piece):
    """Would not end where a pattern tries each start of a text against each end of it."""
    monkeypatch.setattr(subtitle_rules, "_MAX_CHARS", 10**9)
    text = piece * (20_000 // len(piece))
    apply_rules([text], "en" if piece.isascii() else "zh")


def test_a_text_too_long_for_a_subtitle_is_left_and_told():
    texts = ("um, " * 1300, "um, yes")
    ruled = apply_rules(texts, "en")
    assert ruled.texts == (texts[0], "yes")
    assert ruled.counts["too_long_for_rules"] == 1


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
