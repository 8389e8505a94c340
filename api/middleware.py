"""What every request passes before and after its route: pure ASGI, in the order of `app.create_app`.

Outermost   request id, the last except, the log line of a defect
HostNames   a mapped host name serves one dialect (`api.hosts`)
OriginGate  without keys: no foreign host names, no writes from foreign pages (`api.origins`)
SlashForms  `/path/` and `/path` are one route; nothing is ever redirected
HealthHeads HEAD of a health route answers like GET, without a body
KeyGate     API keys, where keys are set; whose request it is
RateGate    requests per minute (`api.rate_limits`)
BodyLimit   bodies are refused by Content-Length before reading, and while they stream
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.callers import KEY_NEEDED, TENANT, KeyEntry, let_in, tenant_of
from api.dialects import GIB, PREFIXES, Problem, dialect_at, is_below
from api.errors import BodyTooLarge, Unauthorized, answer_error, answer_problem
from api.hosts import is_signed_file

logger = logging.getLogger("mediaray.http")

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
JSON_TOO_LARGE = "the request body is too large: at most {bytes} bytes; upload files instead"
_FORM_SLACK_BYTES = 1024**2  # what a multipart body may hold beside its file


class Outermost:
    """Names each request, and turns what nobody expected into a 500 that tells nothing but that name.

    `is_named`: the server below us puts the X-Request-ID of the request on every answer itself.
    """

    def __init__(self, app: ASGIApp, now: Callable[[], float], *, is_named: bool = False) -> None:
        self._app = app
        self._now = now
        self._is_named = is_named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if not self._is_named:
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:  # the HTTP edge: a defect must answer, and must be told in the log
            logger.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"])
            if started:
                raise  # the server must cut the connection, so that the client sees a broken body
            await self._answer_defect(request_id, scope, receive, send_named)

    async def _answer_defect(self, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        text = f"internal error; the server's log has the cause under request id {request_id}"
        problem = Problem(500, "INTERNAL_ERROR", text, {"request_id": request_id}, self._now())
        dialect, _ = dialect_at(scope["path"])
        await answer_problem(problem, dialect)(scope, receive, send)


class SlashForms:
    """Takes one trailing slash off the path; `slash_form` tells the few routes that care.

    A path that ends with a line end is nobody's: limits by path would not know it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            ends_with_slash = len(path) > 1 and path.endswith("/")
            scope["mediaray.slash"] = ends_with_slash
            if ends_with_slash:
                path = path[:-1]
            if path.endswith("\n"):
                path += "/"  # no route's: Starlette's patterns end with $, which overlooks a line end
            scope["path"] = f"{path}/" if path in PREFIXES else path
        await self._app(scope, receive, send)


def slash_form(scope: Scope) -> bool:
    """Whether the caller wrote the path with a slash at its end."""
    return bool(scope.get("mediaray.slash"))


_HEALTH_PATHS = frozenset(
    {"/health", "/healthz", "/readyz", "/api/health", "/api/v1/health", "/v1/tasks/health"}
)
"""As each dialect writes them, and the root."""
PAGE_FILES = ("/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/redoc.standalone.js")
OPEN_PATHS = _HEALTH_PATHS | {"/", "/docs", "/redoc", "/openapi.json", *PAGE_FILES}


class HealthHeads:
    """Answers HEAD of a health route, which load balancers send, with what GET would answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        if not is_head or dialect_at(scope["path"])[1] not in _HEALTH_PATHS:
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


class KeyGate:
    """Lets pass who shows a key. Health is open; downloads judge their own signed token.

    Without keys, which is for loopback only, every request is the local tenant's.
    """

    def __init__(self, app: ASGIApp, keys: tuple[KeyEntry, ...], now: Callable[[], float]) -> None:
        self._app = app
        self._keys = keys
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            tenant = tenant_of(Headers(scope=scope), self._keys) if self._keys else TENANT
            if tenant is not None:
                let_in(scope, tenant)
            elif not _is_open(scope):
                error = Unauthorized(KEY_NEEDED)
                await answer_error(error, scope["path"], self._now())(scope, receive, send)
                return
        await self._app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Limit:
    """A bound, and how its dialect says that it is passed."""

    max_bytes: int
    shown_bytes: int
    text: str

    def error(self) -> BodyTooLarge:
        return BodyTooLarge(self.text.format(bytes=self.shown_bytes, gib=self.shown_bytes / GIB))


class BodyLimit:
    """Bounds what a body may hold: `max_upload_bytes` where files go up, `max_json_bytes` elsewhere."""

    def __init__(
        self, app: ASGIApp, max_json_bytes: int, max_upload_bytes: int, now: Callable[[], float]
    ) -> None:
        self._app = app
        self._max_json_bytes = max_json_bytes
        self._max_upload_bytes = max_upload_bytes
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._limit(scope, headers)
        announced = headers.get("content-length", "")
        if announced.isdecimal() and _exceeds(announced, limit.max_bytes):
            await answer_error(limit.error(), scope["path"], self._now())(scope, receive, send)
            return
        await self._app(scope, _bounded(receive, limit), send)

    def _limit(self, scope: Scope, headers: Headers) -> _Limit:
        """The bound of this request's body."""
        dialect, path = dialect_at(scope["path"])
        is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        takes_files = (is_form or scope["method"] == "PUT") and any(
            scope["method"] == method and is_below(path, head) for method, head in dialect.uploads
        )
        if not takes_files:
            return _Limit(self._max_json_bytes, self._max_json_bytes, JSON_TOO_LARGE)
        slack_bytes = _FORM_SLACK_BYTES if is_form else 0
        return _Limit(self._max_upload_bytes + slack_bytes, self._max_upload_bytes, dialect.too_large)


def _exceeds(announced: str, limit_bytes: int) -> bool:
    return len(announced) > 18 or int(announced) > limit_bytes


def _bounded(receive: Receive, limit: _Limit) -> Receive:
    """`receive` that raises BodyTooLarge once more body came than the limit allows."""
    received_bytes = 0

    async def receive_bounded() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > limit.max_bytes:
            raise limit.error()
        return message

    return receive_bounded


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    text = given.decode("latin-1")
    return text if _SANE_ID.fullmatch(text) else uuid.uuid4().hex


def _is_open(scope: Scope) -> bool:
    """Whether a request without a key may go on; its route still knows that it has no caller."""
    _, path = dialect_at(scope["path"])
    return path in OPEN_PATHS or is_signed_file(scope, path)
