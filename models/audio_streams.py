"""Sound as a stream of samples in bounded memory: decode any file to blocks, encode blocks to a file.

Samples are (C, L) float32, -1..1, unless a line says otherwise. Times are those of the file, from 0 on:
silence stands where the sound starts late or has gaps, as in `audio_formats.resample_arguments`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

from models.audio_formats import ENCODINGS, AudioFormat
from models.engine import InvalidInput, RunContext
from models.ffmpeg_run import run_ffmpeg
from models.media import decoded_frames, main_audio, open_media

_LOSSLESS: dict[AudioFormat, tuple[str, dict[str, str]]] = {  # codec, and options of the container
    AudioFormat.WAV: ("pcm_s16le", {"rf64": "auto"}),
    AudioFormat.FLAC: ("flac", {}),
}
_LAYOUTS = {1: "mono", 2: "stereo"}
_MAX_STEP_S = 10.0  # a longer step of the clock may be no gap but a new count; ffmpeg's dts_delta_threshold
_MAX_FILLED_S = 1.0  # a longer gap is not left to the filter, which would make all of its silence at once


def decode_audio(
    path: Path, *, rate_hz: int, channels: int, block_s: float, check: Callable[[], None] = lambda: None
) -> Iterator[np.ndarray]:
    """Blocks of `block_s` seconds of the first sound stream, resampled and mixed to 1 or 2 channels.

    The last block is shorter; a file whose stream has no sample yields none. Packets that do not decode
    become silence. `check` is called between packets, and for each second of a gap. Raises InvalidInput for
    what is no sound.
    """
    size = round(block_s * rate_hz)
    with ExitStack() as stack:
        kept, length = [], 0
        for piece in _pieces(path, rate_hz, channels, check, stack):
            kept.append(piece)
            length += piece.shape[1]
            while length >= size:
                joined = np.concatenate(kept, axis=1)  # (C, >= size)
                yield joined[:, :size]
                kept, length = [joined[:, size:]], length - size
        if length:
            yield np.concatenate(kept, axis=1)


def read_audio(
    path: Path, *, rate_hz: int, channels: int, check: Callable[[], None] = lambda: None
) -> np.ndarray:
    """The whole sound, (C, L); for engines that need all of it at once. Raises InvalidInput."""
    blocks = list(decode_audio(path, rate_hz=rate_hz, channels=channels, block_s=30.0, check=check))
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((channels, 0), np.float32)


def stated_length_s(path: Path) -> float:
    """The seconds that the container says it lasts; 0.0 where it does not say. Raises InvalidInput."""
    with open_media(path) as container:
        return container.duration / av.time_base if container.duration else 0.0


@contextmanager
def of_field(field: str) -> Iterator[None]:
    """Names the input that an InvalidInput of this module is about."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(str(error), field=field) from error


class AudioWriter:
    """Encodes blocks of (C, L) float32 to a WAV or FLAC file of 16 bits; `transcode` makes the other formats.

    Leaving the `with` block on an error leaves half a file.
    """

    def __init__(self, path: Path, audio_format: AudioFormat, *, rate_hz: int, channels: int) -> None:
        codec, options = _LOSSLESS[audio_format]
        self._layout = _LAYOUTS[channels]
        self._rate_hz = rate_hz
        self._written = 0
        self._container = av.open(str(path), "w", format=str(audio_format), options=options)
        self._stream: Any = self._container.add_stream(codec, rate=rate_hz)
        self._stream.layout = self._layout
        self._stream.format = "s16"
        self._resampler = av.AudioResampler("s16", self._layout, rate_hz)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._container:
            if kind is None:
                self._container.start_encoding()  # a file of no samples has a header too
                self._encode(None)
                self._container.mux(self._stream.encode(None))

    def write(self, samples: np.ndarray) -> None:
        """Append a block; samples outside -1..1 are clipped."""
        if not samples.shape[1]:
            return
        block = np.ascontiguousarray(np.clip(samples, -1.0, 1.0), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=self._layout)
        frame.sample_rate = self._rate_hz
        frame.pts = self._written
        frame.time_base = Fraction(1, self._rate_hz)
        self._written += block.shape[1]
        self._encode(frame)

    def _encode(self, frame: Any) -> None:
        for converted in self._resampler.resample(frame):
            self._container.mux(self._stream.encode(converted))


def transcode(context: RunContext, source: Path, target: Path, audio_format: AudioFormat, field: str) -> None:
    """Write a sound file of ours in another format; `field` is the input that a failure is told of."""
    arguments = ("-i", f"file:{source.absolute()}", *ENCODINGS[audio_format].arguments)
    run_ffmpeg(
        context, ("-threads", str(context.threads), *arguments, f"file:{target.absolute()}"), field=field
    )


