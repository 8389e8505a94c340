"""Who may call a server without keys: its own machine, and no web page that was opened from elsewhere.

The listener is loopback then, yet a browser on the machine reaches it for any page: by a name that resolves
to 127.0.0.1 (DNS rebinding), or by a form or `fetch` that writes without reading the answer (CSRF).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import Forbidden, answer_error
from api.hosts import host_name
from cluster.settings import Settings, is_loopback

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SHOWN_CHARS = 100


class OriginGate:
    """Lets pass what names this server as its Host, and writes only from pages of such a host.

    `names` are the host names that the operator gave the server, besides the loopback names and addresses.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], now: Callable[[], float]) -> None:
        self._app = app
        self._names = frozenset(names)
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
            return
        await answer_error(error, scope["path"], self._now())(scope, receive, send)

    def _refusal(self, scope: Scope) -> Forbidden | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return Forbidden(
                f"this server has no API keys and does not answer as {host[:_SHOWN_CHARS]!r}: call it as"
                " 127.0.0.1 or localhost, or let its operator name the host in MEDIARAY_PUBLIC_URL or"
                " MEDIARAY_HOSTS, or set MEDIARAY_API_KEYS"
            )
        origin = headers.get("origin")
        if origin is None or scope["method"] in _SAFE or self._is_ours(_authority(origin)):
            return None
        return Forbidden(
            f"this server has no API keys and takes no writes from pages of {origin[:_SHOWN_CHARS]!r}: write"
            " from a program or a page of its own host, or let its operator set MEDIARAY_API_KEYS"
        )

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        return name in self._names or is_loopback(name)


def served_names(settings: Settings, hosts: Collection[str]) -> frozenset[str]:
    """The host names of the settings: the mapped ones and that of the public URL."""
    public = host_name(_authority(settings.public_url))
    return frozenset({*hosts, public} - {""})


def _authority(url: str) -> str:
    """HOST[:PORT] of a URL; "" where there is none, as in the origin `null`."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""
