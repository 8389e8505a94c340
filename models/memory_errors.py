"""What engines on torch say when a device runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.errors import OutOfMemory


@contextmanager
def memory_errors(what: str = "this clip") -> Iterator[None]:
    """Turns torch's out of memory into ours."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise out_of_memory(error, what) from error


def out_of_memory(error: torch.OutOfMemoryError, what: str = "this clip") -> OutOfMemory:
    return OutOfMemory(f"the device has no memory for {what}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """What an error says, without what libraries add below it."""
    return (str(error).splitlines() or [""])[0][:300]
