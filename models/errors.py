"""How engines say that they cannot go on.

EngineError
├── InvalidInput        the caller's fault; never retried
├── PermanentFailure    ours, and a retry would fail again
├── TransientFailure    ours; the attempt may be repeated
│   └── OutOfMemory     repeated with the engine's declared degradation
└── ModelNotReady       weights or a device are missing; names what to install
Cancelled, TimedOut     derive from BaseException, so that no `except Exception` swallows them
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of what an engine raises on purpose."""


class InvalidInput(EngineError):
    """The input cannot be processed; `field` names the input it came from."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class PermanentFailure(EngineError):
    """The attempt failed in a way that repeating cannot mend."""


class TransientFailure(EngineError):
    """The attempt failed for a passing reason; it may be repeated."""


class OutOfMemory(TransientFailure):
    """The device ran out of memory."""


class ModelNotReady(EngineError):
    """A weight file or device is missing; the message says what to install."""


class Cancelled(BaseException):
    """The caller cancelled; raised by `RunContext.report` and `check`. Clean up and let it pass."""


class TimedOut(BaseException):
    """The run deadline passed; raised like Cancelled."""
