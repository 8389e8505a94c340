"""Child programs of an attempt: a process group of its own, ended with the attempt or its process."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

from models.errors import PermanentFailure

_STDERR_LINES = 40
_CHECK_S = 0.1
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def run_child(
    argv: Sequence[str], *, check: Callable[[], None], on_line: Callable[[str], None] | None = None
) -> None:
    """Run a program to its end; `on_line` sees each line of its stdout, on this thread.

    `check` is called at least every 0.1 s; whatever it or `on_line` raises ends the group first. Raises
    PermanentFailure with the tail of stderr when the child exits non-zero.
    """
    child = subprocess.Popen(  # noqa: S603 - argv comes from an engine, never from a shell string
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, no Python state
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    errors: deque[str] = deque(maxlen=_STDERR_LINES)
    readers = [
        _reader(child.stdout, lines.put, at_end=lambda: lines.put(None)),
        _reader(child.stderr, errors.append),
    ]
    try:
        _follow(lines, check, on_line)
        _wait(child, check)
    finally:
        _end_group(child)
        for reader in readers:
            reader.join()
    if child.returncode:
        raise PermanentFailure("".join(errors).strip() or f"{argv[0]} exited with {child.returncode}")


def _follow(
    lines: queue.SimpleQueue[str | None], check: Callable[[], None], on_line: Callable[[str], None] | None
) -> None:
    while True:
        check()
        try:
            line = lines.get(timeout=_CHECK_S)
        except queue.Empty:
            continue
        if line is None:
            return
        if on_line is not None:
            on_line(line.rstrip("\n"))


def _wait(child: subprocess.Popen[str], check: Callable[[], None]) -> None:
    """A child may close its stdout and go on working."""
    while True:
        try:
            child.wait(timeout=_CHECK_S)
        except subprocess.TimeoutExpired:
            check()
        else:
            return


def _reader(
    stream: IO[str] | None, take: Callable[[str], object], at_end: Callable[[], object] = lambda: None
) -> threading.Thread:
    def read() -> None:
        if stream is not None:
            with stream:
                for line in stream:
                    take(line)
        at_end()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _end_group(child: subprocess.Popen[str]) -> None:
    """Kill whatever is left of the group; its leader may be gone while a grandchild lives."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
