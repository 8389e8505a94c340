"""Text-to-video without a server: a process that has loaded our engine or a bare pipeline, and makes clips.

`python -m benchmarks.text_to_video_clips KIND JOB` makes one clip to warm up, then one for each line of its
stdin, which is a path to write it to; it answers each with a line of JSON. KIND is one of `KINDS`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.bare_speech import BareContext
from models.catalog import CATALOG
from models.engine import EngineKind
from models.site import Site, resources_of

TASK = "text_to_video.generate_video"
Make = Callable[[int, Path], dict[str, Any]]
"""Makes clip number n at a path, and tells its figures."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to make with the one model below `models_dir`."""

    models_dir: str = ""
    device: str = "cpu"
    width_px: int = 192
    height_px: int = 192
    num_frames: int = 17
    steps: int = 6
    guidance_scale: float = 5.0
    fps: int = 16
    seed: int = 7

    @property
    def folder(self) -> Path:
        return next(Path(self.models_dir, "text_to_video").iterdir())

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))


def prompt_of(number: int) -> str:
    """Another for each clip, so that no cache of prompts helps."""
    return f"a red circle moves to the left over white ground, take {number}"


def _engine(kind: EngineKind, job: Job) -> Any:
    spec = next(spec for spec in CATALOG[TASK].engines if spec.kind is kind)
    site = Site(Path(job.models_dir) if job.models_dir else None, has_gpu=job.device == "cuda")
    engine = spec.make()
    engine.load(resources_of(spec, site, device=job.device, threads=os.cpu_count() or 1))
    return engine


def _by_engine(kind: EngineKind, job: Job, asked: dict[str, Any]) -> Make:
    engine, inputs_of = _engine(kind, job), CATALOG[TASK].inputs.model_validate

    def make(number: int, path: Path) -> dict[str, Any]:
        inputs = inputs_of({"prompt": prompt_of(number), "seed": job.seed, **asked})
        with tempfile.TemporaryDirectory() as folder:
            begin_s = time.perf_counter()
            values = engine.run(inputs, BareContext(Path(folder))).values
            took_s = time.perf_counter() - begin_s
            shutil.move(values.pop("video_path"), path)
        return {"seconds": took_s, **values}

    return make


def by_ours(job: Job) -> Make:
    """The full engine as a replica loads and runs it."""
    asked = {
        "negative_prompt": "",
        "width": job.width_px,
        "height": job.height_px,
        "num_frames": job.num_frames,
        "num_inference_steps": job.steps,
        "guidance_scale": job.guidance_scale,
        "fps": job.fps,
    }
    return _by_engine(EngineKind.FULL, job, asked)


def by_embedded(job: Job) -> Make:
    """The model that ships, at its own size and steps."""
    return _by_engine(EngineKind.EMBEDDED, job, {})


def by_bare(job: Job) -> Make:
    """Diffusers as its documentation calls it, frames encoded one after the other when all are there."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    pipeline = _bare_pipeline(job)

    def make(number: int, path: Path) -> dict[str, Any]:
        if job.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        begin_s = time.perf_counter()
        pictures = pipeline(
            prompt=prompt_of(number),
            negative_prompt="",
            width=job.width_px,
            height=job.height_px,
            num_frames=job.num_frames,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(job.seed),
            output_type="np",
        ).frames[0]  # (T, H, W, 3) in 0..1
        _export(pictures, path, job.fps)
        took_s = time.perf_counter() - begin_s
        peak_bytes = torch.cuda.max_memory_allocated() if job.device == "cuda" else None
        return {"seconds": took_s, "peak_gpu_memory_bytes": peak_bytes}

    return make


def _bare_pipeline(job: Job) -> Any:
    import torch
    from diffusers import DiffusionPipeline

    dtype = torch.bfloat16 if job.device == "cuda" else torch.float32
    pipeline: Any = DiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
        job.folder, local_files_only=True, dtype=dtype
    )
    pipeline.to(job.device).set_progress_bar_config(disable=True)
    return pipeline


def _export(pictures: np.ndarray, path: Path, fps: int) -> None:
    """With the encoder settings of our own films."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        options = {"crf": "17", "preset": "veryfast", "x264-params": "mbtree=0"}  # as VideoWriter does
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in (pictures * 255).round().astype(np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def by_parts(job: Job) -> Make:
    """Decoding alone, encoding alone, and both as our engine does them; of random latents."""
    import torch

    from models.text_to_video.decode import decoded_frames
    from models.text_to_video.film import write_film

    pipeline = _bare_pipeline(job)
    vae = pipeline.vae
    sides = (side // vae.config.scale_factor_spatial for side in (job.height_px, job.width_px))
    num_parts = (job.num_frames - 1) // vae.config.scale_factor_temporal + 1
    draw = torch.Generator("cpu").manual_seed(job.seed)
    latents = torch.randn((1, vae.config.z_dim, num_parts, *sides), generator=draw).to(job.device, vae.dtype)
    threads = max(1, (os.cpu_count() or 1) // 2)

    def film(frames: Any, path: Path) -> None:
        write_film(iter(frames), path, job.fps, threads=threads, on_frame=lambda _number: None)

    def make(_number: int, path: Path) -> dict[str, Any]:
        frames = list(decoded_frames(pipeline, latents, lambda: None))
        return {
            "decode_s": _timed(lambda: deque(decoded_frames(pipeline, latents, lambda: None), maxlen=0)),
            "encode_s": _timed(lambda: film(frames, path)),
            "both_s": _timed(lambda: film(decoded_frames(pipeline, latents, lambda: None), path)),
        }

    return make


def _timed(work: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


KINDS: dict[str, Callable[[Job], Make]] = {
    "ours": by_ours,
    "bare": by_bare,
    "embedded": by_embedded,
    "parts": by_parts,
}


def main() -> None:
    make = KINDS[sys.argv[1]](Job(**json.loads(sys.argv[2])))
    with tempfile.TemporaryDirectory() as folder:
        make(0, Path(folder, "warm-up.mp4"))
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin, start=1):
        told = make(number, Path(line.strip()))
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**told, "peak_memory_bytes": peak_bytes}), flush=True)


if __name__ == "__main__":
    main()
