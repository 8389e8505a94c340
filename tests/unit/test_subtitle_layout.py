from __future__ import annotations

import unicodedata
from itertools import pairwise

import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine import Cancelled
from models.segments_file import Segment, Word
from models.subtitle_layout import lay_out
from models.subtitle_lines import joined
from tests.subtitle_parsers import parse_ass, parse_srt, parse_vtt

from models.subtitle_files import ass, srt, vtt  # isort: skip

LATIN_TEXT = (
    "I said that the quick fox jumps over a lazy dog, and then. What? No! Well, because it's 20 -year"
)
LATIN = LATIN_TEXT.split(" ")
HAN = ["今天", "天气", "很好", "，", "我们", "去", "公园", "。", "吗", "？", "《", "书", "》", "人工智能"]
OTHER = [
    "안녕하세요",
    "こんにちは",
    "ー",
    "مرحبا",
    "x" * 60,
    "C:\\new\\N",
    "{b}",
    "<i>",
    "&amp;",
    "-->",
    "🙂",
    "é",
    "1,000",
]


def never() -> None:
    """Nobody cancels."""


def columns(text: str) -> int:
    """Full-width characters count twice, combining ones not."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    none = sum(unicodedata.category(char) in ("Mn", "Me", "Cf") for char in text)
    return len(text) + wide - none


def words_of(texts, *, start_s=0.0, each_s=0.3, gap_s=0.0, speaker=None, is_spaced=True):
    texts = texts.split(" ") if isinstance(texts, str) else texts
    return tuple(
        Word(
            text,
            start_s + at * (each_s + gap_s),
            start_s + at * (each_s + gap_s) + each_s,
            is_spaced,
            None,
            speaker,
        )
        for at, text in enumerate(texts)
    )


def segment(words):
    return Segment(1, words[0].start_s, words[-1].end_s, tuple(words))


def laid(*groups):
    return lay_out([segment(group) for group in groups], never).cues


@st.composite
def spoken(draw, *, can_overlap=False):
    """Segments of words as recognisers give them; with `can_overlap` people speak at once."""
    segments, now_s = [], draw(st.floats(0, 5))
    for number in range(draw(st.integers(1, 4))):
        pool = draw(st.sampled_from([LATIN, HAN, LATIN + HAN + OTHER]))
        texts = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=40))
        speaker = draw(st.sampled_from([None, "A", "B"]))
        words, at_s = [], now_s
        for text in texts:
            length_s = draw(st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.8, 9.0]))
            words.append(Word(text, at_s, at_s + length_s, draw(st.booleans()), 0.5, speaker))
            at_s += length_s + draw(st.sampled_from([0.0, 0.0, 0.02, 0.3, 2.0]))
        segments.append(Segment(number + 1, now_s, words[-1].end_s, tuple(words)))
        now_s = draw(st.floats(now_s, at_s)) if can_overlap else at_s
    return segments


def can_break(line):
    """Whether the line might have been broken somewhere: at a space, or beside Chinese or Japanese."""
    closing, opening = "，。？》ー", "《"
    pairs = pairwise(line)
    return " " in line or any(
        (is_wide(a) or is_wide(b)) and b not in closing and a not in opening and not is_hangul(a + b)
        for a, b in pairs
    )


def is_wide(text):
    return any(unicodedata.east_asian_width(char) in "WF" for char in text)


def is_hangul(text):
    return any("HANGUL" in unicodedata.name(char, "") for char in text)


def rules_broken(cues):
    """What a broadcaster's check would say, but of words that are wider than a line."""
    for cue in cues:
        if len(cue.lines) > 2:
            yield f"{cue} has {len(cue.lines)} lines"
        for line in cue.lines:
            if columns(line) > (40 if is_wide(cue.text) else 42) and can_break(line):
                yield f"{line!r} has {columns(line)} columns"
        if not 0.295 <= cue.end_s - cue.start_s <= 7.005:
            yield f"{cue} shows for {cue.end_s - cue.start_s} s"
    for before, after in pairwise(cues):
        if after.start_s - before.end_s < 0.0795:
            yield f"{before} and {after} are too near"


