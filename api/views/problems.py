"""Error answers as the API's schema documents them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ErrorBody(BaseModel):
    """The envelope that /v1 adds beside `detail`."""

    code: str
    message: str
    timestamp: str
    details: Any = None


class ErrorAnswer(BaseModel):
    """Every error: `detail` is a text, or the list of a failed validation."""

    model_config = ConfigDict(extra="allow")

    detail: str | list[dict[str, Any]]
    error: ErrorBody | None = Field(None, description="On /v1 only")


MEANINGS = {
    400: "The request is understood and wrong",
    401: "No valid API key",
    403: "The download URL is expired or forged",
    404: "No such thing",
    409: "Taken by a different request",
    413: "The body is too large",
    416: "The range lies behind the end of the file",
    422: "The request has the wrong shape",
    429: "The caller's limit for this minute is reached; try again after Retry-After seconds",
    500: "The server failed; its log has the cause under the X-Request-ID of the answer",
    503: "Not now; try again after Retry-After seconds",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer these errors."""
    return {status: {"model": ErrorAnswer, "description": MEANINGS[status]} for status in statuses}
