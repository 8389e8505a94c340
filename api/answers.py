"""JSON answers, written by pydantic's Rust serialiser: no per-request validation, no jsonable pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
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
    """`content` as JSON; `inf` and `nan` become null, as JSON has no words for them."""
    return to_json(content, inf_nan_mode="null")


def base_url(request: Request, public_url: str) -> str:
    """The base of URLs in answers, without a slash at the end."""
    return (public_url or str(request.base_url)).rstrip("/")
