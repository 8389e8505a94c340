"""The three tasks of wservice as a replica runs them, with files, and with chat servers of every temper."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path

import pytest

from models.catalog import CATALOG
from models.chat import Chat, Patience
from models.cues import read_cues
from models.engine import (
    Cancelled,
    Endpoint,
    EngineKind,
    InvalidInput,
    ModelNotReady,
    PermanentFailure,
    Resources,
    TransientFailure,
    engine_label,
)
from models.site import Site, ready_engine
from tests.chat_server import chat_server, completion, edits
from tests.run_context import LocalRunContext
from tests.subtitle_parsers import parse_ass, parse_srt, parse_vtt

SEGMENTS = [
    {"id": 3, "start": 0.0, "end": 2.0, "text": " um, i herd the the beep.", "words": [
        {"word": f" {text}", "start": at * 0.3, "end": at * 0.3 + 0.3, "probability": 0.5}
        for at, text in enumerate(["um,", "i", "herd", "the", "the", "beep."])
    ]},
    {"id": 4, "start": 2.5, "end": 4.0, "text": " this is Dyan."},
    {"id": 5, "start": 4.5, "end": 6.0, "text": " Neither did eye."},
]  # fmt: skip
TRANSCRIPT = {"metadata": {"language": "en"}, "segments": SEGMENTS, "statistics": {"a": 1}}
TURNS = [{"start": 0, "end": 4.2, "speaker": "SPEAKER_00"}, {"start": 4.3, "end": 7, "speaker": "SPEAKER_01"}]
SRT = "1\n00:00:01,000 --> 00:00:03,000\num, i herd it\n\n2\n00:00:02,000 --> 00:00:01,000\nthis is Dyan.\n"
QUICK = Patience(connect_s=1, answer_s=5, tries=2, pause_s=0.01)


@pytest.fixture
def context(tmp_path):
    return LocalRunContext(tmp_path)


def written(context, content, name="talk.json"):
    path = context.scratch_dir / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def run(name, context, *, server=None, **inputs):
    """The values of one run, by the engine of `server` or by the one that needs nothing."""
    return result_of(name, context, server=server, **inputs).values


def result_of(name, context, *, server=None, **inputs):
    spec = CATALOG[f"wservice.{name}"]
    engine = spec.engines[-1].make()
    engine.load(Resources())
    if server is not None:
        engine = spec.engines[0].make()
        engine.load(Resources(endpoints={"chat": Endpoint(server.url, "small", "key")}))
        engine.chat = Chat(server.url, "small", "key", QUICK)
    return engine.run(spec.inputs(**inputs), context)


def optimize(context, content=TRANSCRIPT, server=None, **options):
    path = written(context, content)
    return run(
        "ai_optimize_subtitles", context, server=server, segments_file=path, subtitle_optimization=options
    )


def texts_of(path):
    return [row["text"].strip() for row in json.loads(Path(path).read_text())["segments"]]


# generate_subtitle_files


def test_all_six_files_hold_the_same_words_and_name_their_speakers(context):
    values = run(
        "generate_subtitle_files",
        context,
        segments_file=written(context, TRANSCRIPT),
        diarization_file=written(context, {"segments": TURNS, "exclusive": TURNS}, "turns.json"),
        output_filename="my talk.srt",
    )
    files = values["subtitle_files"]
    assert list(files) == ["basic", "with_speakers", "word_timestamps", "json", "vtt", "ass"]
    assert values["subtitle_path"] == files["basic"] == context.output_dir / "my talk.srt"
    text = " ".join(row["text"].strip() for row in SEGMENTS)
    for read, kind in ((parse_srt, "basic"), (parse_vtt, "vtt"), (parse_ass, "ass")):
        assert " ".join(shown.text for shown in read(files[kind].read_text())) == text
    assert [cue.speaker for cue in read_cues(files["with_speakers"], "a")] == ["SPEAKER_00"] * 2 + [
        "SPEAKER_01"
    ]
    assert [cue.speaker for cue in read_cues(files["json"], "a")] == ["SPEAKER_00"] * 2 + ["SPEAKER_01"]
    assert [shown.speaker for shown in parse_vtt(files["vtt"].read_text())][-1] == "SPEAKER_01"
    rows = json.loads(files["word_timestamps"].read_text())["words"]
    assert "".join(row["word"] for row in rows).strip() == text
    assert rows[0] == {
        "word": " um,",
        "start": 0.0,
        "end": 0.3,
        "probability": 0.5,
        "speaker": "SPEAKER_00",
        "cue": 1,
    }
    assert values["speaker_summary"] == {
        "SPEAKER_00": {"segments": 2, "words": 9, "duration": 3.5},
        "SPEAKER_01": {"segments": 1, "words": 3, "duration": 1.7},
    }
    assert values["statistics"]["segments_without_word_times"] == 2
    assert any(re.match("segments without usable word times.*: 2$", note) for note in values["notes"])


def test_without_diarization_nobody_is_named(context):
    values = run("generate_subtitle_files", context, segments_file=written(context, SEGMENTS))
    files = values["subtitle_files"]
    assert values["speaker_summary"] == {}
    assert values["subtitle_path"].name == "talk_subtitles.srt"
    assert files["with_speakers"].read_text() == files["basic"].read_text()


def test_speakers_that_the_transcript_names_itself(context):
    rows = [{**SEGMENTS[1], "speaker": "Ann"}, {**SEGMENTS[2], "speaker": "B[o]b"}]
    values = run("generate_subtitle_files", context, segments_file=written(context, rows))
    assert list(values["speaker_summary"]) == ["Ann", "B o b"]


@pytest.mark.parametrize("content", ["[]", '{"segments": []}', '[{"start": 0, "end": 4, "text": " "}]'])
def test_an_empty_transcript_makes_valid_empty_files(context, content):
    values = run("generate_subtitle_files", context, segments_file=written(context, content))
    files = values["subtitle_files"]
    assert files["basic"].read_text() == ""
    assert parse_vtt(files["vtt"].read_text()) == parse_ass(files["ass"].read_text()) == []
    assert (
        read_cues(files["json"], "a") == read_cues(files["basic"], "a") == read_cues(files["vtt"], "a") == ()
    )
    assert values["notes"] == ["the transcript has no words: the files are empty"]
    assert values["speaker_summary"] == {}


@pytest.mark.parametrize("name", ["../up", "a/b", "a\\b", ".srt", "..", " ", "a\x00b", "x" * 300, "\n"])
def test_an_output_filename_that_is_no_name_is_refused_at_submit(name):
    spec = CATALOG["wservice.generate_subtitle_files"]
    with pytest.raises(InvalidInput) as caught:
        spec.check(spec.inputs(segments_file="a.json", output_filename=name), {})
    assert caught.value.field == "output_filename"


def test_20_000_characters_of_text_in_one_segment(context):
    text = "今天天气很好。" * 2000 + " and so on" * 600
    rows = [{"start": 0, "end": 7000, "text": text}]
    values = run("generate_subtitle_files", context, segments_file=written(context, rows))
    shown = parse_srt(values["subtitle_path"].read_text())
    assert "".join("".join(entry.lines) for entry in shown).replace(" ", "") == text.replace(" ", "")


def test_a_cancel_stops_a_generation(context):
    context.cancel()
    with pytest.raises(Cancelled):
        run("generate_subtitle_files", context, segments_file=written(context, SEGMENTS))


# correct_subtitles


def test_rules_correct_a_file_and_leave_times_as_they_are(context):
    values = run("correct_subtitles", context, subtitle_path=written(context, SRT, "a.srt"))
    assert list(values)[:4] == [
        "corrected_subtitle_path",
        "original_subtitle_path",
        "provider_used",
        "statistics",
    ]
    assert values["provider_used"] == "rules"
    assert values["corrected_subtitle_path"].name == "a_corrected.srt"
    assert values["original_subtitle_path"].read_text() == SRT
    corrected = SRT.replace("um, i herd it", "I herd it")
    assert values["corrected_subtitle_path"].read_text() == corrected
    told = values["statistics"]
    assert (told["total_subtitles"], told["corrected_subtitles"]) == (2, 1)
    assert (told["overlapping_times"], told["backward_times"]) == (1, 1)
    assert told["rules"] == {"casing": 1, "fillers": 1}


def test_a_chat_server_corrects_a_file(context):
    with chat_server(lambda _: edits((1, "I heard it."), (2, "This is Diane."))) as server:
        path = written(context, SRT, "a.srt")
        values = run("correct_subtitles", context, server=server, subtitle_path=path, provider="deepseek")
    assert values["provider_used"] == "chat: small"
    assert [cue.text for cue in read_cues(values["corrected_subtitle_path"], "a")] == [
        "I heard it.",
        "This is Diane.",
    ]
    assert any("deepseek" in note for note in values["notes"])


def test_an_empty_file_stays_empty_and_asks_nobody(context):
    with chat_server(lambda _: edits()) as server:
        values = run("correct_subtitles", context, server=server, subtitle_path=written(context, "", "a.srt"))
    assert values["corrected_subtitle_path"].read_text() == ""
    assert server.requests == []


# ai_optimize_subtitles


def test_rules_improve_a_transcript_that_generates_subtitles(context, tmp_path):
    values = optimize(context, provider="rules")
    changed = json.loads(values["optimized_file_path"].read_text())
    before = json.loads(values["original_file_path"].read_text())
    assert before == TRANSCRIPT
    assert texts_of(values["optimized_file_path"]) == [
        "I herd the beep.",
        "This is Dyan.",
        "Neither did eye.",
    ]
    for old, new in zip(SEGMENTS, changed["segments"], strict=True):
        assert {key: new[key] for key in ("id", "start", "end")} == {
            key: old[key] for key in ("id", "start", "end")
        }
    assert {**changed, "segments": 0} == {**TRANSCRIPT, "segments": 0}
    counts = ("provider_used", "subtitles_count", "commands_applied", "batch_mode", "batches_count")
    assert [values[key] for key in counts] == ["rules", 3, 2, False, 1]
    assert values["statistics"]["optimization_rate"] == 0.6667
    made = run(
        "generate_subtitle_files",
        LocalRunContext(tmp_path / "next"),
        segments_file=str(values["optimized_file_path"]),
    )
    shown = parse_srt(made["subtitle_path"].read_text())
    assert shown[0].text == "I herd the beep."
    assert shown[0].start_ms == 300


def test_a_chat_server_improves_a_transcript_in_batches(context):
    with chat_server(
        lambda request: edits((3, "Neither did I.")) if '"id": 3' in str(request) else edits()
    ) as server:
        values = optimize(context, server=server, batch_size=2, overlap_size=1, provider="gemini")
    assert texts_of(values["optimized_file_path"])[2] == "Neither did I."
    counts = ("provider_used", "subtitles_count", "commands_applied", "batch_mode", "batches_count")
    assert [values[key] for key in counts] == ["chat: small", 3, 1, True, 2]
    assert values["statistics"]["total_commands"] == 1
    assert [question["language"] for question in server.questions] == ["en", "en"]
    assert [report.done for report in context.reports] == [0, 2, 3]


@pytest.mark.parametrize(
    "reply",
    [
        completion("I cannot do that."),
        (200, {"Content-Type": "text/html"}, b"<html></html>"),
        edits((1, "A wholly different story about a bear in the woods")),
        edits((1, "this is Dyan."), (2, "Neither did eye."), (3, "um, i herd the the beep.")),
        edits((7, "one cue more")),
    ],
    ids=["prose", "html", "another text", "reordered", "added"],
)
def test_nonsense_loses_nothing_and_is_told(context, reply):
    with chat_server(lambda _: reply) as server:
        values = optimize(context, server=server)
    assert json.loads(values["optimized_file_path"].read_text()) == TRANSCRIPT
    assert (values["commands_applied"], values["statistics"]["optimization_rate"]) == (0, 0)
    told = values["statistics"]
    assert told["failed_batches"] or told["refused_commands"]
    assert any("keep their texts" in note or "refused" in note for note in values["notes"])


def test_an_answer_that_drops_cues_drops_none(context):
    with chat_server(lambda _: edits((1, "I heard the beep."))) as server:
        values = optimize(context, server=server)
    assert texts_of(values["optimized_file_path"]) == [
        "I heard the beep.",
        "this is Dyan.",
        "Neither did eye.",
    ]


def test_rules_are_used_where_the_caller_asks_for_them_although_a_server_is_set(context):
    with chat_server(lambda _: edits()) as server:
        values = optimize(context, server=server, provider="rules")
    assert (values["provider_used"], server.requests) == ("rules", [])


@pytest.mark.parametrize(
    ("options", "name"),
    [({"provider": "rules"}, "rules"), ({"enabled": False}, "none"), ({}, None)],
    ids=["rules", "nobody", "chat"],
)
def test_the_chat_engine_says_when_others_did_the_work(context, options, name):
    with chat_server(lambda _: edits()) as server:
        path = written(context, TRANSCRIPT)
        inputs = {"segments_file": path, "subtitle_optimization": options}
        result = result_of("ai_optimize_subtitles", context, server=server, **inputs)
    assert (result.engine or {}).get("name") == name
    assert (result.engine or {}).get("kind") == (name and "embedded")


def test_a_file_that_rules_corrected_says_so_although_a_server_is_set(context):
    with chat_server(lambda _: edits()) as server:
        path = written(context, SRT, "a.srt")
        result = result_of("correct_subtitles", context, server=server, subtitle_path=path, provider="rules")
    rules = CATALOG["wservice.correct_subtitles"].engines[-1]
    assert result.engine == engine_label(rules.name, rules.kind, rules.version)


def test_words_for_a_cue_without_text_are_refused(context):
    content = [{"start": 0, "end": 1, "text": "", "words": [{"word": " "}]}]
    with chat_server(lambda _: edits((1, "…"))) as server:
        values = optimize(context, content, server=server)
    assert json.loads(values["optimized_file_path"].read_text()) == content
    assert values["statistics"]["refused_commands"] == 1


def test_a_server_that_restarts_costs_no_batch(context):
    def reply(_request):
        if len(server.requests) == 2:
            return 503, {}, b"{}"
        return edits((3, "Neither did I.")) if len(server.requests) == 3 else edits((1, "I heard the beep."))

    with chat_server(reply) as server:
        values = optimize(context, server=server, batch_size=2)
    assert texts_of(values["optimized_file_path"])[::2] == ["I heard the beep.", "Neither did I."]
    assert values["statistics"]["failed_batches"] == 0


def test_a_provider_that_is_not_there_is_told(context):
    values = optimize(context, provider="deepseek")
    assert values["provider_used"] == "rules"
    assert values["notes"] == [
        "no chat server is set (MEDIARAY_CHAT_URL): rules corrected the texts, not deepseek"
    ]


def test_not_enabled_hands_the_transcript_on(context):
    values = optimize(context, enabled=False)
    assert values["optimized_file_path"].read_bytes() == values["original_file_path"].read_bytes()
    assert (values["provider_used"], values["batches_count"], values["commands_applied"]) == ("none", 0, 0)
    assert "not enabled" in values["notes"][0]


def test_subtitles_are_no_transcript(context):
    with pytest.raises(InvalidInput, match="no transcript JSON"):
        optimize(context, SRT)


def test_a_server_that_is_down_leaves_the_task_to_be_repeated(context):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"

    class Down:
        pass

    Down.url = url
    with pytest.raises(TransientFailure, match="MEDIARAY_CHAT_URL"):
        optimize(context, server=Down)


def test_a_refused_key_ends_the_task(context):
    with chat_server(lambda _: (401, {}, b"{}")) as server, pytest.raises(PermanentFailure, match="API_KEY"):
        optimize(context, server=server)


def test_a_cancel_while_the_server_thinks(context):
    with chat_server(lambda _: edits()) as server:
        server.hold = threading.Event()
        waiter = threading.Thread(target=lambda: (server.asked.wait(), context.cancel()))
        waiter.start()
        with pytest.raises(Cancelled):
            optimize(context, server=server)
        waiter.join()


# engines


@pytest.mark.parametrize("name", ["correct_subtitles", "ai_optimize_subtitles"])
def test_a_chat_server_comes_first_and_rules_need_nothing(name):
    spec = CATALOG[f"wservice.{name}"]
    assert ready_engine(spec, Site(endpoints={"chat": Endpoint("http://127.0.0.1:9/v1", "m")})).name == "chat"
    rules = ready_engine(spec, Site())
    assert (rules.name, rules.kind) == ("rules", EngineKind.EMBEDDED)


def test_a_setting_that_is_no_url_is_said_when_the_engine_loads():
    engine = CATALOG["wservice.correct_subtitles"].engines[0].make()
    with pytest.raises(ModelNotReady, match="MEDIARAY_CHAT_URL"):
        engine.load(Resources(endpoints={"chat": Endpoint("localhost:11434", "m")}))
