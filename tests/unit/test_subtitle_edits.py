from __future__ import annotations

import json

import pytest

from models.subtitle_edits import TRIES, BadAnswer, BatchSize, ChatCorrector, accepted, batches, read_answer

MANY = 300_000
TEXTS = ["I herd a beep.", "This is Dyan.", "In New Jersey.", "Neither did eye.", "Oh hello."]


def answer(*edits):
    return json.dumps({"edits": [{"id": number, "text": text} for number, text in edits]})


def corrected(replies, texts=TEXTS, size=None):
    """The texts and the corrector, after `replies` to its questions in turn; and those questions."""
    asked, left = [], list(replies)

    def ask(messages, seed):
        asked.append((messages, seed))
        return left.pop(0)

    corrector = ChatCorrector(ask, size or BatchSize(), "en")
    done = []
    return corrector.corrected(texts, done.append), corrector.tally, asked, done


def test_edits_replace_the_texts_they_name():
    texts, tally, asked, done = corrected([answer((1, "I heard a beep."), (4, "Neither did I."))])
    assert texts == ("I heard a beep.", *TEXTS[1:3], "Neither did I.", TEXTS[4])
    assert (tally.proposed, tally.refused, tally.batches, tally.failed_batches) == (2, 0, 1, 0)
    assert (len(asked), done) == (1, [5])


def test_batches_overlap_in_context_and_see_what_was_corrected_before():
    replies = [answer((1, "I heard a beep.")), answer((4, "Neither did I.")), answer()]
    _, tally, asked, done = corrected(replies, size=BatchSize(2, 1))
    questions = [json.loads(messages[1]["content"]) for messages, _ in asked]
    assert [[cue["id"] for cue in question["cues"]] for question in questions] == [[1, 2], [3, 4], [5]]
    assert [question["before"] for question in questions] == [[], ["This is Dyan."], ["Neither did I."]]
    assert [question["after"] for question in questions] == [["In New Jersey."], ["Oh hello."], []]
    assert (tally.batches, done) == (3, [2, 4, 5])


@pytest.mark.parametrize(
    "nonsense",
    [
        *("", "I will not.", "{}", "[]", '{"edits": [{"id": "1", "text": "x"}]}', '{"edits": [{"id": 1}]}'),
        *(
            answer((9, "x")),
            answer((0, "x")),
            answer((1, "I heard a beep."), (1, "x")),
            '{"edits": [], "a": 1}',
        ),
    ],
    ids=[
        *("nothing", "prose", "no edits", "list", "text id", "no text", "strange id", "id 0", "twice"),
        "more than edits",
    ],
)
def test_nonsense_is_asked_again_with_the_reason_and_the_next_seed_then_given_up(nonsense):
    texts, tally, asked, _ = corrected([nonsense] * TRIES)
    assert texts == tuple(TEXTS)
    assert (tally.failed_batches, tally.repeated_questions) == (1, TRIES - 1)
    assert [seed for _, seed in asked] == list(range(TRIES))
    assert "refused" in asked[-1][0][-1]["content"]
    assert len(asked[-1][0]) == 3


def test_a_good_answer_after_nonsense_counts_and_other_batches_are_not_touched_by_a_bad_one():
    good = answer((1, "I heard a beep."))
    texts, tally, _, _ = corrected(["?", good, *["?"] * TRIES, answer()], size=BatchSize(2, 0))
    assert texts == ("I heard a beep.", *TEXTS[1:])
    assert (tally.batches, tally.failed_batches, tally.repeated_questions) == (3, 1, 1 + TRIES - 1)


def test_texts_that_were_moved_between_cues_are_refused():
    shifted = answer(*((at, TEXTS[at % len(TEXTS)]) for at in range(1, len(TEXTS) + 1)))
    texts, tally, _, _ = corrected([shifted])
    assert texts == tuple(TEXTS)
    assert tally.refused == tally.proposed == len(TEXTS)


def test_similar_texts_that_were_swapped_are_refused_but_becoming_like_a_neighbour_is_not():
    swapped = answer((1, "I was here."), (2, "I am here."))
    assert corrected([swapped], ["I am here.", "I was here."])[0] == ("I am here.", "I was here.")
    assert corrected([answer((1, "Yes."))], ["Yes,,", "Yes."])[0] == ("Yes.", "Yes.")
    assert corrected([answer((1, "Yes."))], ["Yas.", "Yes."])[0] == ("Yes.", "Yes.")


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"edits": []}\n```',
        '```\n{"edits": []}```',
        '<think>Hm, {"edits": 1}?</think>\n{"edits": []}',
        '  {"edits": []}\n',
        '<think>Hm.</think>\n```json\n{"edits": []}\n```\n',
    ],
    ids=["fence", "plain fence", "thoughts", "blanks", "thoughts and fence"],
)
def test_what_models_put_around_json_is_passed_over(text):
    assert read_answer(text, range(1, 3)) == {}


@pytest.mark.parametrize(
    "answer_text",
    [
        "a" + "\n" * MANY + "a",
        "<think>" * MANY,
        "```json" * MANY,
        "{" * MANY,
        " ```" * MANY,
        '{"edits": [' + " " * MANY,
    ],
    ids=["line ends", "thoughts", "fences", "brackets", "closing fences", "blanks in JSON"],
)
def test_a_long_answer_of_nothing_is_refused_at_once(answer_text):
    """Up to two million characters: time that grew with their square would never end."""
    with pytest.raises(BadAnswer):
        read_answer(answer_text, range(1, 3))


