"""JSON answers, written by pydantic's Rust serialiser: no per-request validation, no jsonable pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_json
from starlette.requests import Request
from starlette.responses import Response


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(content, status_code, headers)

    def render(self, content: Any) -> bytes:
        return json_bytes(content)


def json_bytes(content: Any) -> bytes:
    """`content` as JSON; `inf` and `nan` become null, as JSON has no words for them.

    Halves of characters, which an engine may have read from a caller's JSON, become `?`: UTF-8 has none.
    """
    try:
        return to_json(content, inf_nan_mode="null")
    except PydanticSerializationError:
        return to_json(_in_utf8(content), inf_nan_mode="null")


def _in_utf8(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {_in_utf8(key): _in_utf8(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_utf8(item) for item in value]
    return value


def base_url(request: Request, public_url: str) -> str:
    """The base of URLs in answers, without a slash at the end."""
    return (public_url or str(request.base_url)).rstrip("/")
