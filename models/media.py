"""Media facts: what a file contains. Axis letters, units and ranges are defined here.

Axis letters used throughout `models/`: B batch, T frames, C channels, H and W pixels, L audio samples.
Frames are (T, H, W, 3) uint8 RGB, 0..255 at the borders of this module unless a line says otherwise.

Files come from callers, so a container is opened with a list of allowed formats and protocols:
playlists and scripts (HLS, DASH, concat, SDP, AviSynth), which could name other files or addresses,
are refused before they are read. `input_arguments` says the same to the ffmpeg program.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import av

from models.engine import InvalidInput, ModelNotReady

# Comma lists of libavformat demuxers that read one stored file; none that refers to others.
IMAGE_FORMATS = "apng,bmp_pipe,gif,gif_pipe,jpeg_pipe,png_pipe,tiff_pipe,webp,webp_anim,webp_pipe"
VIDEO_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,mxf,ivf,dv,ogg,nut"
)
AUDIO_FORMATS = "wav,w64,mp3,flac,aac,ac3,eac3,aiff,caf,amr,au,wv,ape,tta"
_FORMAT_WHITELIST = ",".join((VIDEO_FORMATS, AUDIO_FORMATS, IMAGE_FORMATS))
_MAX_FRAME_PX = 1 << 27  # a small file may claim any size; this bounds what one decoded picture takes
_PROBE_BYTES = 64 << 20  # how far into a file the first frame and sample may lie
_SIGNATURE_BYTES = 8
_MIN_FFMPEG = (5, 1)  # the first with -fps_mode
_FFMPEG_RELEASE = re.compile(r"ffmpeg version n?(\d+)\.(\d+)")
_FFMPEG_ANSWERS_S = 10.0
_RGB_MATRIX = 0
_YUV_MATRICES = frozenset({1, 4, 5, 6, 7, 9})
_UNSPECIFIED = frozenset({0, 2, 3})


@dataclass(frozen=True, slots=True)
class Color:
    """Code points of ITU-T H.273: how the luma and chroma of a stream make light."""

    matrix: int
    primaries: int
    transfer: int


BT709 = Color(1, 1, 1)
BT601 = Color(6, 6, 6)


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """The first video stream. Width and height are as shown (rotation applied).

    `rotation_deg` is the counterclockwise turn that was applied: 0, 90, 180 or 270. `fps` is the
    average rate, 0 for images. `num_frames` is what the container says, None when it does not.
    """

    width_px: int
    height_px: int
    fps: Fraction
    num_frames: int | None
    duration_s: float
    codec: str
    pixel_format: str
    rotation_deg: int
    bit_rate: int | None
    sample_aspect_ratio: Fraction = Fraction(1)
    color: Color = BT709


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """The first audio stream."""

    sample_rate_hz: int
    channels: int
    duration_s: float
    codec: str


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a file contains; `image` kinds are a video of one frame without duration."""

    container: str
    duration_s: float
    size_bytes: int
    bit_rate: int | None
    video: VideoFacts | None
    audio: AudioFacts | None
    is_image: bool = False


@lru_cache(maxsize=1)
def ffmpeg_path() -> str:
    """The ffmpeg program: the one on PATH if it is 5.1 or later, else the one in the imageio-ffmpeg wheel."""
    found = shutil.which("ffmpeg")
    if found and _is_new(_version_text(found)):
        return found
    import imageio_ffmpeg  # noqa: PLC0415 - only where PATH has none

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        text = "no ffmpeg program: install ffmpeg 5.1 or later, or pip install imageio-ffmpeg"
        raise ModelNotReady(text) from error


def ffmpeg_version() -> str:
    """What the ffmpeg program calls its version: a release, a distribution's build of it, or a commit."""
    told = (_version_text(ffmpeg_path()) or "").split(maxsplit=3)
    return told[2] if len(told) > 2 else ""


def _is_new(told: str | None) -> bool:
    """Whether a program that told this runs and is no release before 5.1; other builds count as new."""
    if told is None:
        return False
    release = _FFMPEG_RELEASE.match(told)
    return release is None or (int(release[1]), int(release[2])) >= _MIN_FFMPEG


