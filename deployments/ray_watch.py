"""What ends a private server before its time: a signal that tells it to stop, or the death of Ray itself."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

import psutil

from cluster.settings import environment_of_start

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CORE = frozenset({"raylet", "gcs_server"})
_WATCH_S = 1.0
_STOP_S = 15.0

logger = logging.getLogger("mediaray")


class RayWatch:
    """Make it before anything changes the environment: with that one the process begins anew."""

    def __init__(self) -> None:
        self.is_told_to_stop = False
        self._environment = environment_of_start()
        self._core: dict[psutil.Process, str] = {}
        self._is_over = False
        self._is_beginning_anew = threading.Lock()

    def begin(self) -> None:
        """Call on the main thread after ray.init, which installs signal handlers of its own."""
        children = {process: process.name() for process in psutil.Process().children()}
        self._core = {process: name for process, name in children.items() if name in _CORE}
        for number in _STOP_SIGNALS:
            signal.signal(number, self._hear)
        threading.Thread(target=self._watch, name="ray-watch", daemon=True).start()

    def end(self) -> None:
        """Ray's processes may go now, and further signals break nothing off."""
        self._is_over = True

    def died(self) -> str | None:
        """The process of Ray's own that has ended, if one has: replicas go on then, and none start any more.

        Reaps it; Ray's workers end once its process id has gone.
        """
        dead, _ = psutil.wait_procs(self._core, timeout=0)
        return self._core[dead[0]] if dead else None

    def begin_anew(self, dead: str) -> NoReturn:
        """End what is left of Ray, and start again in this process as if it had just been started."""
        self._is_beginning_anew.acquire()  # once: whichever thread comes second waits for its end
        logger.warning("Ray's %s died: starting everything again, with every accepted task", dead)
        end_processes(psutil.Process().children(recursive=True))
        if self.is_told_to_stop:
            os._exit(0)
        os.execve(sys.executable, sys.orig_argv, self._environment)  # noqa: S606 - no shell

    def _watch(self) -> None:
        """On a thread of its own: the main one may wait in Ray for an answer, deaf to everything."""
        while not self._is_over:
            if dead := self.died():
                self.begin_anew(dead)
            time.sleep(_WATCH_S)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        """Break the main thread off, by the one exception that Ray lets through; once."""
        if not self.is_told_to_stop:
            self.is_told_to_stop = True
            logger.info("stopping; tasks that run now start again with the next server")
        if not self._is_over:
            self._is_over = True
            raise KeyboardInterrupt


def end_processes(processes: list[psutil.Process], patience_s: float = 0.0) -> None:
    """Wait for their end, and kill those that take longer."""
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=_STOP_S)
