"""The client of a mediaray server: `Client`, the values it returns, and the errors it raises."""

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
from mediaray.values import ModelView, Progress, RemoteFile, TaskView, Transfer

__all__ = [
    "ApiError",
    "ChecksumMismatch",
    "Client",
    "MediarayError",
    "ModelView",
    "Progress",
    "RemoteFile",
    "ServerUnavailable",
    "TaskCancelled",
    "TaskFailed",
    "TaskView",
    "Transfer",
    "WaitTimeout",
]
