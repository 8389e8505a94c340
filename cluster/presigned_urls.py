"""Presigned S3 URLs read back: which object one names. Pure; knows no credentials."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, unquote, urlsplit

from cluster.errors import ExpiredUrl

NAME = "name"
"""The object that the pattern of `name_of` is a URL of."""


def name_of(url: str, pattern: str, now: float) -> str | None:
    """The object that a presigned URL names, below the folder of the URL `pattern`; None for other URLs.

    By its place and age alone: the signature is not verified, for the credentials that made it may have
    changed since. Raises ExpiredUrl.
    """
    try:
        parts, ours = urlsplit(url), urlsplit(pattern)
        query = dict(parse_qsl(parts.query))
    except ValueError:  # no URL, or a query of too many fields
        return None
    folder = ours.path.removesuffix(NAME)
    is_ours = (parts.scheme, parts.netloc) == (ours.scheme, ours.netloc) and parts.path.startswith(folder)
    if not is_ours or "X-Amz-Signature" not in query:
        return None
    name = unquote(parts.path.removeprefix(folder))
    if now >= _expires_at(query):
        raise ExpiredUrl(name)
    return name


def _expires_at(query: Mapping[str, str]) -> float:
    """In seconds since the epoch; long ago where that cannot be read."""
    try:
        signed_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return signed_at.timestamp() + int(query["X-Amz-Expires"])
    except (KeyError, ValueError):
        return 0.0
