"""paddleocr.detect_subtitle_area: where the subtitles of a video stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.engine import (
    Engine,
    InputFile,
    InvalidInput,
    MediaKind,
    ModelSpec,
    Resources,
    Result,
    RunContext,
)
from models.ffmpeg_run import probe_input
from models.frame_images import Box, FramePlan, duration_of, longest_key_gap_s, seek_frames, write_frames
from models.media import MediaInfo
from models.ocr import OcrFiles, TextFinder, device_of, ocr_engines
from models.ocr_frames import frames_of_folder
from models.pictures import read_picture
from models.subtitle_area import SubtitleArea, find_subtitle_area

MAX_SAMPLES = 24
_SIDE_PX = 736
_SEEK_FROM_S = 8.0  # below, starting ffmpeg and decoding up to the frame costs more than one pass

Size = tuple[int, int]  # width and height in pixels


class AreaInputs(BaseModel):
    """Frames of a video, or the video."""

    model_config = ConfigDict(extra="forbid")

    keyframe_dir: Annotated[str | None, InputFile(MediaKind.FOLDER)] = Field(
        None,
        min_length=1,
        description="Folder of frames of one video, such as keyframe_dir of ffmpeg.extract_keyframes; "
        f"up to {MAX_SAMPLES} of them, evenly spread, are looked at. Other files in it are passed over.",
    )
    video_path: Annotated[str | None, InputFile(MediaKind.VIDEO)] = Field(
        None, min_length=1, description="The video itself, instead of keyframe_dir."
    )


@dataclass(frozen=True, slots=True)
class _Frames:
    """What the sampled frames show. All are of `size`; `num_passed_over` were not, or could not be read."""

    size: Size
    boxes: tuple[tuple[Box, ...], ...]
    num_passed_over: int


class AreaEngine(Engine):
    """Looks for text in up to 24 frames, one at a time; memory does not grow with the video."""

    def __init__(self, files_of: Callable[[Resources], OcrFiles]) -> None:
        self._files_of = files_of

    def load(self, resources: Resources) -> None:
        self._finder = TextFinder(self._files_of(resources), resources, side_px=_SIDE_PX)
        self._device = device_of(resources)

    def run(self, inputs: AreaInputs, context: RunContext) -> Result:
        check(inputs, {})
        source = "keyframe_dir" if inputs.keyframe_dir is not None else "video_path"
        pictures, num_others = _pictures(inputs, context)
        frames = self._look(pictures, source, context)
        width_px, height_px = frames.size
        area = find_subtitle_area(frames.boxes, width_px=width_px, height_px=height_px)
        return Result(
            {
                "subtitle_area": _corners(area.box),
                "confidence": area.confidence,
                "input_source": source,
                "frame_width": width_px,
                "frame_height": height_px,
                "sampled_frames": len(frames.boxes),
                "text_frames": area.num_text_frames,
                "device": self._device,
                "skipped_files": num_others + frames.num_passed_over,
                "notes": _notes(area, frames),
            }
        )

    def _look(self, pictures: Sequence[Path], source: str, context: RunContext) -> _Frames:
        """Raises InvalidInput where no picture can be read."""
        found: list[tuple[Size, tuple[Box, ...]]] = []
        for number, path in enumerate(pictures, start=1):
            picture = _picture_or_none(path, context)
            if picture is not None:
                found.append((picture.shape[1::-1], tuple(self._finder.find_boxes(picture, context.check))))
            context.report(number, len(pictures), stage="detect", unit="frames")
        if not found:
            raise InvalidInput(f"{source}: none of the pictures can be read", field=source)
        size = Counter(size for size, _ in found).most_common(1)[0][0]
        boxes = tuple(boxes for its_size, boxes in found if its_size == size)
        return _Frames(size, boxes, len(pictures) - len(boxes))


def check(inputs: AreaInputs, _media: Mapping[str, MediaInfo]) -> None:
    """Exactly one source."""
    if inputs.keyframe_dir is None and inputs.video_path is None:
        raise InvalidInput("give keyframe_dir or video_path", field="keyframe_dir")
    if inputs.keyframe_dir is not None and inputs.video_path is not None:
        raise InvalidInput("give keyframe_dir or video_path, not both", field="video_path")


def _pictures(inputs: AreaInputs, context: RunContext) -> tuple[list[Path], int]:
    """The pictures to look at, and how many files of the folder are none."""
    if inputs.video_path is not None:
        return _sampled(Path(inputs.video_path), context), 0
    found = frames_of_folder(Path(str(inputs.keyframe_dir)), "keyframe_dir", context.check)
    return spread([frame.path for frame in found.frames], MAX_SAMPLES), found.num_others


def spread(items: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the items, at even distances, from the middle of each share."""
    if len(items) <= count:
        return list(items)
    return [items[int((index + 0.5) * len(items) / count)] for index in range(count)]


def _sampled(video: Path, context: RunContext) -> list[Path]:
    """Frames of the video as JPEG files, evenly spread over its time."""
    duration_s = duration_of(video, probe_input(video, "video_path"))
    folder = context.scratch_dir / "frames"
    if duration_s <= 0:
        plan = FramePlan(prefix="frame", threads=context.threads, max_frames=MAX_SAMPLES)
        return write_frames(context, video, folder, plan, duration_s=duration_s)
    step_s = duration_s / MAX_SAMPLES
    if step_s >= _SEEK_FROM_S and longest_key_gap_s(context, video) <= step_s:
        times_s = [(index + 0.5) * step_s for index in range(MAX_SAMPLES)]
        plan = FramePlan(prefix="frame", threads=context.threads, max_frames=1)
        return seek_frames(context, video, folder, plan, times_s=times_s)
    plan = FramePlan(prefix="frame", threads=context.threads, step_s=step_s, max_frames=MAX_SAMPLES)
    return write_frames(context, video, folder, plan, duration_s=duration_s)


def _picture_or_none(path: Path, context: RunContext) -> np.ndarray | None:
    try:
        return read_picture(path)
    except InvalidInput as error:
        context.logger.warning("passed over: %s", error)
        return None


def _corners(box: Box | None) -> list[int] | None:
    return None if box is None else [box.x1, box.y1, box.x2, box.y2]


def _notes(area: SubtitleArea, frames: _Frames) -> list[str]:
    """What a caller may not expect of the result, in words."""
    width_px, height_px = frames.size
    size = f"{width_px}x{height_px} pixels"
    said = {
        area.note: bool(area.note),
        f"{frames.num_passed_over} pictures were passed over: damaged, or not {size}": (
            frames.num_passed_over > 0
        ),
    }
    return [text for text, applies in said.items() if applies]


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="paddleocr.detect_subtitle_area",
        title="Where the subtitles of a video stand",
        inputs=AreaInputs,
        engines=ocr_engines(AreaEngine),
        check=check,
        run_timeout_s=7200.0,
    ),
)
