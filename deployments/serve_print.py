"""`print` in a replica as Python has it, for libraries that write files by it."""

from __future__ import annotations

import builtins
import sys
from typing import Any

from ray.serve._private import logging_utils


def repair_print() -> None:
    """Make `print(…, file=f)` write its arguments, where Serve has replaced `print` in this process.

    Ray Serve 2.60 does so in replicas that log to files only (RAY_SERVE_THROUGHPUT_OPTIMIZED sets that), and
    then writes the tuple of the arguments: `redirected_print` hands them on without a star. What goes
    to the console is still Serve's to log.
    """
    if builtins.print is logging_utils.redirected_print:
        builtins.print = _print


def _print(*objects: Any, file: Any = None, **options: Any) -> None:
    if file is None or file is sys.stdout or file is sys.stderr:
        logging_utils.redirected_print(*objects, file=file, **options)
    else:
        logging_utils.buildin_print(*objects, file=file, **options)
