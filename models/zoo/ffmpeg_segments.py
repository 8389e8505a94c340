"""ffmpeg.split_audio_segments: one audio file per subtitle entry, cut exactly by sample.

The sound is decoded once to PCM on disk; the pieces are slices of that file. WAV pieces are done
then; other formats are encoded many at a time, because starting ffmpeg costs more than one piece.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from models.audio_formats import (
    MAX_CHANNELS,
    MAX_SAMPLE_RATE_HZ,
    MIN_SAMPLE_RATE_HZ,
    AudioFormat,
    check_format,
)
from models.audio_pieces import Pcm, Piece, decode_pcm, write_pieces
from models.cues import read_cues
from models.disk import disk_errors
from models.engine import InputFile, InvalidInput, MediaKind, ModelSpec, Result, RunContext
from models.ffmpeg_run import FfmpegEngine, ffmpeg_engine, probe_input
from models.media import MediaInfo
from models.segment_plan import SILENCE, SPEECH, Cut, Limits, Plan, Rejected, Span, plan_cuts
from models.zoo.ffmpeg_audio import audio_facts

UNKNOWN_SPEAKER = "unknown"
_UNSAFE = re.compile(r"[^\w-]+")
_MAX_FOLDER_CHARS = 60


@dataclass(frozen=True, slots=True)
class Segment:
    """A cut and the file it becomes."""

    cut: Cut
    piece: Piece


class SegmentInputs(BaseModel):
    """Where to cut, and what to write."""

    model_config = ConfigDict(extra="forbid")

    audio_path: Annotated[str, InputFile(MediaKind.AUDIO)] = Field(
        min_length=1, description="Audio, or video with sound: an object key, s3:// or http(s) URL."
    )
    subtitle_path: Annotated[str, InputFile(MediaKind.FILE)] = Field(
        min_length=1,
        description="SRT, or JSON: a list of {start, end, text, speaker} in seconds, or an object with "
        "such a list as segments.",
    )
    output_format: AudioFormat = Field(AudioFormat.WAV, description="Format of the audio files.")
    sample_rate: int = Field(
        16000, ge=MIN_SAMPLE_RATE_HZ, le=MAX_SAMPLE_RATE_HZ, description="Samples per second."
    )
    channels: int = Field(
        1, ge=1, le=MAX_CHANNELS, description="Number of channels; mp3 has at most 2, aac 6."
    )
    min_segment_duration: float = Field(
        1.0,
        ge=0,
        le=1200,
        allow_inf_nan=False,
        description="Entries shorter than this many seconds are skipped; split_info_file lists them.",
    )
    max_segment_duration: float = Field(
        30.0,
        ge=0.1,
        le=1200,
        allow_inf_nan=False,
        description="Longer entries are split into equal parts of at most this many seconds.",
    )
    group_by_speaker: bool = Field(False, description="Put the files into one folder per speaker.")
    include_silence: bool = Field(
        False, description="Also write the stretches between entries, under the same two limits."
    )


class SegmentEngine(FfmpegEngine):
    """Cuts entries; files are named `segment_{number}_{start}-{end}ms.{format}`.

    total_segments counts the entries (and stretches between them); of these, failed_segments do not
    lie inside the sound, and those too short are neither failed nor successful. segments_count counts
    files, so an entry in three parts is three.
    """

    def run(self, inputs: SegmentInputs, context: RunContext) -> Result:
        started_s = time.monotonic()
        source = Path(inputs.audio_path)
        info = probe_input(source, "audio_path")
        check(inputs, {"audio_path": info})
        cues = read_cues(Path(inputs.subtitle_path), "subtitle_path")
        pcm = decode_pcm(context, source, inputs.sample_rate, inputs.channels, total_s=info.duration_s)
        limits = Limits(inputs.min_segment_duration, inputs.max_segment_duration)
        plan = plan_cuts(cues, pcm.num_samples, pcm.rate_hz, limits, with_silence=inputs.include_silence)
        _check_plan(plan, pcm)
        folder = context.output_dir / "audio_segments"
        folder.mkdir(exist_ok=True)
        segments = _segments(plan, folder, inputs)
        write_pieces(context, pcm, [segment.piece for segment in segments], inputs.output_format)
        info_path = _write_info(context.output_dir / "split_info.json", plan, segments, inputs)
        return Result(
            {
                "audio_segments_dir": folder,
                "total_segments": len(plan.spans),
                "successful_segments": plan.num_successful,
                "failed_segments": len(plan.failed),
                "total_duration": round(sum(_duration_s(cut, inputs) for cut in plan.cuts), 6),
                "processing_time": round(time.monotonic() - started_s, 3),
                "audio_format": str(inputs.output_format),
                "sample_rate": inputs.sample_rate,
                "channels": inputs.channels,
                "split_info_file": info_path,
                "segments_count": len(segments),
                "speaker_summary": _speaker_summary(plan, inputs),
            }
        )


def check(inputs: SegmentInputs, media: Mapping[str, MediaInfo]) -> None:
    """The file must have sound, the format carry what is asked, and the limits leave room."""
    if "audio_path" in media:
        audio_facts(media["audio_path"], "audio_path")
    check_format(inputs.output_format, inputs.sample_rate, inputs.channels)
    if inputs.min_segment_duration > inputs.max_segment_duration:
        raise InvalidInput(
            "min_segment_duration must not be above max_segment_duration", field="min_segment_duration"
        )


def _check_plan(plan: Plan, pcm: Pcm) -> None:
    """A subtitle file of which nothing fits belongs to another recording: an error, not an empty result."""
    if plan.failed and len(plan.failed) == sum(1 for span in plan.spans if span.kind == SPEECH):
        problem = f"entry {plan.failed[0].span.entry} {plan.failed[0].reason}"
        length = f"the audio lasts {pcm.num_samples / pcm.rate_hz:.3f} s"
        raise InvalidInput(f"subtitle_path: no entry can be cut: {problem}; {length}", field="subtitle_path")


def _segments(plan: Plan, folder: Path, inputs: SegmentInputs) -> list[Segment]:
    folders = _speaker_folders(plan) if inputs.group_by_speaker else {}
    segments = []
    for number, cut in enumerate(plan.cuts, start=1):
        start_ms, end_ms = (round(at * 1000 / inputs.sample_rate) for at in (cut.start, cut.stop))
        name = f"segment_{number:05d}_{start_ms:09d}-{end_ms:09d}ms.{inputs.output_format}"
        path = folder / folders.get(_voice(cut.span), "") / name
        segments.append(Segment(cut, Piece(path, cut.start, cut.stop)))
    return segments


def _voice(span: Span) -> str:
    """Who is heard in a span, as results call it."""
    return SILENCE if span.kind == SILENCE else span.speaker or UNKNOWN_SPEAKER


def _speaker_folders(plan: Plan) -> dict[str, str]:
    """A folder name for each voice: never a path, and never one name for two voices."""
    folders: dict[str, str] = {}
    for voice in dict.fromkeys(_voice(cut.span) for cut in plan.cuts):
        plain = _UNSAFE.sub("_", voice).strip("_")[:_MAX_FOLDER_CHARS] or "speaker"
        taken = {name.casefold() for name in folders.values()}
        names = (plain if number == 1 else f"{plain}_{number}" for number in itertools.count(1))
        folders[voice] = next(name for name in names if name.casefold() not in taken)
    return folders


def _speaker_summary(plan: Plan, inputs: SegmentInputs) -> dict[str, dict[str, float]]:
    """Files and seconds of each speaker; silence has none."""
    summary: dict[str, dict[str, float]] = {}
    for cut in plan.cuts:
        if cut.span.kind != SILENCE:
            row = summary.setdefault(_voice(cut.span), {"count": 0, "duration": 0.0})
            row["count"] += 1
            row["duration"] = round(row["duration"] + _duration_s(cut, inputs), 6)
    return summary


def _duration_s(cut: Cut, inputs: SegmentInputs) -> float:
    return (cut.stop - cut.start) / inputs.sample_rate


def _write_info(path: Path, plan: Plan, segments: list[Segment], inputs: SegmentInputs) -> Path:
    """What became of every entry. Files are named relative to the folder of this file."""
    settings = inputs.model_dump(mode="json", exclude={"audio_path", "subtitle_path"})
    content = {
        "settings": settings,
        "segments": [_segment_row(segment, path.parent, inputs) for segment in segments],
        "skipped": [_rejected_row(rejected) for rejected in plan.skipped],
        "failed": [_rejected_row(rejected) for rejected in plan.failed],
    }
    with disk_errors():
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def _segment_row(segment: Segment, base: Path, inputs: SegmentInputs) -> dict[str, Any]:
    cut = segment.cut
    start_s, end_s = (round(at / inputs.sample_rate, 6) for at in (cut.start, cut.stop))
    return {
        "file": segment.piece.path.relative_to(base).as_posix(),
        **{"start": start_s, "end": end_s, "duration": round(_duration_s(cut, inputs), 6)},
        **{"part": cut.part, "parts": cut.parts},
        **{"kind": cut.span.kind, "entry": cut.span.entry},
        **{"speaker": cut.span.speaker, "text": cut.span.text},
    }


def _rejected_row(rejected: Rejected) -> dict[str, Any]:
    span = rejected.span
    return {
        **{"entry": span.entry, "kind": span.kind, "reason": rejected.reason},
        **{"start": round(span.start_s, 6), "end": round(span.end_s, 6)},
        **{"speaker": span.speaker, "text": span.text},
    }


MODELS = (
    ModelSpec(
        name="ffmpeg.split_audio_segments",
        title="One audio file per subtitle entry",
        inputs=SegmentInputs,
        engines=ffmpeg_engine(SegmentEngine),
        check=check,
        run_timeout_s=7200.0,
    ),
)
