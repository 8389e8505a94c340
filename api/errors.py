"""What callers see when something is refused: ONE table, error class -> HTTP status, code, text.

    Refused                a request the HTTP edge itself turns down
    ├── BadRequest         400
    │   └── WrongContent   400
    ├── Unauthorized       401
    ├── Forbidden          403
    ├── NotFound           404
    ├── Conflict           409
    ├── BodyTooLarge       413
    ├── Unprocessable      422, with a list of errors as FastAPI writes it
    ├── TooManyRequests    429
    ├── ServerFault        500 with a text the contract fixes
    ├── TooManyListeners   503
    └── Unavailable        503 with a text that says what is missing

Errors of the cluster and of the models have rows of their own; what has no row is a defect: it is
logged with its traceback and answered as 500 without internals (`api.middleware.Outermost`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.answers import Json
from api.dialects import Dialect, Problem, dialect_at
from cluster.errors import (
    ArtifactNotFound,
    BadSignature,
    DeliveryNotFound,
    DeliveryPending,
    DuplicateTask,
    ExpiredUrl,
    FolderNotUsable,
    IllegalStep,
    InvalidKey,
    QueueFull,
    RegistryFault,
    RegistryUnavailable,
    StorageFailure,
    TaskConflict,
    TaskNotFound,
    UrlProblem,
)
from models.engine import InvalidInput, ModelNotReady, PermanentFailure, TransientFailure

RETRY_AFTER_S = 2
REGISTRY_FAULT = "the registry failed on this request; its log says why"


class Refused(Exception):
    """Root of what the HTTP edge refuses; `code` is public, `details` go into the envelope."""

    def __init__(self, detail: Any, *, code: str | None = None, details: Any = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.details = details


class BadRequest(Refused):
    """The request is understood and wrong."""


class WrongContent(BadRequest):
    """A file is not what its input needs, or cannot be decoded; `details["field"]` names the input."""


class Unauthorized(Refused):
    """No valid key."""


class Forbidden(Refused):
    """Not from there: a host or page that a server without keys does not serve."""


class NotFound(Refused):
    """No such thing at this address."""


class Conflict(Refused):
    """The address is taken by something else."""


class BodyTooLarge(Refused):
    """The body is, or claims to be, larger than the server accepts."""


class Unprocessable(Refused):
    """`detail` is a list of {type, loc, msg}, as FastAPI's own validation answers it."""


class Unavailable(Refused):
    """What the request needs is not there now; the text says what."""


class TooManyRequests(Refused):
    """The caller's limit for this minute is reached."""

    def __init__(self, detail: Any, *, retry_after_s: int = RETRY_AFTER_S) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class TooManyListeners(Refused):
    """The process holds as many event streams and long polls open as it may."""


class ServerFault(Refused):
    """Our fault, with a text that the contract fixes; raise it `from` the cause."""


@dataclass(frozen=True, slots=True)
class Row:
    """`text` makes the public `detail`; None takes the error's own."""

    status: int
    code: str
    text: Callable[[Any, Dialect], Any] | None = None
    headers: Callable[[Any], dict[str, str]] = lambda _error: {}


def _not_found(error: TaskNotFound, dialect: Dialect) -> str:
    return dialect.not_found.format(id=error.task_id)


def _retry_soon(_error: Exception) -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_S)}


