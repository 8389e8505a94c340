"""Results as callers see them: storage keys in place of local paths. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.engine import DownloadUrl


def replaced_paths(value: Any, root: Path, prefix: str = "") -> Any:
    """`value` with every path below `root` as `prefix` + its relative name, at any depth.

    A DownloadUrl becomes `{"$download": key}`: its URL is made when somebody reads the result.
    """
    if isinstance(value, DownloadUrl):
        return {"$download": replaced_paths(value.path, root, prefix)}
    if isinstance(value, Path):
        return prefix + value.relative_to(root).as_posix()
    if isinstance(value, dict):
        return {name: replaced_paths(item, root, prefix) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [replaced_paths(item, root, prefix) for item in value]
    return value