def _version_text(program: str) -> str | None:
    """What it says of its version; None where it does not run."""
    try:
        return subprocess.run(  # noqa: S603 - the program that PATH names, no shell
            [program, "-version"], capture_output=True, check=True, timeout=_FFMPEG_ANSWERS_S
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None


def input_arguments(path: Path) -> tuple[str, ...]:
    """The ffmpeg arguments that read a caller's file, and nothing that it may point to."""
    whitelists = ("-protocol_whitelist", "file,pipe", "-format_whitelist", _FORMAT_WHITELIST)
    forced = _forced_format(path)
    return (*whitelists, *(("-f", forced) if forced else ()), "-i", f"file:{path.absolute()}")


def open_media(source: Path | BinaryIO) -> Any:
    """An open PyAV input container, to be closed by the caller. Raises InvalidInput."""
    name = _name_of(source)
    if size_bytes(source) == 0:
        raise InvalidInput(f"{name} has zero bytes")
    options = {
        "format_whitelist": _FORMAT_WHITELIST,
        "protocol_whitelist": "file" if isinstance(source, Path) else "none",
        "max_pixels": str(_MAX_FRAME_PX),
    }
    target = f"file:{source.absolute()}" if isinstance(source, Path) else source
    try:
        return av.open(target, format=_forced_format(source), options=options)
    except (av.FFmpegError, ValueError) as error:
        raise InvalidInput(_refusal(source, name, error)) from error


def probe(source: Path | BinaryIO) -> MediaInfo:
    """Open the container, decode the first frame and sample, and tell what is inside.

    Raises InvalidInput for what cannot be decoded: no media, zero bytes, truncated before a frame.
    """
    with open_media(source) as container:
        video, audio = main_video(container), main_audio(container)
        if video is None and audio is None:
            raise InvalidInput(f"{_name_of(source)} is not a media file: no video or audio stream")
        first = _first_frames(container, [stream for stream in (video, audio) if stream is not None])
        if not first:
            raise InvalidInput(f"{_name_of(source)} {_why_nothing(source)}")
        is_image = container.format.name in IMAGE_FORMATS.split(",") and not _has_second_frame(
            container, video
        )
        video_frame, audio_frame = (first.get(s.index) if s is not None else None for s in (video, audio))
        return MediaInfo(
            container=container.format.name,
            duration_s=0.0 if is_image else _container_duration_s(container),
            size_bytes=size_bytes(source),
            bit_rate=container.bit_rate or None,
            video=_video_facts(video, video_frame, is_image=is_image) if video_frame else None,
            audio=_audio_facts(audio, audio_frame) if audio_frame else None,
            is_image=is_image,
        )


def count_frames(path: Path) -> int:
    """The exact number of coded pictures of the first video stream; reads the file, decodes nothing."""
    with open_media(path) as container:
        stream = main_video(container)
        if stream is None:
            return 0
        return sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)


def main_video(container: Any) -> Any | None:
    """The first video stream that is no cover picture and has a decoder, or None."""
    for stream in container.streams.video:
        is_cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
        if stream.codec_context is not None and not is_cover:
            return stream
    return None


def main_audio(container: Any) -> Any | None:
    """The first audio stream that has a decoder, or None."""
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


def decoded_frames(container: Any, stream: Any, check: Callable[[], None] = lambda: None) -> Iterator[Any]:
    """Decoded PyAV frames of a stream; `check` is called before each packet.

    A packet that does not decode is skipped, a container that breaks off ends there.
    """
    packets = container.demux(stream)
    while True:
        check()
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except (av.FFmpegError, ValueError):
            continue
        yield from frames


def rotation_of(frame: Any) -> int:
    """The counterclockwise turn in degrees that shows a decoded PyAV frame upright: 0, 90, 180, 270."""
    return round(frame.rotation / 90) * 90 % 360


def color_of(frame: Any) -> Color:
    """The colour of a decoded PyAV frame; where it says nothing, BT.709 from 720 lines on, else BT.601."""
    matrix = int(frame.colorspace)
    if matrix not in _YUV_MATRICES:
        return BT709 if frame.height >= 720 or matrix == _RGB_MATRIX else BT601
    usual = BT709 if matrix == BT709.matrix else Color(matrix, BT601.primaries, BT601.transfer)
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    return Color(
        matrix,
        usual.primaries if primaries in _UNSPECIFIED else primaries,
        usual.transfer if transfer in _UNSPECIFIED else transfer,
    )


def frame_rate(stream: Any) -> Fraction:
    """Average frames per second of a PyAV video stream; 25 where the container has no times."""
    rate = stream.average_rate or stream.guessed_rate
    return Fraction(rate) if rate else Fraction(25)


