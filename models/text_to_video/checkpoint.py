"""Whether a diffusers folder is whole, found without torch: every component's files, shards and file lengths.

A safetensors file is eight bytes with the length of its JSON header, the header, and the tensors; the header
says where the last tensor ends (github.com/huggingface/safetensors, "Format"), so that a copy that was cut
short is known by its length.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.engine import ModelNotReady

MODEL_INDEX = "model_index.json"
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # what the format allows
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
# A component needs weights if its folder would be loaded by `from_pretrained` of a network.
_WITHOUT_WEIGHTS = (
    "Scheduler",
    "Tokenizer",
    "Processor",
    "TokenizersBackend",
    "FeatureExtractor",
    "Guidance",
)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises ModelNotReady naming a file that is missing or is not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _broken(path, "is missing") from error
    except (OSError, ValueError) as error:
        raise _broken(path, f"cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise _broken(path, "is not a JSON object")
    return found


def components(index: Mapping[str, Any]) -> dict[str, str]:
    """The components that a model_index.json lists as present: name -> class."""
    pairs = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return {name: pair[1] for name, pair in pairs.items() if isinstance(pair[1], str)}


def check_whole(folder: Path) -> dict[str, Any]:
    """The folder's model_index.json, when all it lists is there; raises ModelNotReady naming the file."""
    index = read_json(folder / MODEL_INDEX)
    for name, class_name in components(index).items():
        _check_component(folder / name, class_name)
    return index


def _check_component(folder: Path, class_name: str) -> None:
    if not folder.is_dir():
        raise _broken(folder, "is missing")
    if any(word in class_name for word in _WITHOUT_WEIGHTS):
        return
    read_json(folder / "config.json")
    files = sorted(folder.glob("*.safetensors"))
    files = [*files, *_shards(folder)]
    if not files:
        pickled = [path.name for path in folder.iterdir() if path.suffix in _PICKLED]
        wanted = "has no .safetensors file" + (f", only {', '.join(sorted(pickled))}" if pickled else "")
        raise _broken(folder, wanted)
    for path in dict.fromkeys(files):
        _check_length(path)


def _shards(folder: Path) -> Iterator[Path]:
    """The files that a sharded network's index names."""
    for path in sorted(folder.glob("*.safetensors.index.json")):
        shards = read_json(path).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise _broken(path, "has no weight_map")
        yield from (folder / str(name) for name in sorted(set(shards.values())))


def _check_length(path: Path) -> None:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise _broken(path, "is missing") from error
    expected_bytes = _length_bytes(path)
    if size_bytes != expected_bytes:
        raise _broken(
            path, f"has {size_bytes} bytes where its header tells of {expected_bytes}: copy it again"
        )


def _length_bytes(path: Path) -> int:
    """The length that a safetensors file's header promises."""
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if header_bytes > _MAX_HEADER_BYTES:
                raise _broken(path, "does not begin with a safetensors header")
            header = json.loads(file.read(header_bytes))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise _broken(path, "has no whole safetensors header: copy it again") from error
    return int(_LENGTH_BYTES + header_bytes + max(ends, default=0))


def _broken(path: Path, what: str) -> ModelNotReady:
    return ModelNotReady(f"weights are not installed: {path.parent.name}/{path.name} {what}")
