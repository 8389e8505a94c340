"""ffmpeg.extract_keyframes: frames evenly spread over a video, as JPEG files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.archives import write_zip
from models.disk import disk_errors
from models.engine import DownloadUrl, InputFile, InvalidInput, MediaKind, ModelSpec, Result, RunContext
from models.ffmpeg_run import FfmpegEngine, ffmpeg_engine, probe_input
from models.frame_images import (
    FramePlan,
    duration_of,
    longest_key_gap_s,
    seek_frames,
    time_of,
    write_frames,
)

_MAX_FRAMES = 10_000  # each is a row of the task's record
_SEEK_FROM_S = 8.0  # below, starting ffmpeg and decoding up to the frame costs more than one pass


class KeyframeInputs(BaseModel):
    """What to sample, and what to publish of it."""

    model_config = ConfigDict(extra="forbid")

    video_path: Annotated[str, InputFile(MediaKind.VIDEO)] = Field(
        min_length=1, description="Video: an object key, s3:// or http(s) URL."
    )
    keyframe_sample_count: int = Field(
        100,
        ge=1,
        le=_MAX_FRAMES,
        description="Number of frames, evenly spread over the video; a video with fewer frames gives all.",
    )
    interval: float | None = Field(
        None,
        ge=0.01,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds between frames, from the start; takes the place of keyframe_sample_count. "
        f"At most {_MAX_FRAMES:,} frames of a video.",
    )
    upload_keyframes_to_minio: bool = Field(
        True,
        description="Publish the frames and keyframes.json. When false they are made and counted only, "
        "and keyframe_dir and keyframe_minio_url are null.",
    )
    compress_keyframes_before_upload: bool = Field(
        False,
        description="Publish an archive of the frames as well (or only it, when they are not published).",
    )
    keyframe_compression_format: Literal["zip"] = Field("zip", description="Format of the archive.")


class KeyframeEngine(FfmpegEngine):
    """Samples frames; files are named `keyframe_{milliseconds}ms.jpg`."""

    def run(self, inputs: KeyframeInputs, context: RunContext) -> Result:
        source = Path(inputs.video_path)
        is_published = inputs.upload_keyframes_to_minio
        folder = (context.output_dir if is_published else context.scratch_dir) / "keyframes"
        images = _sample(inputs, context, source, folder)
        if is_published:
            _write_manifest(context.output_dir / "keyframes.json", images)
        values: dict[str, Any] = {
            "keyframe_dir": folder if is_published else None,
            "keyframe_files_count": len(images),
            "keyframe_uploaded_files": images if is_published else [],
            "keyframe_minio_url": DownloadUrl(folder) if is_published else None,
        }
        if inputs.compress_keyframes_before_upload:
            values |= _archive(context, images)
        return Result(values)


def _sample(inputs: KeyframeInputs, context: RunContext, source: Path, folder: Path) -> list[Path]:
    info = probe_input(source, "video_path")
    duration_s = duration_of(source, info)
    step_s, count = _spacing(inputs, duration_s)
    plan = FramePlan(prefix="keyframe", threads=context.threads, step_s=step_s, max_frames=count)
    if step_s is not None and step_s >= _SEEK_FROM_S and longest_key_gap_s(context, source) <= step_s:
        times_s = [index * step_s for index in range(count)]
        single = dataclasses.replace(plan, step_s=None, max_frames=1)
        return seek_frames(context, source, folder, single, times_s=times_s)
    return write_frames(context, source, folder, plan, duration_s=duration_s)


def _spacing(inputs: KeyframeInputs, duration_s: float) -> tuple[float | None, int]:
    """Seconds from frame to frame, and how many there are at most. Raises InvalidInput for too many."""
    if duration_s <= 0:
        return None, 1
    if inputs.interval is None:
        return duration_s / inputs.keyframe_sample_count, inputs.keyframe_sample_count
    count = max(1, math.ceil(duration_s / inputs.interval - 1e-6))
    if count > _MAX_FRAMES:
        raise InvalidInput(
            f"interval: {inputs.interval:g} s would be {count:,} frames of this video of {duration_s:.0f} s; "
            f"at most {_MAX_FRAMES:,} are made: use {duration_s / _MAX_FRAMES:.3g} s or more",
            field="interval",
        )
    return inputs.interval, count


def _write_manifest(path: Path, images: list[Path]) -> None:
    frames = [
        {"index": index, "time_s": time_of(image), "file": image.name} for index, image in enumerate(images)
    ]
    with disk_errors():
        path.write_text(json.dumps({"frames": frames}, indent=1), encoding="utf-8")


def _archive(context: RunContext, images: list[Path]) -> dict[str, Any]:
    archive = context.output_dir / "keyframes.zip"
    facts = write_zip(context, images, archive)
    return {
        "keyframe_compressed_archive_url": DownloadUrl(archive),
        "keyframe_compression_info": dataclasses.asdict(facts),
    }


MODELS = (
    ModelSpec(
        name="ffmpeg.extract_keyframes",
        title="Frames evenly spread over a video",
        inputs=KeyframeInputs,
        engines=ffmpeg_engine(KeyframeEngine),
        run_timeout_s=7200.0,
    ),
)
