"""Video as streams in bounded memory: decode frames, encode H.264 MP4, join parts and add sound.

Frames are (H, W, 3) uint8 RGB as shown (rotation applied). Times are exact Fractions in seconds since
the start of the file: the earliest start of its first video and audio stream.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

from models.engine import InvalidInput, PermanentFailure
from models.media import (
    BT709,
    Color,
    color_of,
    decoded_frames,
    frame_rate,
    main_audio,
    main_video,
    open_media,
    rotation_of,
)

# Sound that an MP4 carries as it is; anything else is encoded to AAC.
COPIED_AUDIO = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"})
_AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_AAC_BITS_PER_S_PER_CHANNEL = 96_000
# Without mbtree the same frames give the same file: x264's AVX-512 code for it reads what nobody wrote.
# CRF 17 then looks as 16 did with it; 18 costs an upscaled film what the network won (0.2 dB).
_X264 = {"crf": "17", "preset": "veryfast", "x264-params": "mbtree=0"}
_SWS = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
_MAX_TIMESCALE = 1_000_000
_START_MARK = "starts at second "

TimedFrame = tuple[np.ndarray, Fraction]  # (H, W, 3) uint8 RGB, and its time in seconds


@dataclass(frozen=True, slots=True)
class VideoForm:
    """What a written video looks like. Sides are even, as 4:2:0 needs; `time_base` is one tick in seconds."""

    width_px: int
    height_px: int
    fps: Fraction
    time_base: Fraction
    color: Color = BT709
    sample_aspect_ratio: Fraction = Fraction(1)


def even(size_px: float | Fraction) -> int:
    """The even number nearest to `size_px` (a tie goes up), at least 2."""
    return max(2, 2 * int(Fraction(size_px) / 2 + Fraction(1, 2)))


def decode_video(path: Path) -> Iterator[TimedFrame]:
    """Frames of the first video stream with their times, which increase strictly.

    Damaged packets are skipped, as players do. Raises InvalidInput when there is no video stream.
    """
    with open_media(path) as container:
        stream = _video_or_refuse(container, path)
        stream.thread_type = "AUTO"
        start_s, tick_s = start_of(container), Fraction(stream.time_base)
        step_s = 1 / frame_rate(stream)
        next_s, earliest_s, size = Fraction(0), Fraction(0), None
        for frame in decoded_frames(container, stream):
            size = size or (frame.width, frame.height)
            time_s = next_s if frame.pts is None else frame.pts * tick_s - start_s
            time_s = max(time_s, earliest_s)
            next_s, earliest_s = time_s + step_s, time_s + tick_s
            yield _to_rgb(frame, size), time_s


def tick_of(path: Path) -> Fraction:
    """The time base of the first video stream: one tick in seconds, in which its times are exact."""
    with open_media(path) as container:
        return Fraction(_video_or_refuse(container, path).time_base)


def start_of(container: Any) -> Fraction:
    """The earliest start in seconds of the first video and audio stream of a PyAV container."""
    streams = [stream for stream in (main_video(container), main_audio(container)) if stream is not None]
    starts = [stream.start_time * stream.time_base for stream in streams if stream.start_time is not None]
    return Fraction(min(starts, default=0))


class VideoWriter(AbstractContextManager["VideoWriter"]):
    """Writes one H.264 MP4 (yuv420p, index first) from frames; not for concurrent use.

    Leaving the `with` block by an exception removes the unfinished file.
    """

    def __init__(
        self, path: Path, form: VideoForm, *, threads: int = 0, start_s: Fraction = Fraction(0)
    ) -> None:
        """`start_s` is subtracted from the times of the frames and told in the file (see `mux`)."""
        self.path = path
        self.num_frames = 0
        self._form = form
        self._start_s = start_s
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._container.metadata["comment"] = f"{_START_MARK}{start_s}"
        self._stream = self._container.add_stream("libx264", rate=form.fps, options=dict(_X264))
        self._configure(self._stream.codec_context, threads)

    def write(self, frame: np.ndarray, time_s: Fraction) -> None:
        """Append a (H, W, 3) uint8 RGB frame; times must increase by at least one tick."""
        form = self._form
        if frame.shape != (form.height_px, form.width_px, 3):
            raise ValueError(f"frame {frame.shape} does not fit {form.height_px}x{form.width_px}x3")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=form.color.matrix,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=_SWS,
            threads=1,
        )
        picture.color_range = ColorRange.MPEG
        picture.colorspace = form.color.matrix
        picture.time_base = form.time_base
        picture.pts = round((time_s - self._start_s) / form.time_base)
        self._mux(self._stream.encode(picture))
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file; without a frame nothing is written."""
        if self.num_frames:
            self._mux(self._stream.encode(None))
        self._container.close()
        if not self.num_frames:
            self.path.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        self._container.close()
        self.path.unlink(missing_ok=True)

    def _configure(self, codec: Any, threads: int) -> None:
        form = self._form
        codec.width, codec.height, codec.pix_fmt = form.width_px, form.height_px, "yuv420p"
        codec.time_base = self._stream.time_base = form.time_base
        codec.sample_aspect_ratio = form.sample_aspect_ratio
        codec.color_range = ColorRange.MPEG
        codec.colorspace = form.color.matrix
        codec.color_primaries = form.color.primaries
        codec.color_trc = form.color.transfer
        codec.thread_count = threads

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            if not packet.duration:
                packet.duration = max(1, round(1 / self._form.fps / packet.time_base))
            self._container.mux(packet)


