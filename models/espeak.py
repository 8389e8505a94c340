"""English text to IPA by espeak-ng, in a child process of its own (`models/espeak_child.py` says why)."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path

from models.errors import ModelNotReady, TransientFailure

PACKAGE = "espeakng-loader"  # carries the shared library and its data; never imported
ENGLISH = "en-us"
_PROGRAM = str(Path(__file__).with_name("espeak_child.py"))
_LIBRARY = "espeakng_loader/libespeak-ng.so"
_DATA = "espeakng_loader/espeak-ng-data"
_ANSWER_TIMEOUT_S = 10.0  # a segment takes milliseconds
_TRIES = 2


class Espeak:
    """The child: started at the first text, kept, and started again when it has died. Thread-safe."""

    def __init__(self) -> None:
        self._command = [sys.executable, "-I", _PROGRAM, *_installed()]
        self._child: subprocess.Popen[str] | None = None
        self._ending: weakref.finalize[[subprocess.Popen[str]], Espeak] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def clauses(self, text: str, voice: str = ENGLISH) -> list[tuple[str, str]]:
        """The clauses of `text` (one line) and their IPA. Raises TransientFailure."""
        request = json.dumps({"voice": voice, "text": text}) + "\n"
        with self._lock:
            answer = next((answer for _ in range(_TRIES) if (answer := self._ask(request))), "")
        if not answer:
            raise TransientFailure("espeak-ng ended while it read a text")
        ends = [0, *(end for end, _ in json.loads(answer))]
        pieces = [text[start:end] for start, end in itertools.pairwise(ends)]
        return [(piece, ipa) for piece, (_, ipa) in zip(pieces, json.loads(answer), strict=True)]

    def close(self) -> None:
        """End the child; the next text starts another."""
        with self._lock:
            self._end()

    def _ask(self, request: str) -> str:
        """The answer; "" when the child is or goes dead, or says nothing in time."""
        child = self._running()
        watchdog = threading.Timer(_ANSWER_TIMEOUT_S, child.kill)
        watchdog.start()
        answer = ""
        try:
            child.stdin.write(request)  # type: ignore[union-attr]  # both are pipes
            child.stdin.flush()  # type: ignore[union-attr]
            answer = child.stdout.readline()  # type: ignore[union-attr]
        except BrokenPipeError:
            pass  # dead: told by an empty answer
        finally:
            watchdog.cancel()
        if not answer.endswith("\n"):
            self._end()
            return ""
        return answer

    def _running(self) -> subprocess.Popen[str]:
        if self._child is None:
            self._child = subprocess.Popen(  # noqa: S603 - our own program and files
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
            )
            self._ending = weakref.finalize(self, _ended, self._child)
        return self._child

    def _end(self) -> None:
        self._child = None
        if self._ending is not None:
            self._ending()


def _ended(child: subprocess.Popen[str]) -> None:
    child.kill()
    with suppress(BrokenPipeError):
        child.communicate()


def _installed() -> tuple[str, str]:
    """The shared library and the data folder; raises ModelNotReady."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelNotReady(f"a package is not installed: pip install {PACKAGE}") from error
    library, data = (Path(str(distribution.locate_file(path))) for path in (_LIBRARY, _DATA))
    if not library.is_file() or not data.is_dir():
        raise ModelNotReady(f"{PACKAGE} has no {_LIBRARY} on this platform")
    return str(library), str(data)