@pytest.mark.parametrize("mark", ["<", "<{[", "{a", "\\", "> ", "<a>", "\u202e", "a\n", " a"], ids=ascii)
def test_a_long_text_is_judged_at_once(mark):
    text = f"hello {mark * (MANY // len(mark))}"
    assert accepted("hello", text) is None
    assert accepted(text, "goodbye") is None


@pytest.mark.parametrize("num_letters", [80, 1000, 12_000])
def test_two_letters_in_many_orders_are_judged_at_once(num_letters):
    """What difflib takes the third power of the length for, 33 s at 1000 letters."""
    old, new = ("ab" * num_letters)[:num_letters], ("abb" * num_letters)[:num_letters]
    assert accepted(old, new) in {None, new}


def test_what_is_wrong_is_told_without_repeating_the_answer():
    with pytest.raises(BadAnswer) as caught:
        read_answer('{"edits": "' + "x" * 5000 + '"}', range(1, 3))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("old", "new", "taken"),
    [
        ("I herd a beep", "I heard a beep.", "I heard a beep."),
        ("um so uh yes", "So yes.", "So yes."),
        ("在见", "再见。", "再见。"),
        ("two\nlines here", "Two\n\nlines  here.", "Two\nlines here."),
        ("<i>hello</i> their", "<i>Hello</i> there", "<i>Hello</i> there"),
        ("a beep", "", None),
        ("a beep", "Here is a joke about a man who walks into a bar.", None),
        ("I heard a beep somewhere", "Ich habe irgendwo einen Ton gehört", None),
        ("This is a long sentence that says a lot", "This", None),
        ("<i>hello</i>", "hello", None),
        ("hello there", "<b>hello</b> there", None),
        ("hello there", "[SPEAKER_09] hello there", None),
        ("one line", "one\nli\nne", None),
        ("one line", "one --> line", None),
        ("one line", "one\x00line", None),
        ("...", "Hello", None),
        ("", "…", None),
        (" \n", "…", None),
        ("...", "…", "…"),
        (r"{\i1}one{\i0} two", r"{\i0}one{\i1} two", None),
        ("hello brave new world", "hello {brave\nnew} world", None),
        ("hello brave new world", "hello <brave\nnew> world", None),
        ("hello world", "<hello world", None),
        ("hello world", "hello [world", None),
        ("hello world", "hello world}", None),
        ("hello world", r"hello\h world", None),
        ("hello world", r"{\alpha&HFF&}hello world", None),
        ("5 < 6 hello", "5 6 <hello", None),
        ("if 5 < 6 yas", "If 5 < 6, yes.", "If 5 < 6, yes."),
        (r"one\h two tree", r"One\h two three.", r"One\h two three."),
        ("hello brave new world", "hello brave new world" + "\U0001f4a9" * 50_000, None),
        ("hello brave new world", "hello brave new world" + "!" * 40, None),
        ("hello world", "\u202ehello world", None),
        ("\u202bhello word\u202c", "\u202bhello world\u202c", "\u202bhello world\u202c"),
        ("hello world", "hello\u2066 world\u2069", None),
        ("hello world", "hello\u200b world", None),
        ("hello world", "hello world\U000e0041", None),
        ("hello world", "hello \ue000world", None),
        ("میخواهم", "می\u200cخواهم", "می\u200cخواهم"),
        ("hello world", "hello\u2028world", "hello world"),
    ],
)
def test_only_what_is_plainly_the_same_text_is_taken(old, new, taken):
    assert accepted(old, new) == taken


def test_a_text_of_some_sentences_is_judged_by_its_letters_too():
    old = (
        "I herd that the whether is going two be fine tomorrow so we can all go too the see and swim as long"
        " as we like and than eat ice cream at the peer"
    )
    new = (
        "I heard that the weather is going to be fine tomorrow, so we can all go to the sea and swim as long"
        " as we like, and then eat ice cream at the pier."
    )
    other = (
        "We have been told by nobody in particular about these strange machines which stand behind the old"
        " factory, where children used to play until somebody put a fence up."
    )
    assert accepted(old, new) == new
    assert accepted(old, other) is None
    assert (
        accepted("今天天汽很好我们一起去公园完吧" * 7, "今天天气很好，我们一起去公园玩吧。" * 7) is not None
    )


def test_a_very_long_text_is_judged_too():
    old = " ".join(f"word{number}" for number in range(4000))
    assert accepted(old, old.replace("word7 ", "World7 ")) is not None
    assert accepted(old, "x" * len(old)) is None


def test_batches_are_bounded_by_cues_and_by_characters():
    assert list(batches(["a"] * 5, 2)) == [(0, 2), (2, 4), (4, 5)]
    assert list(batches(["a" * 7000] * 3, 50)) == [(0, 1), (1, 2), (2, 3)]
    assert list(batches(["a" * 50_000, "b"], 50)) == [(0, 1), (1, 2)]
    assert list(batches([], 50)) == []
