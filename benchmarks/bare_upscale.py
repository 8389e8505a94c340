"""The embedded upscaling network alone: frames are decoded before the clock starts, nothing is encoded.

`python -m benchmarks.bare_upscale CLIP` prints frames per second. Runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import av
import numpy as np
import torch

from models.networks.upscaler import Upscaler
from models.span_weights import SPAN_WEIGHTS
from models.weights import locate

FACTOR = 2


def network() -> Upscaler:
    """As the engine loads it on a CPU: the same files, number format and threads."""
    torch.set_num_threads(os.cpu_count() or 1)
    located = {
        weight.path.rpartition(".")[2]: locate(weight) for weight in SPAN_WEIGHTS if "x2" in weight.path
    }
    return Upscaler.load({FACTOR: (located["param"], located["bin"])}, torch.device("cpu"))


def frames_of(clip: Path) -> np.ndarray:
    """(T, H, W, 3) uint8."""
    with av.open(str(clip)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def frames_per_s(upscaler: Upscaler, frames: np.ndarray) -> float:
    """As many frames in a call as fit without tiling, which is what the engine does."""
    count, height_px, width_px, _ = frames.shape
    size_px = (width_px * FACTOR, height_px * FACTOR)
    batch = max(1, upscaler.call_px // (height_px * width_px))
    upscaler.enlarge(frames[:batch], size_px, lambda: None)
    started_at = time.perf_counter()
    for start in range(0, count, batch):
        upscaler.enlarge(frames[start : start + batch], size_px, lambda: None)
    return count / (time.perf_counter() - started_at)


def main() -> None:
    frames = frames_of(Path(sys.argv[1]))
    print(json.dumps({"frames": len(frames), "frames_per_s": frames_per_s(network(), frames)}))


if __name__ == "__main__":
    main()
