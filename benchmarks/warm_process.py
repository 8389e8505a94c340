"""A process that has loaded and warmed up what is measured, and does it again for every line it is given.

Its counterpart is a module's main that prints `ready`, and then answers each line of its stdin with a line of
JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import psutil

from benchmarks.processes import NotStarted, end_tree, tail
from benchmarks.systems import ROOT


class WarmProcess:
    """`python -m module *arguments`, ended on leaving. Raises NotStarted when it ends before that."""

    def __init__(self, module: str, *arguments: str, log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = psutil.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
            )
        self._line("ready")

    def ask(self, line: str = "") -> dict[str, Any]:
        """What the process tells of another run."""
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._line("{"))
        return told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end_tree(self._process)

    def _line(self, begin: str) -> str:
        """The next line that begins so; libraries may print others."""
        for line in self._process.stdout:
            if line.startswith(begin):
                return str(line)
        end_tree(self._process)
        raise NotStarted(f"it ended before it answered:\n{tail(self._log)}")
