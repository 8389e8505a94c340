"""Scratch folders: replicas that start together leave each other alone, dead ones are cleaned up."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import held_folders
from cluster.held_folders import HeldFolder
from deployments.workspaces import Workspaces

Start = Callable[[str], Workspaces]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started = []

    def start(owner: str) -> Workspaces:
        started.append(Workspaces(tmp_path, owner))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_neighbour_that_starts_meanwhile_leaves_a_new_folder_alone(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The neighbour starts when the folder exists and its lock is not held yet."""
    locked = held_folders._locked
    neighbour = threading.Thread(target=start, args=("neighbour",))

    def locked_late(path: Path) -> object:
        if path.parent.name == "first" and neighbour.ident is None:
            neighbour.start()
            neighbour.join(0.2)  # it must wait for us, so that this runs out
        return locked(path)

    monkeypatch.setattr(held_folders, "_locked", locked_late)
    first = start("first")
    neighbour.join()
    assert first.path("task").parent.is_dir()
    assert (tmp_path / "neighbour").is_dir()
    assert locked(tmp_path / "first" / ".lock") is None


def test_simultaneous_starts_each_hold_their_folder(tmp_path: Path, start: Start) -> None:
    barrier = threading.Barrier(8)
    started: list[Workspaces] = []

    def start_together(name: str) -> None:
        barrier.wait()
        started.append(start(name))

    threads = [threading.Thread(target=start_together, args=(f"r{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 8
    for number in range(8):
        assert held_folders._locked(tmp_path / f"r{number}" / ".lock") is None


def test_a_folder_that_another_replica_holds_is_refused(start: Start) -> None:
    holder = start("same")
    with pytest.raises(RuntimeError, match="another process works in"):
        start("same")
    assert holder.path("x").parent.is_dir()


def test_only_folders_of_dead_replicas_are_removed(tmp_path: Path, start: Start) -> None:
    (tmp_path / "dead" / "task-1").mkdir(parents=True)
    (tmp_path / "dead" / ".lock").touch()
    (tmp_path / "not-ours").mkdir()
    alive = start("alive")
    start("next")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "alive",
        "next",
        "not-ours",
    ]
    alive.close()
    assert not (tmp_path / "alive").exists()


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    """A process of its own holds the folder, and is killed: no clean-up of its own runs."""
    program = (
        "import os, pathlib, signal, sys; from api import flashvsr_files as files;"
        "files.concat_chunks = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "from cluster.local_storage import LocalArtifactStore; root = pathlib.Path(sys.argv[1]);"
        "store = LocalArtifactStore(root / 'store'); writer = store.writer('tasks/t/partial/0.mp4');"
        "writer.write(b'part'); writer.commit();"
        "files.join_finished_parts(store, 't', '', 'tasks/t/derived/partial.mp4', root / 'work')"
    )
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    work = tmp_path / "work"
    assert [path for path in work.rglob("*") if path.name == "0.mp4"]
    with HeldFolder(work, "next"):
        assert [path.name for path in work.iterdir() if path.is_dir()] == ["next"]
    assert not [path for path in work.iterdir() if path.is_dir()]
