"""The words of `mediaray submit`: key=text, key=@local/path, key:=json."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_WORD = re.compile(r"(?P<key>[^\W\d]\w*)(?P<mark>:=|=@|=)(?P<text>.*)", re.DOTALL)


def _existing_path(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"no such file or folder: {text}")
    return path


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON after := ({error}): {text}") from error


READERS: dict[str, Callable[[str], Any]] = {"=": str, "=@": _existing_path, ":=": _json_value}


def parse_inputs(words: Iterable[str]) -> dict[str, Any]:
    """Inputs by key; files and folders are Paths. Raises ValueError that names the word and what is wrong."""
    inputs: dict[str, Any] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} is none of key=text, key=@local/path, key:=json")
        if match["key"] in inputs:
            raise ValueError(f"{match['key']} is given twice")
        inputs[match["key"]] = READERS[match["mark"]](match["text"])
    return inputs
