from __future__ import annotations

import json
import wave

import numpy as np
import psutil
import pytest

from models.engine import Cancelled, InvalidInput, PermanentFailure
from models.media import probe
from tests import ffmpeg_jobs as jobs
from tests.run_context import LocalRunContext

KEYS = [
    *("audio_segments_dir", "total_segments", "successful_segments", "failed_segments", "total_duration"),
    *("processing_time", "audio_format", "sample_rate", "channels", "split_info_file", "segments_count"),
    "speaker_summary",
]
SRT = """1
00:00:01,000 --> 00:00:04,000
[SPEAKER_00] hello

2
00:00:05,000 --> 00:00:25,000
SPEAKER_01: a long answer

3
00:00:26,000 --> 00:00:26,500
too short

4
00:00:28,000 --> 00:00:35,000
past the end

5
00:00:40,000 --> 00:00:45,000
after the end
"""


@pytest.fixture
def context(tmp_path):
    return LocalRunContext(tmp_path, threads=2)


def split(context, subtitle, **inputs):
    """Values of a run over the sample talk, with `subtitle` as text or as JSON content."""
    path = context.scratch_dir / "subtitle"
    path.write_text(subtitle if isinstance(subtitle, str) else json.dumps(subtitle), encoding="utf-8")
    return jobs.run("split_audio_segments", context, audio_path=jobs.TALK, subtitle_path=path, **inputs)


def info_of(values):
    return json.loads(values["split_info_file"].read_text())


def samples_of(path):
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_wav_segments_are_exactly_the_samples_between_the_times(context):
    values = split(context, SRT)
    whole, rows = samples_of(jobs.TALK), info_of(values)["segments"]
    assert list(values) == KEYS
    assert [(row["start"], row["end"]) for row in rows] == [(1, 4), (5, 25), (28, 30)]
    for row in rows:
        piece = samples_of(context.output_dir / row["file"])
        assert np.array_equal(piece, whole[round(row["start"] * 16000) : round(row["end"] * 16000)])


def test_counts_and_reasons_account_for_every_entry(context):
    values = split(context, SRT)
    info = info_of(values)
    counts = ("total_segments", "successful_segments", "failed_segments", "segments_count")
    assert [values[key] for key in counts] == [5, 3, 1, 3]
    assert values["total_duration"] == 25.0
    assert [(row["entry"], row["reason"]) for row in info["skipped"]] == [
        (3, "shorter than min_segment_duration")
    ]
    assert [(row["entry"], row["reason"]) for row in info["failed"]] == [
        (5, "starts after the end of the audio")
    ]
    assert values["speaker_summary"] == {
        "SPEAKER_00": {"count": 1, "duration": 3.0},
        "SPEAKER_01": {"count": 1, "duration": 20.0},
        "unknown": {"count": 1, "duration": 2.0},
    }
    assert [row["text"] for row in info["segments"]] == ["hello", "a long answer", "past the end"]


def test_long_entries_become_equal_parts_that_join_to_the_whole(context):
    values = split(context, SRT, max_segment_duration=6)
    rows = [row for row in info_of(values)["segments"] if row["entry"] == 2]
    assert [(row["part"], row["parts"], row["duration"]) for row in rows] == [
        (n, 4, 5.0) for n in (1, 2, 3, 4)
    ]
    joined = np.concatenate([samples_of(context.output_dir / row["file"]) for row in rows])
    assert np.array_equal(joined, samples_of(jobs.TALK)[5 * 16000 : 25 * 16000])
    assert values["successful_segments"] == 3


def test_silence_fills_what_no_entry_covers(context):
    values = split(context, SRT, include_silence=True)
    rows = [row for row in info_of(values)["segments"] if row["kind"] == "silence"]
    assert [(row["start"], row["end"]) for row in rows] == [(0, 1), (4, 5), (25, 26), (26.5, 28)]
    assert values["total_segments"] == 9
    assert "silence" not in values["speaker_summary"]


def test_speakers_get_folders_that_are_never_paths(context):
    speakers = ["../../etc", "/root", "a/b", "a_b", "A.B", "主持人", "..", "x" * 300, None]
    entries = [{"start": n * 2, "end": n * 2 + 1.5, "speaker": name} for n, name in enumerate(speakers)]
    values = split(context, {"segments": entries}, group_by_speaker=True)
    folder = values["audio_segments_dir"]
    written = sorted(path.relative_to(folder).parts for path in folder.rglob("*.wav"))
    assert len(written) == len({parts[0] for parts in written}) == len(speakers)  # one folder each
    assert all(len(parts) == 2 for parts in written)
    assert {"etc", "root", "a_b", "a_b_2", "A_B_3", "主持人", "speaker", "x" * 60, "unknown"} == {
        parts[0] for parts in written
    }
    assert set(values["speaker_summary"]) == {name or "unknown" for name in speakers}


@pytest.mark.parametrize("output_format", ["mp3", "flac", "aac", "m4a", "ogg"])
def test_other_formats_have_the_same_durations(context, output_format):
    entries = [{"start": n * 0.7, "end": n * 0.7 + 0.6} for n in range(18)]  # more than one batch
    values = split(
        context,
        entries,
        output_format=output_format,
        min_segment_duration=0.5,
        sample_rate=48000,
        channels=2,
    )
    files = sorted(values["audio_segments_dir"].iterdir())
    assert len(files) == values["segments_count"] == 18
    assert {path.suffix for path in files} == {f".{output_format}"}
    first = probe(files[0])
    assert first.audio is not None
    assert (first.audio.sample_rate_hz, first.audio.channels) == (48000, 2)
    assert first.duration_s == pytest.approx(0.6, abs=0.08)
    assert list(context.scratch_dir.glob("*.wav")) == []


