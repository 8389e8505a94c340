"""What Hallo2's folder holds and what is in its net.pth: facts and pure functions, no torch.

The counts are those of the original file: the parameters times two bytes are its length (4.85 GB of fp16).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from models.engine import ModelNotReady
from models.weights import ModelFolder

VAE_FOLDER = "sd-vae-ft-mse"
WAV2VEC_FOLDER = "wav2vec/wav2vec2-base-960h"
_NET = "net.pth"
# The folder is the original's download, whose net.pth is in a folder of its own, or net.pth is on top.
HALLO2_FOLDER = ModelFolder(
    "hallo2",
    (
        f"**/{_NET}",
        f"{VAE_FOLDER}/config.json",
        f"{VAE_FOLDER}/diffusion_pytorch_model.*",  # .safetensors or .bin
        f"{WAV2VEC_FOLDER}/config.json",
        f"{WAV2VEC_FOLDER}/*model.*",  # model.safetensors or pytorch_model.bin
    ),
)

Shapes = Mapping[str, tuple[int, ...]]

COUNTS: Mapping[str, tuple[int, int]] = {  # first part of the names -> tensors, parameters
    "reference_unet": (682, 859_508_800),
    "denoising_unet": (1_946, 1_526_736_644),
    "face_locator": (16, 514_896),
    "imageproj": (4, 1_577_472),
    "audioproj": (8, 36_465_152),
}
FINGERPRINT = "b8b4fd9dfd3cde33a522ede7ab9c8679"
_MAX_NAMED = 3


def net_file(folder: Path) -> Path:
    """The net.pth of a Hallo2 folder; raises ModelNotReady without one."""
    found = sorted(folder.glob(f"**/{_NET}"), key=lambda path: len(path.parts))
    if not found:
        raise ModelNotReady(f"{folder.name}/{_NET} is missing: put Hallo2's {_NET} (4.85 GB) there")
    return found[0]


def fingerprint(shapes: Shapes) -> str:
    """The md5 by which DiffSynth-Studio tells checkpoints: of all names, with and without their shapes."""
    entries = [entry for name, shape in shapes.items() for entry in (name, f"{name}:{_joined(shape)}")]
    return hashlib.md5(",".join(sorted(entries)).encode(), usedforsecurity=False).hexdigest()


def _joined(shape: Iterable[int]) -> str:
    return "_".join(str(size) for size in shape)


def differences(expected: Shapes, found: Shapes) -> str:
    """How `found` departs from `expected`, in words with the first few names; "" if it does not."""
    misshapen = (
        f"{name} {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    )
    kinds = {
        "missing": (name for name in expected if name not in found),
        "unknown": (name for name in found if name not in expected),
        "misshapen": misshapen,
    }
    counted = (_counted(kind, names) for kind, names in kinds.items())
    return "; ".join(text for text in counted if text)


def _counted(kind: str, names: Iterator[str]) -> str:
    first = list(islice(names, _MAX_NAMED))
    count = len(first) + sum(1 for _ in names)
    more = f" and {count - len(first)} more" if count > len(first) else ""
    return f"{count} {kind}: {', '.join(first)}{more}" if first else ""
