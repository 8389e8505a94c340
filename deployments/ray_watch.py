"""What ends a private server before its time: a signal that tells it to stop, or the death of Ray itself."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType

import psutil

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_RAY_DIED = signal.SIGUSR1
_CORE = frozenset({"raylet", "gcs_server"})
_WATCH_S = 1.0

logger = logging.getLogger("mediaray")


class RayDied(Exception):
    """A process without which Ray starts nothing more; the message names it."""


class RayWatch:
    """Breaks the main thread off, wherever it is, by KeyboardInterrupt: no other exception gets through Ray.

    Once: nothing breaks off the cleaning up that follows. Replicas may take for ever to start, and where Ray
    itself has died they do.
    """

    def __init__(self) -> None:
        self.is_told_to_stop = False
        self._core: dict[psutil.Process, str] = {}
        self._is_over = False

    def begin(self) -> None:
        """Call on the main thread after ray.init, which installs signal handlers of its own."""
        children = {process: process.name() for process in psutil.Process().children()}
        self._core = {process: name for process, name in children.items() if name in _CORE}
        for number in (*_STOP_SIGNALS, _RAY_DIED):
            signal.signal(number, self._hear)
        threading.Thread(target=self._watch, name="ray-watch", daemon=True).start()

    def end(self) -> None:
        """From now on signals are remembered, and break nothing off."""
        self._is_over = True

    def died(self) -> str | None:
        """The process of Ray's own that has ended, if one has: replicas go on then, and none start any more.

        Reaps it; Ray's workers end once its process id has gone.
        """
        dead, _ = psutil.wait_procs(self._core, timeout=0)
        return self._core[dead[0]] if dead else None

    def _watch(self) -> None:
        while not self._is_over:
            if self.died() is not None:
                os.kill(os.getpid(), _RAY_DIED)
                return
            time.sleep(_WATCH_S)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if number in _STOP_SIGNALS and not self.is_told_to_stop:
            self.is_told_to_stop = True
            logger.info("stopping; tasks that run now start again with the next server")
        if not self._is_over:
            self._is_over = True
            raise KeyboardInterrupt