def test_the_transcript_of_this_server_and_a_plain_list_are_read_alike(context, tmp_path):
    entries = [{"id": 0, "start": 1.5, "end": 4.0, "text": " hi", "words": [], "avg_logprob": -0.2}]
    listed = split(context, entries)
    document = {"metadata": {"language": "en"}, "segments": entries, "statistics": {}}
    whole = split(LocalRunContext(tmp_path / "other"), document)
    assert info_of(listed)["segments"] == info_of(whole)["segments"]
    assert info_of(whole)["segments"][0]["text"] == "hi"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_subtitles_in_the_encodings_people_use(context, encoding):
    path = context.scratch_dir / "a.srt"
    path.write_text("1\n00:00:01,000 --> 00:00:04,000\n你好，世界\n", encoding=encoding)
    values = jobs.run("split_audio_segments", context, audio_path=jobs.TALK, subtitle_path=path)
    assert info_of(values)["segments"][0]["text"] == "你好，世界"


@pytest.mark.parametrize(
    "subtitle", [[], {"segments": []}, "", "\n"], ids=["list", "object", "empty", "blank"]
)
def test_no_entries_is_an_empty_result(context, subtitle):
    values = split(context, subtitle)
    assert (values["total_segments"], values["segments_count"], values["speaker_summary"]) == (0, 0, {})


@pytest.mark.parametrize(
    ("subtitle", "text"),
    [
        ("1\n00:00:01,000 --> 00:00:02,000\na\n\n2\n00:00:03,000 --> soon\nb\n", r"entry 2 \(line 6\)"),
        ("1\n-00:00:01,000 --> 00:00:02,000\na\n", r"entry 1 \(line 2\)"),
        ("just some words\n", "no subtitle entry found"),
        ('{"segments": [}', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ({"results": []}, 'a list "segments"'),
        ([{"start": 0, "end": 2}, {"start": "soon", "end": 4}], "entry 2: start"),
        ([{"start": 0}], "entry 1: end"),
        ([{"start": -1, "end": 2}], "entry 1: start"),
        ("[[1, 2]]", "entry 1"),
        ('[{"start": NaN, "end": 2}]', "entry 1: start"),
        ([{"start": 100, "end": 102}], "no entry can be cut: entry 1 starts after the end"),
        ([{"start": 5, "end": 2}], "no entry can be cut: entry 1 ends before it starts"),
    ],
    ids=[
        *("srt times", "negative time", "prose", "cut json", "deep json", "no segments", "text as time"),
        *("no end", "negative start", "list as entry", "nan", "other recording", "backwards"),
    ],
)
def test_malformed_subtitles_name_the_entry(context, subtitle, text):
    with pytest.raises(InvalidInput, match=text) as caught:
        split(context, subtitle)
    assert caught.value.field == "subtitle_path"


def test_binary_is_no_subtitle(context):
    portrait = jobs.SAMPLES / "portrait.png"
    with pytest.raises(InvalidInput, match="not a text file"):
        jobs.run("split_audio_segments", context, audio_path=jobs.TALK, subtitle_path=portrait)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"min_segment_duration": 10, "max_segment_duration": 5}, "min_segment_duration"),
        ({"output_format": "mp3", "channels": 6}, "channels"),
        ({"audio_path": jobs.CARPHONE}, "audio_path"),
    ],
    ids=["min above max", "channels of mp3", "no sound"],
)
def test_what_cannot_work_is_refused_at_submit(bad, field):
    with pytest.raises(InvalidInput) as caught:
        jobs.check("split_audio_segments", **{"audio_path": jobs.TALK, "subtitle_path": "a.srt", **bad})
    assert caught.value.field == field


def test_sound_that_starts_late_is_cut_on_the_clock_of_its_file(context, tmp_path):
    source = jobs.make(
        tmp_path / "late.mkv",
        *("-f", "lavfi", "-i", "testsrc2=s=64x64:r=10:d=4", "-itsoffset", "2"),
        *("-f", "lavfi", "-i", "sine=f=440:d=2:r=16000", "-c:a", "pcm_s16le"),
    )
    subtitle = tmp_path / "a.json"
    subtitle.write_text(json.dumps([{"start": 0.5, "end": 1.9}, {"start": 2.1, "end": 3.9}]))
    values = jobs.run("split_audio_segments", context, audio_path=source, subtitle_path=subtitle)
    quiet, loud = (samples_of(context.output_dir / row["file"]) for row in info_of(values)["segments"])
    assert np.abs(quiet).max() == 0
    assert np.abs(loud).max() > 1000


def test_cancel_between_pieces_stops_and_leaves_no_child(tmp_path):
    context = LocalRunContext(tmp_path, cancel_at=0.01)
    entries = [{"start": n, "end": n + 1} for n in range(29)]
    with pytest.raises(Cancelled):
        split(context, entries, output_format="mp3")
    assert psutil.Process().children(recursive=True) == []


def test_a_full_disk_under_the_decoded_sound_is_said(context):
    (context.scratch_dir / "decoded.pcm").symlink_to("/dev/full")
    with pytest.raises(PermanentFailure, match="disk of the worker is full"):
        split(context, SRT)
