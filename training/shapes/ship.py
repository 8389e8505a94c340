"""Copies a finished pipeline into the package and pins its files.

python -m training.shapes.ship RUN_FOLDER
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "models" / "text_to_video"
TABLE = PACKAGE / "shapes_weights.py"
MAX_BYTES = 24_000_000
HEAD = '''"""The files of the embedded text-to-video model, pinned; written by training/shapes/ship.py."""

from __future__ import annotations

from models.weights import WeightFile

_FILES = (
'''
TAIL = """)
SHAPES_WEIGHTS = tuple(
    WeightFile(f"text_to_video/shapes/{path}", sha256, size_bytes, is_shipped=True)
    for path, size_bytes, sha256 in _FILES
)
"""


def main(folder: Path) -> None:
    shipped = PACKAGE / "shapes"
    shutil.rmtree(shipped, ignore_errors=True)
    shutil.copytree(folder / "pipeline", shipped)
    for path in shipped.rglob("config.json"):
        _forget_origin(path)
    files = sorted(path for path in shipped.rglob("*") if path.is_file())
    size_bytes = sum(path.stat().st_size for path in files)
    if size_bytes > MAX_BYTES:
        raise SystemExit(f"{size_bytes} bytes are more than the {MAX_BYTES} that may ship")
    rows = [
        f'    ("{path.relative_to(shipped).as_posix()}", {path.stat().st_size}, "{_sha256(path)}"),\n'
        for path in files
    ]
    TABLE.write_text(HEAD + "".join(rows) + TAIL)
    print(f"{len(files)} files, {size_bytes} bytes")


def _forget_origin(path: Path) -> None:
    """Take out where the trainer's folder lay, which diffusers writes into every configuration."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