def _pieces(
    path: Path, rate_hz: int, channels: int, check: Callable[[], None], stack: ExitStack
) -> Iterator[np.ndarray]:
    """Resampled pieces of any length, (C, L) float32."""
    container = stack.enter_context(open_media(path))
    stream = main_audio(container)
    if stream is None:
        raise InvalidInput(f"{path.name} has no audio stream")
    clock, resampled = _Clock(container), _Resampled(rate_hz, channels, check)
    for frame in decoded_frames(container, stream, check):
        yield from resampled.of(frame, clock.time_of(frame))
    yield from resampled.rest()


class _Clock:
    """When frames sound, in seconds from the start of their file.

    Files count from anywhere, and those that were joined start again. So a step of more than 10 s back, or
    past the end that the file states, is a new count and no gap: the sound goes on there. In broadcasts,
    whose count may jump at any moment, every step of more than 10 s is one.
    """

    def __init__(self, container: Any) -> None:
        self._jumps = bool(container.format.flags & av.format.Flags.ts_discont.value)
        length_s = container.duration / av.time_base if container.duration else math.inf
        self._offset_s = -(container.start_time or 0) / av.time_base
        self._gaps_end_s = length_s
        self._next_s = 0.0

    def time_of(self, frame: Any) -> float:
        """Call it for each frame in turn; one without a time follows the one before."""
        time_s = self._next_s
        if frame.pts is not None:
            told_s = float(frame.pts * frame.time_base)
            if self._is_new_count(told_s + self._offset_s):
                self._offset_s = self._next_s - told_s
            time_s = told_s + self._offset_s
        self._next_s = time_s + frame.samples / frame.sample_rate
        self._gaps_end_s = 0.0 if self._jumps else self._gaps_end_s  # from the first frame on
        return time_s

    def _is_new_count(self, time_s: float) -> bool:
        step_s = time_s - self._next_s
        return step_s < -_MAX_STEP_S or (step_s > _MAX_STEP_S and time_s > self._gaps_end_s)


class _Resampled:
    """A filter graph on the clock of the file; made anew where the form changes, or after a long gap."""

    def __init__(self, rate_hz: int, channels: int, check: Callable[[], None]) -> None:
        self._rate_hz = rate_hz
        self._channels = channels
        self._check = check
        self._made = 0  # samples, at rate_hz
        self._end_s = 0.0  # of what was pushed
        self._form: tuple[int, str, str] | None = None
        self._graph: Any = None
        self._sink: Any = None

    def of(self, frame: Any, time_s: float) -> Iterator[np.ndarray]:
        form = (frame.sample_rate, frame.format.name, frame.layout.name)
        is_far = time_s - self._end_s > _MAX_FILLED_S
        if form != self._form or is_far:
            yield from self.rest()
            if is_far:
                yield from self._silence(time_s)
            self._open(form)
        frame.time_base = Fraction(1, frame.sample_rate)
        frame.pts = round(time_s * frame.sample_rate)
        self._end_s = time_s + frame.samples / frame.sample_rate
        self._graph.push(frame)
        yield from self._pulled()

    def rest(self) -> Iterator[np.ndarray]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pulled()
            self._graph = None

    def _silence(self, until_s: float) -> Iterator[np.ndarray]:
        while (lacking := round(until_s * self._rate_hz) - self._made) > 0:
            self._check()
            size = min(lacking, self._rate_hz)
            self._made += size
            yield np.zeros((self._channels, size), np.float32)

    def _open(self, form: tuple[int, str, str]) -> None:
        self._form = form
        rate_hz, sample_format, layout = form
        graph = av.filter.Graph()
        source = graph.add_abuffer(
            sample_rate=rate_hz, format=sample_format, layout=layout, time_base=Fraction(1, rate_hz)
        )
        first = round(self._made * rate_hz / self._rate_hz)  # in samples of the source
        clock = graph.add("aresample", f"{self._rate_hz}:async=1:first_pts={first}")
        shape = graph.add(
            "aformat",
            f"sample_fmts=fltp:sample_rates={self._rate_hz}:channel_layouts={_LAYOUTS[self._channels]}",
        )
        self._sink = graph.add("abuffersink")
        for left, right in ((source, clock), (clock, shape), (shape, self._sink)):
            left.link_to(right)
        graph.configure()
        self._graph = graph

    def _pulled(self) -> Iterator[np.ndarray]:
        while True:
            try:
                frame = self._sink.pull()
            except (av.BlockingIOError, av.EOFError, BlockingIOError, EOFError):
                return
            self._made += frame.samples
            yield np.nan_to_num(frame.to_ndarray(), nan=0.0, posinf=0.0, neginf=0.0)
