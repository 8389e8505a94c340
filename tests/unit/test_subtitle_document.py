from __future__ import annotations

import json

import pytest

from models.cues import read_cues
from models.engine import InvalidInput
from models.subtitle_document import open_document

SRT = """1
00:00:01,000 --> 00:00:03,000 X1:40 X2:600
<i>the first</i>
and two

2
00:00:02,000 --> 00:00:01,500

3
-00:00:01,000 --> 00:00:09,000
the third

still the third

"""
VTT = """WEBVTT - a title

STYLE
::cue { color: lime }

NOTE a comment
of two lines

intro
00:01.000 --> 00:02.500 line:0 align:start
<v Ann B>hello &amp; good <b>day</b>

01:00:03.000 --> 01:00:04.000
second
"""
ASS = """[Script Info]
; kept
Title: a, b

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,a comment
Dialogue: 0,0:00:01.00,0:00:02.50,Default,Ann,0,0,0,,{\\i1}hello{\\i0}, you\\Nthere
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\p1}m 0 0 l 100 0{\\p0}
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,second
"""
WORDS = [
    {"word": " I", "start": 1.0, "end": 1.1, "probability": 0.9},
    {"word": " herd", "start": 1.1, "end": 1.5, "probability": 0.4},
    {"word": " um,", "start": 1.5, "end": 1.9, "probability": 0.8},
    {"word": " beeps.", "start": 2.0, "end": 2.5, "probability": 0.7},
]
JSON = {
    "metadata": {"language": "en", "own": 1},
    "segments": [
        {
            "id": 7,
            "start": 1.0,
            "end": 2.5,
            "text": " I herd um, beeps.",
            "avg_logprob": -0.2,
            "words": WORDS,
        },
        {"id": 9, "start": 3.0, "end": 4.0, "text": " Second."},
    ],
    "statistics": {"kept": True},
}
FILES = {"srt": SRT, "vtt": VTT, "ass": ASS, "json": json.dumps(JSON)}


def opened(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content.encode())
    return open_document(path, "subtitle_path")


@pytest.mark.parametrize("kind", ["srt", "vtt", "ass"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_file_whose_texts_do_not_change_stays_as_it_is_byte_by_byte(tmp_path, kind, end):
    content = FILES[kind].replace("\n", end)
    document = opened(tmp_path, content)
    assert document.rewritten(document.texts) == content


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("srt", ("<i>the first</i>\nand two", "", "the third\n\nstill the third")),
        ("vtt", ("<v Ann B>hello &amp; good <b>day</b>", "second")),
        ("ass", ("{\\i1}hello{\\i0}, you\nthere", "second")),
        ("json", ("I herd um, beeps.", "Second.")),
    ],
)
def test_texts_are_those_of_the_entries(tmp_path, kind, texts):
    assert opened(tmp_path, FILES[kind]).texts == texts


@pytest.mark.parametrize("kind", ["srt", "vtt", "ass"])
def test_only_texts_change(tmp_path, kind):
    document = opened(tmp_path, FILES[kind])
    changed = [
        text.upper() if text == text.strip("<{") and "\\" not in text else text for text in document.texts
    ]
    before, after = (text.split("\n") for text in (FILES[kind], document.rewritten(changed)))
    different = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert different
    for old, new in different:
        assert new.rpartition(",")[2] == old.rpartition(",")[2].upper()
        assert new.rpartition(",")[0] == old.rpartition(",")[0]


def test_times_are_as_written_and_what_is_odd_is_counted(tmp_path):
    document = opened(tmp_path, SRT)
    assert document.times_s == ((1, 3), (2, 1.5), (-1, 9))
    assert (document.num_overlaps, document.num_backwards) == (2, 2)


def test_json_keeps_ids_times_and_foreign_keys_and_lays_the_words_anew(tmp_path):
    document = opened(tmp_path, json.dumps(JSON))
    changed = json.loads(document.rewritten(["I heard beeps.", "Second."]))
    first, second = changed["segments"]
    assert {**changed, "segments": None} == {**JSON, "segments": None}
    assert second == JSON["segments"][1]
    assert {**first, "words": None} == {**JSON["segments"][0], "text": " I heard beeps.", "words": None}
    assert [word["word"] for word in first["words"]] == [" I", " heard", " beeps."]
    assert first["words"][0] == WORDS[0]
    assert first["words"][2] == WORDS[3]
    assert (first["words"][1]["start"], first["words"][1]["end"]) == (1.1, 1.9)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("1\n00:00:01,000 --> soon\nhello\n", r"entry 1 \(line 2\): malformed times"),
        ("just words\n", "no subtitle entry found"),
        (ASS.replace("0:00:03.00", "soon"), "line 14: malformed times"),
        (ASS.replace(",,0,0,0,,second", ""), "entry 3 .*fewer fields"),
        ('{"segments": [{"start": 2, "end": 1, "text": "a"}]}', "entry 1: ends before it starts"),
        ('{"segments": [{"start": NaN, "end": 1}]}', "entry 1: start"),
        ('{"segments": [], "own": NaN}', "NaN is no number"),
        ('{"segments": [], "own": ' + "[" * 900 + "]" * 900 + "}", "levels deep"),
        ('{"segments": [], "own": ' + "[" * 9000 + "]" * 9000 + "}", "levels deep"),
        (ASS.replace("Effect, Text", "Text, Effect"), "Text as the last field"),
        ('[{"start": 0, "end": 1, "words": [{"word": 5}]}]', r"entry 1: words\.0\.word"),
    ],
    ids=[
        "srt times",
        "prose",
        "ass times",
        "ass fields",
        "backwards",
        "nan",
        "foreign nan",
        "deep",
        "deeper",
        "format",
        "word",
    ],
)
def test_malformed_files_name_the_entry(tmp_path, content, text):
    with pytest.raises(InvalidInput, match=text) as caught:
        opened(tmp_path, content)
    assert caught.value.field == "subtitle_path"


