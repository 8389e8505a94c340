"""The clients of a mediaray server, the values they return, and the errors they raise."""

from mediaray.async_client import AsyncClient
from mediaray.client import Client
from mediaray.errors import (
    ApiError,
    ChecksumMismatch,
    MediarayError,
    ServerUnavailable,
    TaskCancelled,
    TaskFailed,
    WaitTimeout,
)
from mediaray.events import LogLines, ProgressChange, StatusChange, TaskEnd, TaskEvent
from mediaray.values import (
    Delivery,
    DeliveryTry,
    EngineView,
    ModelView,
    Progress,
    RemoteFile,
    TaskView,
    Transfer,
)

__all__ = [
    "ApiError",
    "AsyncClient",
    "ChecksumMismatch",
    "Client",
    "Delivery",
    "DeliveryTry",
    "EngineView",
    "LogLines",
    "MediarayError",
    "ModelView",
    "Progress",
    "ProgressChange",
    "RemoteFile",
    "ServerUnavailable",
    "StatusChange",
    "TaskCancelled",
    "TaskEnd",
    "TaskEvent",
    "TaskFailed",
    "TaskView",
    "Transfer",
    "WaitTimeout",
]