@settings(max_examples=60, deadline=None)
@given(spoken())
def test_no_word_is_lost_or_moved_and_the_rules_hold(segments):
    cues = lay_out(segments, never).cues
    assert [word for cue in cues for word in cue.words] == [word for part in segments for word in part.words]
    assert list(rules_broken(cues)) == []
    for cue in cues:
        assert "".join("".join(cue.lines).split()) == "".join(joined(cue.words).split())
        assert len({word.speaker for word in cue.words}) == 1


@settings(max_examples=40, deadline=None)
@given(spoken(can_overlap=True))
def test_people_who_speak_at_once_are_shown_one_after_another_whole(segments):
    cues = lay_out(segments, never).cues
    shown = [id(word) for cue in cues for word in cue.words]
    assert sorted(shown) == sorted(id(word) for part in segments for word in part.words)
    for part in segments:
        places = [shown.index(id(word)) for word in part.words]
        assert places == sorted(places)
    assert list(rules_broken(cues)) == []


@settings(max_examples=40, deadline=None)
@given(spoken())
def test_every_format_holds_the_same_cues(segments):
    cues = lay_out(segments, never).cues
    for shown, text in (
        (parse_srt(srt(cues)), lambda line: line.replace("-->", "→").replace("<i>", "＜i>")),
        (parse_vtt(vtt(cues)), lambda line: line),
        (
            parse_ass(ass(cues)),
            lambda line: line.replace("{", "｛").replace("}", "｝").replace("\\", "\\\u2060"),
        ),
    ):
        assert [(round(cue.start_s * 1000), round(cue.end_s * 1000)) for cue in cues] == [
            (entry.start_ms, entry.end_ms) for entry in shown
        ]
        assert [tuple(map(text, cue.lines)) for cue in cues] == [entry.lines for entry in shown]


def test_a_cue_is_cut_at_ends_of_sentences_and_where_the_speaker_changes():
    first = words_of("This is the first sentence. And this is the second one.", speaker="A")
    second = words_of("I say something else.", start_s=first[-1].end_s, speaker="B")
    cues = laid(first, second)
    assert [(cue.speaker, cue.text) for cue in cues] == [
        ("A", "This is the first sentence."),
        ("A", "And this is the second one."),
        ("B", "I say something else."),
    ]


def test_a_pause_parts_cues_and_lets_them_linger_for_reading():
    cues = laid(words_of("Yes,"), words_of("of course.", start_s=3))
    assert [cue.text for cue in cues] == ["Yes,", "of course."]
    assert [(cue.start_s, cue.end_s) for cue in cues] == [(0, 0.84), (3, 3.84)]


def test_two_lines_are_balanced_and_broken_where_it_reads_well():
    (cue,) = laid(words_of("I never wanted to leave the house because it was raining so hard", each_s=0.3))
    assert cue.lines == ("I never wanted to leave the house", "because it was raining so hard")


def test_chinese_breaks_without_spaces_and_after_a_comma():
    text = "我们今天早上去公园散步的时候看见很多花，然后一起吃了午饭再回家休息"
    (cue,) = laid(words_of(list(text), each_s=0.15, is_spaced=False))
    assert cue.lines == (text[:20], text[20:])


@pytest.mark.parametrize(
    ("texts", "num_lines"),
    [
        (["four"] * 8 + ["at"], 1),
        (["four"] * 8 + ["end"], 2),
        (["一"] * 20, 1),
        (["一"] * 21, 2),
        (["一"] * 19 + ["ab"], 1),
        (["一"] * 19 + ["abc"], 2),
    ],
    ids=["42 latin", "43 latin", "20 wide", "21 wide", "19 wide and 2 latin", "19 wide and 3 latin"],
)
def test_a_line_has_42_columns_or_20_wide_characters(texts, num_lines):
    (cue,) = laid(words_of(texts, each_s=0.1, is_spaced=texts[0] == "four"))
    assert len(cue.lines) == num_lines