@pytest.mark.parametrize("content", ["", "\n", "WEBVTT\n", "[]", '{"segments": []}'])
def test_empty_files_have_no_texts(tmp_path, content):
    assert opened(tmp_path, content).texts == ()


def test_cues_of_vtt_and_ass_have_their_speakers(tmp_path):
    path = tmp_path / "file"
    path.write_text(VTT)
    cues = read_cues(path, "subtitle_path")
    assert [(cue.start_s, cue.end_s, cue.speaker, cue.text) for cue in cues] == [
        (1, 2.5, "Ann B", "hello & good day"),
        (3603, 3604, None, "second"),
    ]
    path.write_text(ASS)
    cues = read_cues(path, "subtitle_path")
    assert [(cue.start_s, cue.end_s, cue.speaker, cue.text) for cue in cues] == [
        (1, 2.5, "Ann", "hello, you\nthere"),
        (3, 4, None, "second"),
    ]


def test_a_line_of_digits_at_the_end_of_an_srt_file_is_text(tmp_path):
    path = tmp_path / "file"
    first, second = "1\n00:00:01,000 --> 00:00:02,000\n", "2\n00:00:03,000 --> 00:00:04,000\n"
    path.write_text(f"{first}<i>in the year\n1984</i>\n\n{second}or\n1985\n")
    assert [cue.text for cue in read_cues(path, "subtitle_path")] == ["in the year\n1984", "or\n1985"]


@pytest.mark.parametrize(
    "content",
    [ASS.partition("Title: a, b\n\n")[2], ASS.partition("\n")[2], "; one\n\n;two\n" + ASS],
    ids=["styles first", "comment and title first", "comments first"],
)
def test_ass_may_begin_with_comments_or_styles(tmp_path, content):
    content = content.replace("; kept\nTitle: a, b\n\n", "; kept\n")
    assert opened(tmp_path, content).texts == ("{\\i1}hello{\\i0}, you\nthere", "second")


def test_an_arrow_in_a_text_is_text(tmp_path):
    document = opened(tmp_path, SRT.replace("and two", "A --> B"))
    assert document.texts[0] == "<i>the first</i>\nA --> B"
    assert document.rewritten(document.texts) == SRT.replace("and two", "A --> B")


@pytest.mark.parametrize(
    "text", ["Très bien, mérci", "L'étée arrive", "Äußerst schön, Öl für übermorgen", "Ça, là"]
)
def test_western_encodings_are_refused_and_not_read_as_chinese(tmp_path, text):
    path = tmp_path / "file"
    path.write_bytes(f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n".encode("cp1252"))
    with pytest.raises(InvalidInput, match="save it as UTF-8"):
        open_document(path, "subtitle_path")


@pytest.mark.parametrize(
    "text", ["你好，世界。", "我用Python写代码，很好！", "嗯，好。", "他说：“好的。”", "—— 《三国》"]
)
def test_chinese_encodings_are_read(tmp_path, text):
    path = tmp_path / "file"
    path.write_bytes(f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n".encode("gb18030"))
    assert open_document(path, "subtitle_path").texts == (text,)


@pytest.mark.parametrize(
    "piece", ["<", "<v ", "<v a", "<a", "< ", "{", "{\\", "[", "&", "<v.", "</", "speaker ", ":"]
)
@pytest.mark.parametrize(
    "head", ["1\n00:00:01,000 --> 00:00:02,000\n", "WEBVTT\n\n00:01.000 --> 00:02.000\n"]
)
def test_no_tag_takes_longer_than_in_proportion(tmp_path, head, piece):
    """Would not end where each opening bracket looks for its end in all of the text."""
    path = tmp_path / "file"
    path.write_text(head + piece * (500_000 // len(piece)) + "\n")
    (cue,) = read_cues(path, "subtitle_path")
    assert len(cue.text) <= 500_000