ROWS: Mapping[type[Exception], Row] = {
    BadRequest: Row(400, "INVALID_PARAMS"),
    Unauthorized: Row(401, "UNAUTHORIZED", headers=lambda _error: {"WWW-Authenticate": "Bearer"}),
    Forbidden: Row(403, "FORBIDDEN"),
    NotFound: Row(404, "NOT_FOUND"),
    Conflict: Row(409, "CONFLICT"),
    BodyTooLarge: Row(413, "BODY_TOO_LARGE", headers=lambda _error: {"Connection": "close"}),
    Unprocessable: Row(422, "INVALID_PARAMS"),
    TooManyRequests: Row(
        429, "RATE_LIMITED", headers=lambda error: {"Retry-After": str(error.retry_after_s)}
    ),
    TooManyListeners: Row(503, "TOO_MANY_LISTENERS", headers=_retry_soon),
    ServerFault: Row(500, "INTERNAL_ERROR"),
    Unavailable: Row(503, "UNAVAILABLE"),
    TaskNotFound: Row(404, "TASK_NOT_FOUND", _not_found),
    TaskConflict: Row(
        409,
        "TASK_CONFLICT",
        lambda error, _: f"the task id or idempotency key is taken by a different request: {error.task_id}",
    ),
    DeliveryNotFound: Row(
        404, "DELIVERY_NOT_FOUND", lambda error, _: f"the task has no delivery {error.number}"
    ),
    DeliveryPending: Row(
        409, "DELIVERY_PENDING", lambda error, _: f"delivery {error.number} is still being tried"
    ),
    DuplicateTask: Row(
        409, "DUPLICATE_TASK", lambda *_: "已存在使用相同输入文件与参数配置的任务，请勿重复提交。"
    ),
    QueueFull: Row(
        503,
        "QUEUE_FULL",
        lambda *_: "服务繁忙，请稍后重试",
        lambda error: {"Retry-After": str(error.retry_after_s)},
    ),
    IllegalStep: Row(400, "INVALID_STATUS", lambda error, _: f"the task is {error.status}"),
    RegistryFault: Row(500, "INTERNAL_ERROR", lambda *_: REGISTRY_FAULT),
    RegistryUnavailable: Row(
        503,
        "REGISTRY_UNAVAILABLE",
        lambda *_: "the task registry is restarting; try again with the same task_id",
        _retry_soon,
    ),
    InvalidKey: Row(400, "INVALID_PATH", lambda *_: "无效的文件路径"),
    ArtifactNotFound: Row(404, "FILE_NOT_FOUND", lambda *_: "文件不存在"),
    FolderNotUsable: Row(400, "INVALID_PARAMS", lambda error, _: str(error)),
    StorageFailure: Row(503, "STORAGE_FAILURE", lambda error, _: str(error), _retry_soon),
    ExpiredUrl: Row(403, "URL_EXPIRED", lambda *_: "the download URL has expired; ask for a new one"),
    BadSignature: Row(403, "FORBIDDEN", lambda *_: "the download token is not valid for this file"),
    UrlProblem: Row(400, "INVALID_URL", lambda error, _: str(error)),
    InvalidInput: Row(400, "INVALID_PARAMS", lambda error, _: str(error)),
    PermanentFailure: Row(500, "INTERNAL_ERROR", lambda error, _: str(error)),
    TransientFailure: Row(503, "UNAVAILABLE", lambda error, _: str(error), _retry_soon),
    ModelNotReady: Row(503, "MODEL_NOT_READY", lambda error, _: str(error)),
    ClientDisconnect: Row(400, "CLIENT_DISCONNECTED", lambda *_: "the request body ended early"),
}


def problem_of(error: Exception, dialect: Dialect, at: float) -> tuple[Problem, dict[str, str]]:
    """The public face of an error that has a row."""
    row = next(ROWS[kind] for kind in type(error).__mro__ if kind in ROWS)
    detail = row.text(error, dialect) if row.text else getattr(error, "detail", str(error))
    code = getattr(error, "code", None) or row.code
    return Problem(row.status, code, detail, getattr(error, "details", None), at), row.headers(error)


def answer_problem(problem: Problem, dialect: Dialect, headers: Mapping[str, str] | None = None) -> Json:
    return Json(dialect.error_body(problem), problem.status, headers)


def error_list(errors: Iterable[Mapping[str, Any]], *where: str) -> list[dict[str, Any]]:
    """Pydantic's errors as FastAPI lists them, without the caller's own (maybe huge) input."""
    return [{"type": error["type"], "loc": [*where, *error["loc"]], "msg": error["msg"]} for error in errors]


def answer_error(error: Exception, path: str, at: float) -> Json:
    """The answer to any error this module knows, in the dialect that speaks at `path`."""
    dialect, _ = dialect_at(path)
    if isinstance(error, RequestValidationError):
        error = Unprocessable(error_list(error.errors()))
    if isinstance(error, HTTPException):
        codes = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}
        problem = Problem(error.status_code, codes.get(error.status_code, "HTTP_ERROR"), error.detail, at=at)
        return answer_problem(problem, dialect, error.headers)
    problem, headers = problem_of(error, dialect, at)
    return answer_problem(problem, dialect, headers)


HANDLED: tuple[type[Exception], ...] = (*ROWS, RequestValidationError, HTTPException)
