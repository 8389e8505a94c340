"""Frames of a video as JPEG files, sampled in time, named by the time at which they are shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from models.disk import disk_errors
from models.engine import InvalidInput, RunContext
from models.ffmpeg_run import report_seconds, run_ffmpeg
from models.media import MediaInfo, VideoFacts, count_frames, input_arguments, main_video, open_media

_JPEG_QUALITY = "2"  # of 2 (best) to 31
_TIME_IN_NAME = re.compile(r"_(-?\d+)ms\.jpg$")
_CHECK_PACKETS = 1000


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels; x1 and y1 are inside, x2 and y2 just outside."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def filter(self) -> str:
        return f"crop={self.x2 - self.x1}:{self.y2 - self.y1}:{self.x1}:{self.y1}:exact=1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePlan:
    """Which frames to write: the first one of each `step_s` of time, or every frame where it is None.

    A step that is shorter than a frame writes every frame once. Names are `{prefix}_{time}ms.jpg`,
    the time counted from the start of the video.
    """

    prefix: str
    threads: int
    step_s: float | None = None
    max_frames: int | None = None
    box: Box | None = None


def write_frames(
    context: RunContext, source: Path, folder: Path, plan: FramePlan, *, duration_s: float
) -> list[Path]:
    """One pass over the video. Raises InvalidInput when no frame of it could be decoded."""
    folder.mkdir(parents=True, exist_ok=True)
    on_progress = report_seconds(context, duration_s, "frames")
    arguments = _arguments(source, folder, plan)
    run_ffmpeg(context, arguments, field="video_path", on_progress=on_progress)
    return _found(folder, source)


def seek_frames(
    context: RunContext, source: Path, folder: Path, plan: FramePlan, *, times_s: list[float]
) -> list[Path]:
    """One frame at or after each time, by seeking: quicker than a pass where the times are far apart."""
    folder.mkdir(parents=True, exist_ok=True)
    landing = context.scratch_dir / "seek"
    landing.mkdir(exist_ok=True)
    for number, time_s in enumerate(times_s, start=1):
        seek = ("-ss", f"{time_s:.6f}")
        run_ffmpeg(context, (*seek, *_arguments(source, landing, plan)), field="video_path")
        with disk_errors():
            _move_landed(landing, folder, plan.prefix, offset_ms=round(time_s * 1000))
        context.report(number, len(times_s), stage="frames", unit="frames")
    return _found(folder, source)


def duration_of(path: Path, info: MediaInfo) -> float:
    """Seconds of the video stream; where the container does not say, its frames are counted."""
    video = video_facts(info)
    if info.is_image or video.duration_s > 0:
        return video.duration_s
    return count_frames(path) / float(video.fps)


def video_facts(info: MediaInfo) -> VideoFacts:
    """The video stream, which a check at submit has promised. Raises InvalidInput all the same."""
    if info.video is None:
        raise InvalidInput("video_path has no video stream", field="video_path")
    return info.video


def longest_key_gap_s(context: RunContext, path: Path) -> float:
    """The longest time between two pictures that decoding can start at. Reads the file, decodes nothing."""
    longest_s, latest_s = 0.0, None
    with open_media(path) as container:
        for number, packet in enumerate(container.demux(main_video(container))):
            if number % _CHECK_PACKETS == 0:
                context.check()
            if packet.pts is None:
                continue
            time_s = float(packet.pts * packet.time_base)
            longest_s = max(longest_s, time_s - (time_s if latest_s is None else latest_s))
            if packet.is_keyframe or latest_s is None:
                latest_s = time_s
    return longest_s


def time_of(image: Path) -> float:
    """The time in seconds that the name of a written frame tells."""
    found = _TIME_IN_NAME.search(image.name)
    if found is None:
        raise ValueError(f"not a frame image: {image.name}")
    return int(found[1]) / 1000


def _arguments(source: Path, folder: Path, plan: FramePlan) -> tuple[str, ...]:
    threads = ("-threads", str(plan.threads))
    limit = () if plan.max_frames is None else ("-frames:v", str(plan.max_frames))
    filters = [text for text in (_select(plan.step_s), plan.box.filter if plan.box else "") if text]
    # Milliseconds as time base put the time into the names; the image muxer itself would count.
    timing = ("-fps_mode", "passthrough", "-enc_time_base", "1:1000", "-frame_pts", "1")
    jpeg = ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", _JPEG_QUALITY)
    target = str(folder.absolute()).replace("%", "%%") + f"/{plan.prefix}_%09dms.jpg"
    return (
        *(*threads, *input_arguments(source), "-map", "0:V:0", *limit),
        *(("-vf", ",".join(filters)) if filters else ()),
        *(*jpeg, *threads, *timing, "-f", "image2", f"file:{target}"),
    )


def _select(step_s: float | None) -> str:
    """An ffmpeg filter that passes the first frame of each step of time.

    The microsecond added keeps a time that lies on a border, such as 0.12 / 0.04, in its own step.
    """
    if step_s is None:
        return ""
    step = f"{step_s:.9f}"
    this, last = (f"floor(({name}+0.000001)/{step})" for name in ("t", "prev_selected_t"))
    return f"select='isnan(prev_selected_t)+gt({this},{last})'"


def _move_landed(landing: Path, folder: Path, prefix: str, *, offset_ms: int) -> None:
    """Move what one seek wrote, its time counted from the start of the video again."""
    for image in landing.glob("*.jpg"):
        time_ms = offset_ms + round(time_of(image) * 1000)
        image.replace(folder / f"{prefix}_{time_ms:09d}ms.jpg")


def _found(folder: Path, source: Path) -> list[Path]:
    images = sorted(folder.glob("*.jpg"), key=time_of)
    if not images:
        raise InvalidInput(f"no frame of {source.name} could be decoded", field="video_path")
    return images
