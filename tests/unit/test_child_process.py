"""Children: their lines, their errors, and that none outlives its attempt."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from models.child_process import run_child
from models.engine import Cancelled, PermanentFailure


def _never() -> None:
    pass


def test_lines_arrive_in_order() -> None:
    lines: list[str] = []
    run_child(["sh", "-c", "echo one; echo two"], check=_never, on_line=lines.append)
    assert lines == ["one", "two"]


def test_a_failing_child_tells_its_stderr() -> None:
    with pytest.raises(PermanentFailure, match="no such thing"):
        run_child(["sh", "-c", "echo no such thing >&2; exit 3"], check=_never)


@pytest.mark.parametrize(
    "script",
    ["sleep 60", "exec >&-; sleep 60", "sleep 60 & wait", "trap '' TERM; sleep 60"],
    ids=["silent", "closed stdout", "grandchild", "ignores SIGTERM"],
)
def test_a_raising_check_ends_the_whole_group(script: str) -> None:
    started = time.monotonic()

    def check() -> None:
        if time.monotonic() - started > 0.3:
            raise Cancelled

    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(Cancelled):
        run_child(["sh", "-c", script], check=check)
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]


def test_an_error_of_on_line_ends_the_child() -> None:
    def on_line(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match="bad"):
        run_child(["sh", "-c", "echo bad; sleep 60"], check=_never, on_line=on_line)


def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program = textwrap.dedent(f"""
        from models.child_process import run_child
        run_child(["sh", "-c", "echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 60"],
                  check=lambda: None)
    """)
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        while not pid_file.exists():
            assert parent.poll() is None
        child = psutil.Process(int(pid_file.read_text()))
        parent.kill()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