def test_slow_speech_is_cut_before_seven_seconds_rather_than_shown_too_short():
    layout = lay_out(
        [segment(words_of("one two three four five six seven eight nine ten", each_s=1.0))], never
    )
    assert all(cue.end_s - cue.start_s <= 7 for cue in layout.cues)
    assert (len(layout.cues), layout.num_moved) == (2, 0)


def test_parts_of_a_word_are_not_torn_apart():
    words = (*words_of("A 20"), *words_of("-year -old", start_s=0.6, is_spaced=False))
    (cue,) = laid((*words, *words_of("man", start_s=1.2)))
    assert cue.text == "A 20-year-old man"


def test_starts_are_those_of_the_words_and_ends_are_never_cut_by_more_than_the_gap():
    first = words_of("Nobody waits here at all today.", each_s=0.25)
    second = words_of("And nobody ever answers me.", start_s=first[-1].end_s, each_s=0.3)
    before, after = laid(first, second)
    assert (before.start_s, after.start_s) == (first[0].start_s, second[0].start_s)
    assert before.end_s == pytest.approx(first[-1].end_s - 0.08)


def test_what_is_too_fast_to_read_is_counted_and_kept():
    words = words_of("Extraordinarily uncharacteristic misunderstandings", each_s=0.3)
    layout = lay_out([segment(words), segment(words_of("Stop.", start_s=0.9, speaker="B"))], never)
    assert (layout.num_fast, layout.num_short, layout.num_moved) == (1, 0, 0)
    assert layout.cues[0].words == words


def test_a_flash_between_two_others_is_counted_as_short():
    layout = lay_out(
        [
            segment(words_of("Well, no.", speaker="A")),
            segment(words_of("So?", start_s=0.62, each_s=0.1, speaker="B")),
            segment(words_of("I do not know.", start_s=0.8, speaker="A")),
        ],
        never,
    )
    assert layout.num_short == 2
    assert [cue.text for cue in layout.cues] == ["Well, no.", "So?", "I do not know."]


def test_people_who_speak_at_once_have_time_each_and_are_counted_as_moved():
    first = words_of("I keep on talking and talking here", speaker="A")
    second = words_of("So do I", start_s=0.1, speaker="B")
    layout = lay_out([segment(first), segment(second)], never)
    assert [(cue.speaker, cue.start_s, cue.end_s) for cue in layout.cues] == [
        ("A", 0, 0.84),
        ("B", 0.92, 1.76),
    ]
    assert layout.num_moved == 2


def test_no_words_are_no_cues():
    assert lay_out([], never).cues == ()
    assert lay_out([Segment(1, 0, 5, ())], never).cues == ()


def test_a_cancel_stops_the_layout():
    def cancelled():
        raise Cancelled

    with pytest.raises(Cancelled):
        lay_out([segment(words_of(LATIN))], cancelled)


@pytest.mark.parametrize("hour", [0, 9, 10, 98])
def test_every_format_has_the_right_times_at_any_hour(hour):
    start_s = hour * 3600 + 59 * 60 + 58.37
    cues = laid(words_of("Hello there, you.", start_s=start_s), words_of("And again.", start_s=start_s + 3))
    wanted = [(round(cue.start_s * 1000), round(cue.end_s * 1000)) for cue in cues]
    for read, write in ((parse_srt, srt), (parse_vtt, vtt), (parse_ass, ass)):
        assert [(shown.start_ms, shown.end_ms) for shown in read(write(cues))] == wanted
    read_back = pysubs2.SSAFile.from_string(ass(cues), format_="ass")
    assert [(event.start, event.end) for event in read_back] == wanted
