"""Whether an answer has the shape that a document shows: keys, JSON types, time format, fixed words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

FIXED = frozenset({"status", "message", "detail", "service", "description"})
"""Keys whose documented text is part of the contract, unless a block says otherwise."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?P<fraction>\.\d+)?(?P<zone>Z?)")
_KINDS = (bool, int | float, str, list, dict)


def documented(text: str) -> Any:
    """A document's JSON; `...` and `{...}`, which stand for more of the same, are left out."""
    text = re.sub(r',\s*"[^"]*":\s*\{\.\.\.\}', "", text)
    return json.loads(re.sub(r",\s*\.\.\.", "", text))


def differences(shown: Any, real: Any, free: frozenset[str] = frozenset(), at: str = "$") -> Iterator[str]:
    """What an old client would miss in `real`, given what its document shows.

    Our answers may say more than the document. `free` are FIXED keys whose text here is only an example.
    A list shows its kind of item once: each real item must look like the first, and there must be one.
    """
    if shown is None:
        return
    if _kind(shown) is not _kind(real):
        yield f"{at}: the document shows {shown!r}, the server answers {real!r}"
    elif isinstance(shown, dict):
        yield from _in_objects(shown, real, free, at)
    elif isinstance(shown, list):
        yield from _in_lists(shown, real, free, at)
    elif isinstance(shown, str) and _time_format(shown) != _time_format(real):
        yield f"{at}: {real!r} is not written like {shown!r}"


def _in_objects(
    shown: Mapping[str, Any], real: Mapping[str, Any], free: frozenset[str], at: str
) -> Iterator[str]:
    for key, value in shown.items():
        where = f"{at}.{key}"
        if key not in real:
            yield f"{where} is not in the answer, which has {sorted(real)}"
        elif key in FIXED - free and isinstance(value, str) and real[key] != value:
            yield f"{where}: the document says {value!r}, the server {real[key]!r}"
        else:
            yield from differences(value, real[key], free, where)


def _in_lists(shown: list[Any], real: list[Any], free: frozenset[str], at: str) -> Iterator[str]:
    if shown and not real:
        yield f"{at}: the document shows items, the answer has none"
    for number, item in enumerate(real if shown else []):
        yield from differences(shown[0], item, free, f"{at}[{number}]")


def _kind(value: Any) -> object:
    return next((kind for kind in _KINDS if isinstance(value, kind)), None)


def _time_format(text: str) -> tuple[bool, str] | None:
    """Whether a time has a fraction, and its zone; None where `text` is no time."""
    match = _TIME.fullmatch(text)
    return match and (match["fraction"] is not None, match["zone"])
