"""ffmpeg.extract_audio: the sound of a video as a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from models.audio_formats import (
    ENCODINGS,
    MAX_CHANNELS,
    MAX_SAMPLE_RATE_HZ,
    MIN_SAMPLE_RATE_HZ,
    AudioFormat,
    check_format,
    resample_arguments,
)
from models.engine import InputFile, InvalidInput, MediaKind, ModelSpec, Result, RunContext
from models.ffmpeg_run import FfmpegEngine, ffmpeg_engine, probe_input, report_seconds, run_ffmpeg, short_stem
from models.media import AudioFacts, MediaInfo, input_arguments


class AudioInputs(BaseModel):
    """Which sound to write, and how."""

    model_config = ConfigDict(extra="forbid")

    video_path: Annotated[str, InputFile(MediaKind.AUDIO)] = Field(
        min_length=1, description="Video or audio file with sound: an object key, s3:// or http(s) URL."
    )
    audio_format: AudioFormat = Field(AudioFormat.WAV, description="Format of the audio file.")
    sample_rate: int = Field(
        16000, ge=MIN_SAMPLE_RATE_HZ, le=MAX_SAMPLE_RATE_HZ, description="Samples per second."
    )
    channels: int = Field(
        1, ge=1, le=MAX_CHANNELS, description="Number of channels; mp3 has at most 2, aac 6."
    )


class AudioEngine(FfmpegEngine):
    """Writes `{stem}_audio.{format}`; the result tells what the written file contains."""

    def run(self, inputs: AudioInputs, context: RunContext) -> Result:
        source = Path(inputs.video_path)
        info = probe_input(source, "video_path")
        check(inputs, {"video_path": info})
        target = context.output_dir / f"{short_stem(source)}_audio.{inputs.audio_format}"
        encoding = ENCODINGS[inputs.audio_format]
        arguments = (
            *("-threads", str(context.threads), *input_arguments(source)),
            *resample_arguments(inputs.sample_rate, inputs.channels),
            *(*encoding.arguments, f"file:{target.absolute()}"),
        )
        on_progress = report_seconds(context, info.duration_s, "audio")
        written = run_ffmpeg(context, arguments, field="video_path", on_progress=on_progress)
        if not written.time_s:
            raise InvalidInput(f"no sound of {source.name} could be decoded", field="video_path")
        made = probe_input(target, "video_path")
        duration_s = made.duration_s if encoding.has_duration else written.time_s
        audio = audio_facts(made, "video_path")
        return Result(
            {
                "audio_path": target,
                "duration": round(duration_s, 6),
                "format": str(inputs.audio_format),
                "sample_rate": audio.sample_rate_hz,
                "channels": audio.channels,
                "bit_rate": made.bit_rate or round(made.size_bytes * 8 / duration_s),
            }
        )


def audio_facts(info: MediaInfo, field: str) -> AudioFacts:
    """The audio stream, which a check at submit has promised. Raises InvalidInput all the same."""
    if info.audio is None:
        raise InvalidInput(f"{field} has no audio stream", field=field)
    return info.audio


def check(inputs: AudioInputs, media: Mapping[str, MediaInfo]) -> None:
    """The file must have sound, and the format must carry the rate and channels asked for."""
    if "video_path" in media:
        audio_facts(media["video_path"], "video_path")
    check_format(inputs.audio_format, inputs.sample_rate, inputs.channels)


MODELS = (
    ModelSpec(
        name="ffmpeg.extract_audio",
        title="The sound of a video",
        inputs=AudioInputs,
        engines=ffmpeg_engine(AudioEngine),
        check=check,
    ),
)
