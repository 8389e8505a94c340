"""ffmpeg.crop_subtitle_images: the subtitle area of each sampled frame, as JPEG files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from models.archives import write_zip
from models.engine import (
    DownloadUrl,
    InputFile,
    InvalidInput,
    MediaKind,
    ModelSpec,
    Result,
    RunContext,
)
from models.ffmpeg_run import FfmpegEngine, ffmpeg_engine, probe_input
from models.frame_images import Box, FramePlan, duration_of, video_facts, write_frames
from models.media import MediaInfo

Pixel = Annotated[int, Field(ge=0, le=65_535)]


class SubtitleImageInputs(BaseModel):
    """Which part of which frames."""

    model_config = ConfigDict(extra="forbid")

    video_path: Annotated[str, InputFile(MediaKind.VIDEO)] = Field(
        min_length=1, description="Video: an object key, s3:// or http(s) URL."
    )
    subtitle_area: tuple[Pixel, Pixel, Pixel, Pixel] = Field(
        description="[x1, y1, x2, y2] in pixels of the frame as shown, x1 < x2 and y1 < y2; "
        "x2 and y2 lie just outside the area."
    )
    fps: float | None = Field(
        None,
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="Frames to sample per second; default: every frame of the video, once.",
    )
    decode_processes: int | None = Field(
        None,
        ge=1,
        le=16,
        description="Threads that decode, at most those of the worker; default: all of them.",
    )
    compress_directory_before_upload: bool = Field(
        False, description="Publish an archive of the images as well."
    )


class SubtitleImageEngine(FfmpegEngine):
    """Crops frames; files are named `frame_{milliseconds}ms.jpg`."""

    def run(self, inputs: SubtitleImageInputs, context: RunContext) -> Result:
        source = Path(inputs.video_path)
        info = probe_input(source, "video_path")
        check(inputs, {"video_path": info})
        folder = context.output_dir / "cropped_images"
        plan = FramePlan(
            prefix="frame",
            threads=min(inputs.decode_processes or context.threads, context.threads),
            step_s=1 / inputs.fps if inputs.fps else None,
            box=Box(*inputs.subtitle_area),
        )
        images = write_frames(context, source, folder, plan, duration_s=duration_of(source, info))
        values: dict[str, Any] = {
            "cropped_images_path": folder,
            "cropped_images_files_count": len(images),
            "cropped_images_uploaded_files": images,
        }
        if inputs.compress_directory_before_upload:
            archive = context.output_dir / "cropped_images.zip"
            facts = write_zip(context, images, archive)
            values |= {
                "compressed_archive_url": DownloadUrl(archive),
                "compression_info": dataclasses.asdict(facts),
            }
        return Result(values)


def check(inputs: SubtitleImageInputs, media: Mapping[str, MediaInfo]) -> None:
    """The area must be a rectangle inside the frame."""
    x1, y1, x2, y2 = inputs.subtitle_area
    if x1 >= x2 or y1 >= y2:
        raise InvalidInput("subtitle_area: x1 must be below x2, and y1 below y2", field="subtitle_area")
    if "video_path" not in media:
        return
    video = video_facts(media["video_path"])
    if x2 > video.width_px or y2 > video.height_px:
        raise InvalidInput(
            f"subtitle_area: the frame is {video.width_px}x{video.height_px} pixels", field="subtitle_area"
        )


MODELS = (
    ModelSpec(
        name="ffmpeg.crop_subtitle_images",
        title="The subtitle area of each frame",
        inputs=SubtitleImageInputs,
        engines=ffmpeg_engine(SubtitleImageEngine),
        check=check,
        run_timeout_s=7200.0,
    ),
)
