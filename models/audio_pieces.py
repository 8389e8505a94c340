"""Sound as PCM on disk, and files cut from it exactly by sample. Memory does not grow with length."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from models.audio_formats import ENCODINGS, AudioFormat, resample_arguments
from models.disk import disk_errors
from models.engine import InvalidInput, RunContext
from models.ffmpeg_run import report_seconds, run_ffmpeg
from models.media import input_arguments

_SAMPLE_BYTES = 2
_READ_BYTES = 1 << 20
_BATCH = 16  # files that one run of ffmpeg encodes


@dataclass(frozen=True, slots=True)
class Pcm:
    """Interleaved signed 16-bit little-endian samples in a file; `num_samples` counts one channel."""

    path: Path
    rate_hz: int
    channels: int
    num_samples: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A file to write, and its range of samples."""

    path: Path
    start: int
    stop: int


def decode_pcm(context: RunContext, source: Path, rate_hz: int, channels: int, *, total_s: float) -> Pcm:
    """Decode the first sound stream of `audio_path` to scratch. Raises InvalidInput without any sample."""
    target = context.scratch_dir / "decoded.pcm"
    arguments = (
        *("-threads", str(context.threads), *input_arguments(source)),
        *resample_arguments(rate_hz, channels),
        *("-c:a", "pcm_s16le", "-f", "s16le", f"file:{target.absolute()}"),
    )
    on_progress = report_seconds(context, total_s, "decode")
    run_ffmpeg(context, arguments, field="audio_path", on_progress=on_progress)
    num_samples = target.stat().st_size // (_SAMPLE_BYTES * channels)
    if not num_samples:
        raise InvalidInput(f"no sound of {source.name} could be decoded", field="audio_path")
    return Pcm(target, rate_hz, channels, num_samples)


def write_pieces(context: RunContext, pcm: Pcm, pieces: Sequence[Piece], audio_format: AudioFormat) -> None:
    """Write every piece, in order; folders are made."""
    total_s = sum(piece.stop - piece.start for piece in pieces) / pcm.rate_hz
    done_s = 0.0
    for first in range(0, len(pieces), _BATCH):
        batch = pieces[first : first + _BATCH]
        with disk_errors(), pcm.path.open("rb") as sound:
            for piece in batch:
                piece.path.parent.mkdir(parents=True, exist_ok=True)
                target = piece.path if audio_format is AudioFormat.WAV else _raw(context, piece)
                _write_wav(context, sound, pcm, piece, target)
        if audio_format is not AudioFormat.WAV:
            _encode(context, batch, audio_format)
        done_s += sum(piece.stop - piece.start for piece in batch) / pcm.rate_hz
        context.report(done_s, total_s, stage="cut", unit="s")


def _raw(context: RunContext, piece: Piece) -> Path:
    return context.scratch_dir / f"{piece.path.stem}.wav"


def _write_wav(context: RunContext, sound: BinaryIO, pcm: Pcm, piece: Piece, target: Path) -> None:
    frame_bytes = _SAMPLE_BYTES * pcm.channels
    sound.seek(piece.start * frame_bytes)
    left_bytes = (piece.stop - piece.start) * frame_bytes
    with wave.open(str(target), "wb") as writer:
        writer.setparams((pcm.channels, _SAMPLE_BYTES, pcm.rate_hz, piece.stop - piece.start, "NONE", ""))
        while left_bytes:
            context.check()
            block = sound.read(min(left_bytes, _READ_BYTES - _READ_BYTES % frame_bytes))
            writer.writeframesraw(block)
            left_bytes -= len(block)


def _encode(context: RunContext, batch: Sequence[Piece], audio_format: AudioFormat) -> None:
    """One run of ffmpeg with an input and an output for each piece."""
    raws = [_raw(context, piece) for piece in batch]
    arguments: list[str] = []
    for raw in raws:
        arguments += ["-f", "wav", "-i", f"file:{raw.absolute()}"]
    for index, piece in enumerate(batch):
        encoding = ENCODINGS[audio_format].arguments
        arguments += [
            "-map",
            f"{index}:a",
            "-threads",
            str(context.threads),
            *encoding,
            f"file:{piece.path.absolute()}",
        ]
    run_ffmpeg(context, arguments, field="audio_path")
    for raw in raws:
        raw.unlink()
