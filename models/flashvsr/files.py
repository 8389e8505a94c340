"""FlashVSR's weight files: where they lie, which release they are of, what is missing. No torch.

There are two layouts. The original one is five files; of them the transformer and the projector belong to one
release, v1 or v1.1, and a pair of both makes moving things ghost. Repacks have all but the VAE in one file,
under the same names with a prefix for each network.

The tensors of v1 and v1.1 have the same names and shapes, and only v1.1's checksums are known. So the
folder's name says which release it holds, the names being those that the releases were published under, and
the checksums are held against it: v1.1's own file of one of the pair beside something else is a mix.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from models.errors import ModelNotReady
from models.flashvsr.networks import Part, Variant, Version
from models.weights import ModelFolder


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file of FlashVSR v1.1 as published, hub revision 27561b186ded3402d7c975f4fd722e2885b6135f.

    The prompt's is in the code's repository, below examples/WanVSR/prompt_tensor.
    """

    name: str
    size_bytes: int
    sha256: str


PUBLISHED: Mapping[Part, PublishedFile] = {
    "transformer": PublishedFile(
        "diffusion_pytorch_model_streaming_dmd.safetensors",
        5_676_070_392,
        "bd28180edcf3446c028e32fc6b731a80bf7e4da2ab4caac3186b9499964d37be",
    ),
    "projector": PublishedFile(
        "LQ_proj_in.ckpt",
        575_694_948,
        "d6d011cdaaba6a52645086caa08fa04124e746f6ca568140a24007591142bfd2",
    ),
    "decoder": PublishedFile(
        "TCDecoder.ckpt",
        189_018_333,
        "e224bdcf2f52745cbf4d393ff5374c2ba09e90285d5d19062d2bf63b915b6161",
    ),
    "vae": PublishedFile(
        "Wan2.1_VAE.pth",
        507_609_880,
        "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981",
    ),
    "prompt": PublishedFile(
        "posi_prompt.pth",
        4_195_504,
        "4601107a11e4e11a936a6b79df579e54dbc99872132bf542151f0ffd65b4b1ef",
    ),
}
PARTS: Mapping[Variant, tuple[Part, ...]] = {
    "tiny": ("transformer", "projector", "decoder", "prompt"),
    "tiny_long": ("transformer", "projector", "decoder", "prompt"),
    "full": ("transformer", "projector", "vae", "prompt"),
}
_PAIR: tuple[Part, Part] = ("transformer", "projector")  # what differs between the releases

_NAMES = tuple(PUBLISHED[part].name for part in PARTS["tiny_long"])
V1_1_FOLDER = ModelFolder("flashvsr/FlashVSR-v1.1", _NAMES)
V1_FOLDER = ModelFolder("flashvsr/FlashVSR", _NAMES)
ONE_FILE_FOLDER = ModelFolder("flashvsr/one-file", ("*.safetensors",))
# In the order in which they are looked for, by the version that an engine of theirs shows.
FOLDERS: Mapping[str, ModelFolder] = {
    "FlashVSR v1.1": V1_1_FOLDER,
    "FlashVSR v1.1, one file": ONE_FILE_FOLDER,
    "FlashVSR v1": V1_FOLDER,
}
_V1_NAMES = frozenset({"flashvsr", "flashvsr-v1", "v1"})

_CHECKSUMS = ".sha256.json"  # what the files of a folder were found to be, so that no start reads 7 GB twice


def version_of(folder: Path) -> Version:
    """The release that the folder's name says it holds; v1.1 for every other name."""
    return "v1" if folder.name.lower() in _V1_NAMES else "v1.1"


def main_file(folder: Path) -> Path:
    """The file with the transformer: of the original's name, or the folder's only .safetensors file."""
    path = folder / PUBLISHED["transformer"].name
    if path.is_file():
        return path
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise ModelNotReady(
            f"{folder.name} holds several .safetensors files: {names}; keep one of them there"
        )
    raise missing(folder, "transformer")


def part_file(folder: Path, part: Part) -> Path:
    """The original file of a part; raises ModelNotReady without it."""
    path = folder / PUBLISHED[part].name
    if not path.is_file():
        raise missing(folder, part)
    return path


def missing(folder: Path, part: Part) -> ModelNotReady:
    """The error that says which file to put where."""
    published = PUBLISHED[part]
    size = f"{published.size_bytes / 1e6:,.0f} MB"
    return ModelNotReady(f"{folder.name}/{published.name} is missing: put FlashVSR's file ({size}) there")


def judged(sha256: Mapping[Part, str], folder: Path) -> list[str]:
    """What to know of original files with these checksums, in words; raises ModelNotReady for a mix.

    Weights that are not the published ones may be fine-tuned: that is said and not refused. A pair that
    belongs together although one half is v1.1's own can be given as one file.
    """
    is_published = {part: digest == PUBLISHED[part].sha256 for part, digest in sha256.items()}
    version = version_of(folder)
    pair = [is_published[part] for part in _PAIR if part in is_published]
    if any(pair) and not (version == "v1.1" and all(pair)):
        raise _mixed(folder, is_published)
    # no checksum of v1 is known, so its pair cannot be told from a fine-tune
    silent = _PAIR if version == "v1" else ()
    others = [PUBLISHED[part].name for part, same in is_published.items() if not same and part not in silent]
    notes = ["taken for FlashVSR v1 by the name of their folder: v1 has no known checksums"]
    return [*(notes if version == "v1" else ()), *(f"{name} is not the published file" for name in others)]


def _mixed(folder: Path, is_published: Mapping[Part, bool]) -> ModelNotReady:
    ours = [PUBLISHED[part].name for part in _PAIR if is_published.get(part)]
    others = [PUBLISHED[part].name for part in _PAIR if not is_published.get(part, True)]
    text = f"{folder.name} mixes releases of FlashVSR: {' and '.join(ours)} of v1.1"
    text += f" beside another {' and '.join(others)}" if others else " in the folder of v1"
    return ModelNotReady(f"{text}; take both files of one release, or a pair of your own as one file")


def checksums(paths: Iterable[Path]) -> dict[Path, str]:
    """The sha256 of each file, kept beside it by size and time of change: the first call reads them all."""
    found: dict[Path, str] = {}
    for folder, files in groupby(sorted(paths), key=lambda path: path.parent):
        known = _known(folder)
        entries = {path.name: _entry(path, known) for path in files}
        found |= {folder / name: entry[2] for name, entry in entries.items()}
        if any(known.get(name) != entry for name, entry in entries.items()):
            _keep(folder, known | entries)
    return found


def _entry(path: Path, known: Mapping[str, Any]) -> list[Any]:
    """Size, time of change in ns, and sha256 of a file."""
    stat = path.stat()
    entry = known.get(path.name)
    if isinstance(entry, list) and len(entry) == 3 and entry[:2] == [stat.st_size, stat.st_mtime_ns]:
        return entry
    with path.open("rb") as file:
        return [stat.st_size, stat.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()]


def _known(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(folder: Path, entries: Mapping[str, Any]) -> None:
    """Best effort: a folder that only root may write is read again at the next start."""
    path = folder / f"{_CHECKSUMS}.{os.getpid()}"
    try:
        path.write_text(json.dumps(entries), encoding="utf-8")
        path.replace(folder / _CHECKSUMS)
    except OSError:
        path.unlink(missing_ok=True)