def size_bytes(source: Path | BinaryIO) -> int:
    """How long a file is; an open one stays where it stands."""
    if isinstance(source, Path):
        return source.stat().st_size
    position = source.tell()
    size = source.seek(0, 2)
    source.seek(position)
    return size


def _first_frames(container: Any, streams: list[Any]) -> dict[int, Any]:
    """The first decoded frame of each stream, by stream index; a stream without one is left out."""
    first: dict[int, Any] = {}
    for frame in _decoded(container, streams):
        first.setdefault(frame[0], frame[1])
        if len(first) == len(streams):
            break
    return first


def _decoded(container: Any, streams: list[Any]) -> Iterator[tuple[int, Any]]:
    """(stream index, frame) pairs of the first _PROBE_BYTES; packets that do not decode are skipped."""
    read_bytes = 0
    try:
        for packet in container.demux(streams):
            read_bytes += packet.size
            try:
                for frame in packet.decode():
                    yield packet.stream.index, frame
            except (av.FFmpegError, ValueError):
                continue
            if read_bytes > _PROBE_BYTES:
                return
    except av.FFmpegError:
        return


def _has_second_frame(container: Any, video: Any) -> bool:
    """Whether an image file is an animation: another packet follows the one already decoded."""
    try:
        return any(packet.size for packet in container.demux(video))
    except av.FFmpegError:
        return False


def _video_facts(stream: Any, frame: Any, *, is_image: bool) -> VideoFacts:
    rotation_deg = rotation_of(frame)
    is_turned = rotation_deg in {90, 270}
    pixel_aspect = Fraction(stream.sample_aspect_ratio or 1)
    return VideoFacts(
        width_px=frame.height if is_turned else frame.width,
        height_px=frame.width if is_turned else frame.height,
        fps=Fraction(0) if is_image else frame_rate(stream),
        num_frames=1 if is_image else stream.frames or None,
        duration_s=0.0 if is_image else _stream_duration_s(stream),
        codec=stream.codec_context.name,
        pixel_format=frame.format.name,
        rotation_deg=rotation_deg,
        bit_rate=stream.codec_context.bit_rate or None,
        sample_aspect_ratio=1 / pixel_aspect if is_turned else pixel_aspect,
        color=color_of(frame),
    )


def _audio_facts(stream: Any, frame: Any) -> AudioFacts:
    return AudioFacts(
        sample_rate_hz=frame.sample_rate,
        channels=frame.layout.nb_channels,
        duration_s=_stream_duration_s(stream),
        codec=stream.codec_context.name,
    )


def _stream_duration_s(stream: Any) -> float:
    if stream.duration is None:
        return _container_duration_s(stream.container)
    return float(stream.duration * stream.time_base)


def _container_duration_s(container: Any) -> float:
    return container.duration / av.time_base if container.duration else 0.0


def _name_of(source: Path | BinaryIO) -> str:
    """How a message calls the source: its file name, without the folders of this machine."""
    if isinstance(source, Path):
        return source.name
    name = getattr(source, "name", None)
    return Path(name).name if isinstance(name, str) else "the upload"


def _refusal(source: Path | BinaryIO, name: str, error: Exception) -> str:
    """Why a container did not open, for people: an mp4 without its index was cut, the rest is no media."""
    if _signature(source)[4:8] == b"ftyp":
        return f"{name} is truncated: no frame could be decoded (the index of the file is missing)"
    if isinstance(error, av.ArgumentError):
        return f"{name} is not a media file: playlists and other formats that refer to files are refused"
    return f"{name} is not a media file: {getattr(error, 'strerror', None) or error}"


def _why_nothing(source: Path | BinaryIO) -> str:
    """What keeps every frame of an open container from being decoded."""
    from models.pictures import has_more_pixels  # noqa: PLC0415 - PIL, which only such files need here

    if not isinstance(source, Path):
        source.seek(0)
    if has_more_pixels(source, _MAX_FRAME_PX):
        return f"has more than {_MAX_FRAME_PX} pixels: make it smaller"
    return "is empty, truncated or damaged: no picture and no sound could be decoded"


def _forced_format(source: Path | BinaryIO) -> str | None:
    """`jpeg_pipe` for JPEG, which by its file name would be read as a numbered image sequence."""
    return "jpeg_pipe" if _signature(source).startswith(b"\xff\xd8\xff") else None


def _signature(source: Path | BinaryIO) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(_SIGNATURE_BYTES)
    source.seek(0)
    signature = source.read(_SIGNATURE_BYTES)
    source.seek(0)
    return signature
