"""Transcripts and speaker turns as files: what is read, what is made good, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import segments_file
from models.engine import Cancelled, InvalidInput
from models.segments_file import Segment, Word, read_transcript, words_over
from models.speaker_turns import Turn, read_turns, with_speakers
from models.subtitle_lines import joined


def transcript(tmp_path, content):
    path = tmp_path / "segments.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_transcript(path, "segments_file")


def turns(tmp_path, content):
    path = tmp_path / "turns.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_turns(path, "diarization_file")


def words(*rows):
    return [{"word": text, "start": start, "end": end} for text, start, end in rows]


def test_words_keep_their_times_and_the_text_tells_their_spaces(tmp_path):
    rows = words((" A", 0, 0.5), (" 20", 0.5, 0.8), ("-year", 0.8, 1), (" man.", 1, 2))
    found = transcript(tmp_path, {"metadata": {"language": "EN"}, "segments": [
        {"start": 0, "end": 2, "text": " A 20-year man.", "words": rows}
    ]})  # fmt: skip
    assert found.language == "en"
    (segment,) = found.segments
    assert [(w.text, w.start_s, w.end_s, w.is_spaced) for w in segment.words] == [
        ("A", 0, 0.5, True), ("20", 0.5, 0.8, True), ("-year", 0.8, 1, False), ("man.", 1, 2, True),
    ]  # fmt: skip
    assert not segment.are_times_estimated


def test_words_of_other_programs_that_leave_out_the_spaces(tmp_path):
    rows = words(("hello", 0, 1), ("world", 1, 2))
    (segment,) = transcript(tmp_path, [{"start": 0, "end": 2, "text": "hello world", "words": rows}]).segments
    assert joined(segment.words) == "hello world"


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [],
        [{"word": " one"}, {"word": " two"}],
        words((" one", 0, 1), (" two", 900, 901)),
        words((" one", 1, 2), (" two", 0, 1)),
        words((" one", 2, 1), (" two", 1, 2)),
    ],
    ids=["absent", "empty", "no times", "outside the segment", "back in time", "ends before it starts"],
)
def test_words_without_usable_times_share_those_of_the_segment(tmp_path, rows):
    (segment,) = transcript(tmp_path, [{"start": 10, "end": 16, "text": "ab abcd", "words": rows and [
        {**row, **{k: row[k] + 10 for k in ("start", "end") if k in row}} for row in rows
    ]}]).segments  # fmt: skip
    assert [(w.text, w.start_s, w.end_s) for w in segment.words][-1][1:] in {(12, 16), (13, 16)}
    assert segment.are_times_estimated


def test_chinese_without_words_is_cut_by_character(tmp_path):
    (segment,) = transcript(tmp_path, [{"start": 0, "end": 5, "text": "今天，好。"}]).segments
    assert [word.text for word in segment.words] == ["今", "天，", "好。"]
    assert joined(segment.words) == "今天，好。"


def test_a_text_that_was_changed_after_recognition_is_laid_over_the_old_times(tmp_path):
    rows = words((" I", 0, 0.1), (" herd", 0.1, 0.5), (" um,", 0.5, 0.9), (" it.", 1, 2))
    (segment,) = transcript(tmp_path, [{"start": 0, "end": 2, "text": "I heard it!", "words": rows}]).segments
    assert [(w.text, w.start_s, w.end_s) for w in segment.words] == [
        ("I", 0, 0.1),
        ("heard", 0.1, 0.9),
        ("it!", 1, 2),
    ]


def test_segments_are_put_in_the_order_of_time(tmp_path):
    found = transcript(tmp_path, [{"start": 5, "end": 6, "text": "b"}, {"start": 1, "end": 2, "text": "a"}])
    assert [(segment.number, segment.words[0].text) for segment in found.segments] == [(2, "a"), (1, "b")]


@pytest.mark.parametrize(
    "char", ["\r", "\n\n", "\x00", "\x0b", "\x1b", "\x85", "\u2028", "\u2029"], ids=ascii
)
@pytest.mark.parametrize("has_text", [True, False])
def test_characters_that_end_lines_or_control_terminals_become_spaces(tmp_path, char, has_text):
    rows = words(("x", 0, 1), (f" a{char}b", 1, 2))
    text = {"text": f"x a{char}b"} if has_text else {}
    (segment,) = transcript(tmp_path, [{"start": 0, "end": 2, "words": rows, **text}]).segments
    assert [(w.text, w.start_s, w.end_s) for w in segment.words] == [
        ("x", 0, 1),
        ("a", 1, 1.5),
        ("b", 1.5, 2),
    ]


def test_a_text_over_no_words_shares_the_times_of_its_segment():
    assert [(w.text, w.start_s, w.end_s) for w in words_over("a b", (), 1, 3)] == [("a", 1, 2), ("b", 2, 3)]


def test_a_long_segment_whose_text_was_changed_is_laid_without_trying_everything(tmp_path):
    """Texts of two words, none where it was: an exact comparison grows with the third power."""
    old = words(*((" " + "ab"[at % 2], at * 0.1, at * 0.1 + 0.1) for at in range(20_000)))
    text = " ".join("ab"[(at * at // 3) % 2] for at in range(19_999))
    (segment,) = transcript(tmp_path, [{"start": 0, "end": 2000, "text": text, "words": old}]).segments
    assert joined(segment.words) == text


def test_a_cancel_stops_the_reading(tmp_path):
    calls = []

    def cancelled():
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled

    path = tmp_path / "segments.json"
    path.write_text(json.dumps([{"start": 0, "end": 1, "text": "a"}] * 9))
    with pytest.raises(Cancelled):
        read_transcript(path, "segments_file", cancelled)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"start": 0, "end": 1, "text": "a " * 25_001}], "entry 1: more than 50,000 characters"),
        ([{"start": 0, "end": 1, "text": "a " * 20}] * 3, "more than 50 words"),
    ],
)
def test_more_words_than_anybody_says_are_refused(tmp_path, monkeypatch, content, text):
    monkeypatch.setattr(segments_file, "MAX_TOKENS", 50)
    with pytest.raises(InvalidInput, match=text):
        transcript(tmp_path, content)


def test_half_characters_become_whole_ones(tmp_path):
    (segment,) = transcript(tmp_path, '[{"start": 0, "end": 1, "text": "a\\ud800b"}]').segments
    joined(segment.words).encode()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "bb", "cc,", "天", "气。", "hello", "x"]), max_size=12),
    st.lists(st.sampled_from(["a", "bb", "天气", "hello!", "new", "x"]), min_size=1, max_size=12),
)
def test_any_text_over_any_words_is_whole_and_in_time(old, new):
    timed = [Word(text, at, at + 1) for at, text in enumerate(old or ["a"])]
    text = " ".join(new)
    laid = words_over(text, timed)
    assert joined(laid) == text
    starts = [word.start_s for word in laid]
    assert starts == sorted(starts)
    assert all(0 <= word.start_s <= word.end_s <= len(timed) for word in laid)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "not valid JSON"),
        ({"results": []}, 'a list "segments"'),
        ([{"start": 0, "end": 1}, {"start": "soon", "end": 1}], "entry 2: start"),
        ([{"start": 0}], "entry 1: end"),
        ([{"start": -1, "end": 2}], "entry 1: start"),
        ([{"start": 2, "end": 1}], "entry 1: ends before it starts"),
        ("[[0, 1]]", "entry 1"),
        ('[{"start": 0, "end": Infinity}]', "entry 1: end"),
        ('[{"start": 0, "end": 1e9}]', "entry 1: end"),
        (
            '[{"start": 0, "end": 1, "words": [{"word": "a", "start": NaN, "end": 1}]}]',
            r"entry 1: words\.0\.start",
        ),
        ([{"start": 0, "end": 1, "text": 5}], "entry 1: text"),
        ([{"start": 0, "end": 1, "words": "a b"}], "entry 1: words"),
        ("1\n00:00:01,000 --> 00:00:02,000\nhello\n", "not valid JSON"),
    ],
)
def test_a_malformed_segments_file_names_the_entry(tmp_path, content, text):
    with pytest.raises(InvalidInput, match=text) as caught:
        transcript(tmp_path, content)
    assert caught.value.field == "segments_file"


def test_turns_without_overlap_are_preferred(tmp_path):
    content = {
        "segments": [{"start": 0, "end": 9, "speaker": "A"}],
        "exclusive": [{"start": 1, "end": 2, "speaker": "B"}],
    }
    assert turns(tmp_path, content) == (Turn(1, 2, "B"),)
    assert turns(tmp_path, {**content, "exclusive": []}) == (Turn(0, 9, "A"),)
    assert turns(tmp_path, [{"start": 3, "end": 4, "speaker": " A,\n{x} "}]) == (Turn(3, 4, "A x"),)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"start": 0, "end": 1}], "entry 1: speaker"),
        ([{"start": 2, "end": 1, "speaker": "A"}], "entry 1: ends before it starts"),
        ([{"start": 0, "end": 1, "speaker": ""}], "entry 1: speaker"),
        ({"turns": []}, 'a list "segments"'),
    ],
)
def test_a_malformed_diarization_file_names_the_entry(tmp_path, content, text):
    with pytest.raises(InvalidInput, match=text) as caught:
        turns(tmp_path, content)
    assert caught.value.field == "diarization_file"


def spoken_by(texts_and_times, *given):
    rows = tuple(Word(text, start, end) for text, start, end in texts_and_times)
    (segment,) = with_speakers([Segment(1, rows[0].start_s, rows[-1].end_s, rows)], given)
    return segment.words


def test_a_word_is_whose_turn_it_overlaps_most_and_else_the_nearest_in_reach():
    said = [("most.", 0.8, 2.0), ("near.", 3.2, 3.4), ("far.", 5, 6)]
    assert [w.speaker for w in spoken_by(said, Turn(0, 1, "A"), Turn(1, 3, "B"))] == ["B", "B", None]


def test_the_first_word_of_a_sentence_goes_with_the_rest_where_turns_touch():
    said = [("And", 0, 0.3), ("I", 0.3, 0.5), ("am", 0.5, 0.8), ("Sheila.", 0.8, 1.5)]
    given = (Turn(-1, 0.25, "A"), Turn(0.3, 2, "B"))
    assert {w.speaker for w in spoken_by(said, *given)} == {"B"}


def test_a_short_answer_within_a_pause_stays_with_its_speaker():
    said = [("Right.", 0, 0.4), ("So", 0.5, 0.7), ("what", 0.7, 1.0), ("now?", 1.0, 1.5)]
    assert [w.speaker for w in spoken_by(said, Turn(0, 0.42, "A"), Turn(0.5, 2, "B"))] == ["A", "B", "B", "B"]


def times(said):
    return [(word.start_s, word.end_s) for word in said]


def test_the_words_at_the_ends_of_a_turn_reach_to_its_borders():
    said = [("Oh,", 18.08, 18.3), ("hello.", 18.5, 19.0), ("Well.", 20.0, 20.4)]
    found = spoken_by(said, Turn(18.0, 19.4, "A"), Turn(19.85, 20.4, "B"))
    assert times(found) == [(18.0, 18.3), (18.5, 19.4), (19.85, 20.4)]


def test_a_border_that_is_far_or_beyond_another_word_moves_nothing():
    said = [("So", 1.0, 1.2), ("what.", 1.25, 1.5), ("No.", 1.52, 2.0)]
    given = (Turn(0.7, 1.1, "A"), Turn(1.19, 1.7, "A"), Turn(1.71, 2.6, "B"))
    assert times(spoken_by(said, *given)) == [(1.0, 1.2), (1.25, 1.5), (1.52, 2.0)]


def test_the_end_of_a_word_waits_for_no_word_of_the_next_turn():
    said = [("Hello.", 7.46, 7.86), ("Oh,", 8.3, 8.46)]
    found = spoken_by(said, Turn(7.46, 8.308, "A"), Turn(8.308, 9.0, "B"))
    assert times(found)[0] == (7.46, 8.3)


def test_a_word_that_begins_before_anybody_speaks_begins_with_the_turn():
    assert spoken_by([("Hello.", 6.38, 6.94)], Turn(6.69, 7.12, "A"))[0].start_s == 6.69
    assert spoken_by([("Hello.", 6.38, 6.94)], Turn(6.9, 7.12, "A"))[0].start_s == 6.38
    assert spoken_by([("Hello.", 6.38, 6.94)], Turn(6, 6.5, "B"), Turn(6.6, 7, "A"))[0].start_s == 6.38


def test_turns_may_overlap_and_lie_in_any_number_before_a_word():
    given = [Turn(0, 100, "A"), *(Turn(at, at + 0.1, "B") for at in range(90))]
    assert spoken_by([("late", 95, 96)], *sorted(given, key=lambda turn: turn.start_s))[0].speaker == "A"


def test_a_word_never_begins_after_the_next_one_because_of_a_turn():
    said = [("first", 0, 1), ("second", 0.1, 0.2), ("third", 1, 2)]
    assert [w.text for w in sorted(spoken_by(said, Turn(0.35, 2, "A")), key=lambda w: w.start_s)] == [
        "first", "second", "third",
    ]  # fmt: skip


TIMES = st.integers(0, 60).map(lambda tenth: tenth / 10)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(TIMES, TIMES, st.sampled_from(["a", "b.", "c,"])), min_size=1, max_size=12),
    st.lists(st.tuples(TIMES, TIMES, st.sampled_from("AB")), max_size=12),
)
def test_words_stay_in_order_whatever_the_turns_and_belong_to_who_is_near(rows, given_turns):
    said = sorted(((text, start, start + length) for start, length, text in rows), key=lambda row: row[1])
    near = [Turn(start, start + length, who) for start, length, who in sorted(given_turns)]
    spoken = spoken_by(said, *near)
    assert [word.text for word in spoken] == [text for text, _, _ in said]
    starts = [word.start_s for word in spoken]
    assert starts == sorted(starts)
    for word, (_, start, end) in zip(spoken, said, strict=True):
        in_reach = {turn.speaker for turn in near if turn.start_s < end + 0.5 and turn.end_s > start - 0.5}
        assert (word.speaker in in_reach) if in_reach else word.speaker is None


def test_one_long_turn_does_not_make_every_word_look_at_all_turns():
    """20,000 words against 20,000 turns would be 400 million looks."""
    said = [(f"w{at}.", at * 0.5, at * 0.5 + 0.4) for at in range(20_000)]
    turns_of_a = [Turn(start, end, "A") for _, start, end in said]
    assert len(spoken_by(said, Turn(0, 10_000, "M"), *turns_of_a)) == 20_000


def test_a_cancel_stops_the_search_for_speakers():
    def cancelled():
        raise Cancelled

    with pytest.raises(Cancelled):
        with_speakers([Segment(1, 0, 1, (Word("a", 0, 1),))], [], cancelled)
