"""The audio files this server writes: what ffmpeg needs to make each, and what each can carry."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from models.engine import InvalidInput

MIN_SAMPLE_RATE_HZ = 8000
MAX_SAMPLE_RATE_HZ = 192_000
MAX_CHANNELS = 8

_MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AAC_RATES_HZ = (*_MP3_RATES_HZ, 64000, 88200, 96000)


class AudioFormat(StrEnum):
    """A file format, which is also the suffix of its files."""

    WAV = "wav"
    MP3 = "mp3"
    FLAC = "flac"
    AAC = "aac"
    M4A = "m4a"
    OGG = "ogg"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a format is written. `rates_hz` () means any rate.

    `has_duration` is False where the file does not say how long it is, and readers have to estimate.
    """

    arguments: tuple[str, ...]
    rates_hz: tuple[int, ...] = ()
    max_channels: int = MAX_CHANNELS
    has_duration: bool = True


ENCODINGS: dict[AudioFormat, Encoding] = {
    # RF64 where a file outgrows the 4 GiB that plain WAV can say
    AudioFormat.WAV: Encoding(("-c:a", "pcm_s16le", "-rf64", "auto", "-f", "wav")),
    AudioFormat.MP3: Encoding(("-c:a", "libmp3lame", "-f", "mp3"), _MP3_RATES_HZ, max_channels=2),
    AudioFormat.FLAC: Encoding(("-c:a", "flac", "-sample_fmt", "s16", "-f", "flac")),
    AudioFormat.AAC: Encoding(
        ("-c:a", "aac", "-f", "adts"), _AAC_RATES_HZ, max_channels=6, has_duration=False
    ),
    AudioFormat.M4A: Encoding(("-c:a", "aac", "-movflags", "+faststart", "-f", "ipod"), _AAC_RATES_HZ),
    AudioFormat.OGG: Encoding(("-c:a", "libvorbis", "-f", "ogg")),
}


def check_format(audio_format: AudioFormat, sample_rate_hz: int, channels: int) -> None:
    """Raises InvalidInput naming the field for a rate or channel count that the format cannot carry."""
    encoding = ENCODINGS[audio_format]
    if encoding.rates_hz and sample_rate_hz not in encoding.rates_hz:
        allowed = ", ".join(str(rate) for rate in encoding.rates_hz)
        raise InvalidInput(f"sample_rate: {audio_format} can have one of {allowed}", field="sample_rate")
    if channels > encoding.max_channels:
        raise InvalidInput(
            f"channels: {audio_format} can have at most {encoding.max_channels}", field="channels"
        )


def resample_arguments(sample_rate_hz: int, channels: int) -> tuple[str, ...]:
    """Ffmpeg arguments that put the first sound stream on the clock of its file.

    Silence is added where the sound starts late or has gaps, so that times stay those of the video.
    """
    filters = f"aresample={sample_rate_hz}:async=1:first_pts=0"
    return ("-map", "0:a:0", "-af", filters, "-ac", str(channels), "-ar", str(sample_rate_hz))
