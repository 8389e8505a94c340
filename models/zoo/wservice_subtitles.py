"""wservice.generate_subtitle_files: a transcript, and who spoke when, as subtitle files.

Rules are those of broadcasters: two lines of 42 columns (20 full-width characters), 0.83 to 7 s, 80 ms
between cues, 20 characters a second (9 full-width, 12 Korean). `models.subtitle_layout` says how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from models.engine import (
    Engine,
    EngineKind,
    EngineSpec,
    InputFile,
    InvalidInput,
    MediaKind,
    ModelSpec,
    Result,
    RunContext,
)
from models.ffmpeg_run import short_stem
from models.media import MediaInfo
from models.segments_file import Segment, Transcript, read_transcript
from models.speaker_turns import plain_name, read_turns, summary, with_speakers
from models.subtitle_files import write_subtitles
from models.subtitle_layout import Layout, lay_out

_MAX_NAME_BYTES = 180
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f]")
_ENDINGS = (".srt", ".vtt", ".ass", ".json", ".txt")


class SubtitleInputs(BaseModel):
    """What was said, who spoke when, and what the files are called."""

    model_config = ConfigDict(extra="forbid")

    segments_file: Annotated[str, InputFile(MediaKind.FILE)] = Field(
        min_length=1,
        description="Transcript JSON as faster_whisper.transcribe_audio writes it, or a list of"
        " {start, end, text, words} in seconds; words are optional.",
    )
    diarization_file: Annotated[str | None, InputFile(MediaKind.FILE)] = Field(
        None,
        min_length=1,
        description="JSON of pyannote_audio.diarize_speakers, or a list of {start, end, speaker} in seconds.",
    )
    output_filename: str | None = Field(
        None, min_length=1, description="Name of the files, without folders; an ending like .srt is left out."
    )


class SubtitleEngine(Engine):
    """Writes six files of the same cues; an empty transcript makes files without cues."""

    def run(self, inputs: SubtitleInputs, context: RunContext) -> Result:
        transcript = read_transcript(Path(inputs.segments_file), "segments_file", context.check)
        context.check()
        segments = _with_names(transcript, inputs, context.check)
        layout = lay_out(segments, context.check)
        context.report(len(layout.cues), len(layout.cues), stage="lay out", unit="cues")
        name = _file_name(inputs) or f"{short_stem(Path(inputs.segments_file))[:_MAX_NAME_BYTES]}_subtitles"
        files = write_subtitles(layout.cues, context.output_dir, name, {"language": transcript.language})
        has_speakers = any(cue.speaker for cue in layout.cues)
        spoken = [(cue.speaker, cue.words, cue.spoken_s) for cue in layout.cues]
        return Result(
            {
                "subtitle_path": files["basic"],
                "subtitle_files": files,
                "speaker_summary": summary(spoken) if has_speakers else {},
                "statistics": _statistics(segments, layout),
                "notes": _notes(segments, layout),
            }
        )


def check(inputs: SubtitleInputs, _media: Mapping[str, MediaInfo]) -> None:
    """The name must be a name."""
    name = inputs.output_filename
    if name is None:
        return
    if _NO_NAME.search(name) or not _file_name(inputs):
        raise InvalidInput("output_filename must be a file name, not a path", field="output_filename")
    if len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
        raise InvalidInput(f"output_filename is longer than {_MAX_NAME_BYTES} bytes", field="output_filename")


def _file_name(inputs: SubtitleInputs) -> str:
    """The wanted name without its ending; empty where there is none, or nothing but dots and spaces."""
    name = (inputs.output_filename or "").strip()
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    stem = name[: len(name) - len(ending)].strip()
    return stem if stem.strip(". ") else ""


def _with_names(
    transcript: Transcript, inputs: SubtitleInputs, check_cancel: Callable[[], None]
) -> tuple[Segment, ...]:
    """Speakers by the diarization file, or those the transcript itself names."""
    if inputs.diarization_file is not None:
        turns = read_turns(Path(inputs.diarization_file), "diarization_file")
        return with_speakers(transcript.segments, turns, check_cancel)
    return tuple(segment.renamed(plain_name) for segment in transcript.segments)


def _statistics(segments: tuple[Segment, ...], layout: Layout) -> dict[str, Any]:
    return {
        "cues": len(layout.cues),
        "words": sum(len(cue.words) for cue in layout.cues),
        "cues_above_reading_speed": layout.num_fast,
        "cues_below_minimum_duration": layout.num_short,
        "cues_moved_from_their_words": layout.num_moved,
        "segments_without_word_times": sum(segment.are_times_estimated for segment in segments),
    }


def _notes(segments: tuple[Segment, ...], layout: Layout) -> list[str]:
    """What a reader of the files should know, in words."""
    estimated = sum(segment.are_times_estimated for segment in segments)
    fast, short, moved = layout.num_fast, layout.num_short, layout.num_moved
    told = {
        "the transcript has no words: the files are empty": not layout.cues,
        f"cues that show for less time than reading them takes, as the speech is faster: {fast}": fast,
        f"cues that show for less than 0.83 s, as another follows at once: {short}": short,
        f"cues more than 0.25 s away from their words, as people speak at once or too fast: {moved}": moved,
        f"segments without usable word times, whose words share the segment's: {estimated}": estimated,
    }
    return [note for note, applies in told.items() if applies]


MODELS = (
    ModelSpec(
        name="wservice.generate_subtitle_files",
        title="Subtitle files from a transcript",
        inputs=SubtitleInputs,
        engines=(
            EngineSpec(
                name="pysubs2",
                kind=EngineKind.FULL,
                make=SubtitleEngine,
                version="pysubs2 1.8.1",
                licence="MIT",
            ),
        ),
        check=check,
        run_timeout_s=1800.0,
    ),
)