class ChunkWriter(AbstractContextManager["ChunkWriter"]):
    """Writes a video as closed MP4 files of `chunk_frames` frames below `folder`, to be joined by `mux`.

    `on_chunk` sees the path of each finished file. An exception removes the file in work only.
    """

    def __init__(
        self,
        folder: Path,
        form: VideoForm,
        *,
        chunk_frames: int,
        on_chunk: Callable[[Path], None],
        threads: int = 0,
    ) -> None:
        self.chunks: list[Path] = []
        self._folder, self._form, self._threads = folder, form, threads
        self._chunk_frames = chunk_frames
        self._on_chunk = on_chunk
        self._open: VideoWriter | None = None

    def write(self, frame: np.ndarray, time_s: Fraction) -> None:
        """Append a (H, W, 3) uint8 RGB frame; times must increase by at least one tick."""
        if self._open is None:
            path = self._folder / f"chunk-{len(self.chunks):06d}.mp4"
            self._open = VideoWriter(path, self._form, threads=self._threads, start_s=time_s)
        self._open.write(frame, time_s)
        if self._open.num_frames >= self._chunk_frames:
            self.close()

    def close(self) -> None:
        """Finish the chunk in work, if there is one."""
        writer, self._open = self._open, None
        if writer is not None:
            writer.close()
            self.chunks.append(writer.path)
            self._on_chunk(writer.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._open is not None:
            self._open.__exit__(kind, error, trace)


def mux(
    chunks: Sequence[Path],
    audio_source: Path | None,
    output: Path,
    *,
    is_audio_cut: bool = False,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Join videos written by VideoWriter with one VideoForm, without encoding, into one MP4 with sound.

    The first audio stream of `audio_source` keeps its offset to the pictures. It is copied packet by
    packet where MP4 can carry it, else encoded to AAC; `is_audio_cut` ends it with the last picture.
    `check` is called per packet and may raise to stop.
    """
    if not chunks:
        raise PermanentFailure("there is no video to join")
    with ExitStack() as stack:
        sound = _sound_of(audio_source, stack) if audio_source is not None else None
        options = {"movflags": "+faststart", "movie_timescale": str(_movie_timescale(chunks[0]))}
        target = stack.enter_context(av.open(str(output), "w", format="mp4", options=options))
        with av.open(str(chunks[0])) as first:
            video_stream = target.add_stream_from_template(first.streams.video[0])
        tracks = [_joined_packets(chunks, video_stream)]
        if sound is not None:
            end_s = _end_of(chunks[-1]) if is_audio_cut else None
            tracks.append(_sound_packets(sound, target, end_s))
        for packet in heapq.merge(*tracks, key=_decode_time_s):
            check()
            target.mux(packet)


def concat_chunks(chunks: Sequence[Path], audio_source: Path | None, output: Path) -> int:
    """Join finished chunks, in order of their names, with sound of the same length; the frame count."""
    ordered = sorted(chunks, key=lambda chunk: chunk.name)
    mux(ordered, audio_source, output, is_audio_cut=True)
    with av.open(str(output)) as container:
        return int(container.streams.video[0].frames)


def _video_or_refuse(container: Any, path: Path) -> Any:
    stream = main_video(container)
    if stream is None:
        raise InvalidInput(f"{path.name} has no video stream")
    return stream


def _to_rgb(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright, of a frame that is scaled to the stream's first (width, height)."""
    is_full_range = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    picture = frame.reformat(
        width=size[0],
        height=size[1],
        format="rgb24",
        src_colorspace=color_of(frame).matrix,
        src_color_range=ColorRange.JPEG if is_full_range else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=_SWS,
        threads=1,
    )
    turned = np.rot90(picture.to_ndarray(), rotation_of(frame) // 90)  # (H, W, 3)
    return np.ascontiguousarray(turned)


def _joined_packets(chunks: Sequence[Path], target: Any) -> Iterator[Any]:
    """Packets of all chunks at their times in the whole video.

    Each chunk starts with decode times before its first picture. Where a variable rate makes them reach
    into the chunk before, they are moved up to follow it: there is always room, since the last decode
    time of a chunk lies as many pictures before its end as the next one's first lies before its start.
    """
    last_dts = None
    for chunk in chunks:
        with av.open(str(chunk)) as container:
            stream = container.streams.video[0]
            shift = round(_start_s_of(container) / stream.time_base)
            for packet in container.demux(stream):
                if packet.dts is None:
                    continue
                packet.pts += shift
                packet.dts += shift
                if last_dts is not None:
                    packet.dts = max(packet.dts, last_dts + 1)
                last_dts = packet.dts
                packet.stream = target
                yield packet


def _start_s_of(container: Any) -> Fraction:
    """The second of the whole video at which a chunk starts, as VideoWriter told it."""
    return Fraction(container.metadata.get("comment", "").removeprefix(_START_MARK) or 0)


def _end_of(chunk: Path) -> Fraction:
    """The second of the whole video at which the last picture of a chunk ends."""
    with av.open(str(chunk)) as container:
        stream = container.streams.video[0]
        return _start_s_of(container) + Fraction(stream.duration * stream.time_base)


def _movie_timescale(chunk: Path) -> int:
    """Ticks per second of the file's own clock, in which the offset of a late first picture is written."""
    with av.open(str(chunk)) as container:
        ticks_per_s = container.streams.video[0].time_base.denominator
    return int(ticks_per_s) if ticks_per_s <= _MAX_TIMESCALE else _MAX_TIMESCALE


def _sound_of(source: Path, stack: ExitStack) -> Any | None:
    """The first audio stream of `source`, whose container `stack` closes."""
    return main_audio(stack.enter_context(open_media(source)))


def _sound_packets(sound: Any, target: Any, end_s: Fraction | None) -> Iterator[Any]:
    """Audio packets for `target`, copied or encoded; adds their stream to it at once."""
    start_s = start_of(sound.container)
    until_s = None if end_s is None else end_s + start_s
    if sound.codec_context.name.removesuffix("float") in COPIED_AUDIO:
        return _copied_packets(sound, target.add_stream_from_template(sound), start_s, until_s)
    return _encoded_packets(sound, _add_aac(sound, target), start_s, until_s)


def _copied_packets(sound: Any, stream: Any, start_s: Fraction, until_s: Fraction | None) -> Iterator[Any]:
    shift = round(start_s / sound.time_base)
    for packet in sound.container.demux(sound):
        if packet.dts is None:
            continue
        if until_s is not None and packet.pts * packet.time_base >= until_s:
            return
        packet.pts -= shift
        packet.dts -= shift
        packet.stream = stream
        yield packet


def _add_aac(sound: Any, target: Any) -> Any:
    rate_hz = min(_AAC_RATES_HZ, key=lambda rate: abs(rate - sound.codec_context.sample_rate))
    stream = target.add_stream("aac", rate=rate_hz, layout=_named(sound.codec_context.layout))
    stream.bit_rate = _AAC_BITS_PER_S_PER_CHANNEL * stream.layout.nb_channels
    return stream


def _named(layout: Any) -> Any:
    """A layout that the encoder takes: many a WAV tells how many channels it has, and not which."""
    return f"{layout.nb_channels}c" if layout.name.endswith(" channels") else layout


def _encoded_packets(sound: Any, stream: Any, start_s: Fraction, until_s: Fraction | None) -> Iterator[Any]:
    codec = stream.codec_context
    codec.open()
    resampler = av.AudioResampler(codec.format, codec.layout, codec.sample_rate, codec.frame_size)
    for frame in _audio_frames(sound, until_s):
        for part in resampler.resample(frame):
            yield from _encode_part(part, stream, start_s)
    for part in resampler.resample(None):
        yield from _encode_part(part, stream, start_s)
    yield from stream.encode(None)


def _audio_frames(sound: Any, until_s: Fraction | None) -> Iterator[Any]:
    for frame in decoded_frames(sound.container, sound):
        if until_s is not None and frame.pts is not None and frame.pts * frame.time_base >= until_s:
            return
        yield frame


def _encode_part(part: Any, stream: Any, start_s: Fraction) -> Iterator[Any]:
    if part.pts is not None:
        part.pts -= round(start_s / part.time_base)
    yield from stream.encode(part)


def _decode_time_s(packet: Any) -> Fraction:
    return Fraction(packet.dts * packet.time_base)
