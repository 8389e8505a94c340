"""Host names that serve one dialect alone: an unmodified client changes nothing but its base URL."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from api.dialects import BY_NAME, Dialect, is_below

SIGNED_FILES = "/v1/files/download"
"""Download URLs carry their own permission and begin with whatever host the caller used."""


def parse_hosts(text: str) -> dict[str, Dialect]:
    """MEDIARAY_HOSTS: `name=dialect`, separated by commas. Raises ValueError."""
    hosts: dict[str, Dialect] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        host, _, name = (word.strip().lower() for word in part.partition("="))
        if not host or "/" in host or ":" in host or name not in BY_NAME or host in hosts:
            raise ValueError(
                f"MEDIARAY_HOSTS: {part.strip()!r} is not HOST=DIALECT with a host name (no port) that is"
                f" given once and a dialect of {', '.join(BY_NAME)}"
            )
        hosts[host] = BY_NAME[name]
    return hosts


class HostNames:
    """Puts a mapped host's paths below its dialect's prefix. Nobody trusts X-Forwarded-Host."""

    def __init__(self, app: ASGIApp, hosts: Mapping[str, Dialect]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._hosts:
            dialect = self._hosts.get(_host(scope))
            if dialect is not None and not is_signed_file(scope, scope["path"]):
                scope["path"] = dialect.prefix + scope["path"]
        await self._app(scope, receive, send)


def is_signed_file(scope: Scope, path: str) -> bool:
    """Whether the request shows a download token, which is judged where the file is opened."""
    return is_below(path, SIGNED_FILES) and "token" in parse_qs(scope["query_string"].decode("latin-1"))


def host_name(host: str) -> str:
    """The name or address in a Host header, without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def _host(scope: Scope) -> str:
    given: bytes = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return host_name(given.decode("latin-1"))
