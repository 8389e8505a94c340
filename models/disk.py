"""A full disk, told in the same words wherever it is met."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from models.engine import PermanentFailure

DISK_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")
_DISK_FULL_CODES = {errno.ENOSPC, errno.EDQUOT}


def disk_full(text: str) -> PermanentFailure:
    return PermanentFailure(f"the disk of the worker is full: {text}")


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns a full disk under Python's own writes into PermanentFailure; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL_CODES:
            raise
        raise disk_full(str(error.strerror)) from error
