"""A folder of stored files as an engine gets it: whole, under its names, bounded, stopped when told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from cluster import stored_folders
from cluster.errors import ArtifactNotFound, FolderNotUsable
from cluster.local_storage import LocalArtifactStore
from cluster.storage import ArtifactStore
from cluster.stored_folders import FolderMark, mark_facts
from cluster.task import FailureCode, Outcome, OutcomeKind, Task
from deployments.attempt import RunningAttempt
from deployments.direct_call import run_directly
from deployments.engines import EngineRoom
from deployments.workspaces import Workspaces
from models.engine import (
    DownloadUrl,
    EngineKind,
    EngineSpec,
    InputFile,
    InvalidInput,
    MediaKind,
    ModelSpec,
    Result,
)
from models.site import Site
from tests.stores import MAX_FOLDER_BYTES, SAMPLES, file_access, put
from tests.unit.test_attempt import TASK, Toy
from tests.web_server import web_server

PREFIX = "tasks/other/1-abc/keyframes/"
FILES = {"a.jpg": b"one", "deep/er/b.jpg": b"two", "视频 №1.jpg": b"three"}


class FolderInputs(BaseModel):
    frames: Annotated[str | None, InputFile(MediaKind.FOLDER)] = None
    video: Annotated[str | None, InputFile(MediaKind.VIDEO)] = None


def read(inputs: Any, _context: Any) -> Result:
    folder = Path(inputs.frames)
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.jpg")}
    return Result({"name": folder.name, "files": found})


def room(run: Callable[[Any, Any], Result] = read) -> EngineRoom:
    class Reader(Toy):
        def run(self, inputs: Any, context: Any) -> Result:
            return run(inputs, context)

    spec = EngineSpec(name="toy-engine", kind=EngineKind.EMBEDDED, make=lambda: Reader(lambda _: Result()))
    model = ModelSpec(name="toy.run", title="A toy", inputs=FolderInputs, engines=(spec,))
    return EngineRoom([model], site=Site(), device="cpu", threads=1)


@pytest.fixture
def storage(tmp_path: Path) -> LocalArtifactStore:
    store = LocalArtifactStore(tmp_path / "artifacts")
    for name, content in FILES.items():
        put(store, PREFIX + name, content)
    put(store, "tasks/other/1-abc/keyframes.zip", b"beside it")
    return store


def asked(**inputs: Any) -> Task:
    return replace(TASK, name="toy.run", inputs={"frames": PREFIX, **inputs}, files={"frames": PREFIX})


def attempt_of(storage: ArtifactStore, folder: Path, task: Task | None = None) -> RunningAttempt:
    return RunningAttempt(task or asked(), folder / "work", file_access(storage), device="cpu", threads=1)


def failure_of(outcome: Outcome) -> tuple[FailureCode, bool, str]:
    assert outcome.failure is not None
    return outcome.failure.code, outcome.failure.is_transient, outcome.failure.message


def test_every_file_comes_under_its_name_and_is_told(storage: LocalArtifactStore, tmp_path: Path) -> None:
    attempt = attempt_of(storage, tmp_path)
    outcome = attempt.run(room())
    assert outcome.result is not None, outcome.failure
    assert outcome.result["name"] == "keyframes"
    assert outcome.result["files"] == {name: content.decode() for name, content in FILES.items()}
    progress = attempt.progress
    assert (progress.stage, progress.done, progress.total, progress.unit) == ("fetch", 3, 3, "files")


def test_a_folder_beside_a_video_behind_a_url(storage: LocalArtifactStore, tmp_path: Path) -> None:
    """The look at what was downloaded passes over the folder."""
    with web_server() as server:
        server.serve("/a.mp4", 200, (SAMPLES / "carphone_pristine.mp4").read_bytes())
        task = asked(video=server.url("/a.mp4"))
        outcome = attempt_of(storage, tmp_path, task).run(room())
    assert outcome.kind is OutcomeKind.SUCCEEDED, outcome.failure


def test_a_folder_that_is_gone_is_told_by_field(storage: LocalArtifactStore, tmp_path: Path) -> None:
    storage.delete_prefix(PREFIX)
    text = f"frames: the folder is gone since the task was submitted: {PREFIX}"
    outcome = attempt_of(storage, tmp_path).run(room())
    assert failure_of(outcome) == (FailureCode.FILE_NOT_FOUND, False, text)


def test_a_file_that_goes_meanwhile_is_told_by_field(
    storage: LocalArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list(storage.sizes(PREFIX))
    storage.delete(PREFIX + "a.jpg")
    monkeypatch.setattr(storage, "sizes", lambda _: iter(sizes))
    text = f"frames: the file is gone since the task was submitted: {PREFIX}a.jpg"
    outcome = attempt_of(storage, tmp_path).run(room())
    assert failure_of(outcome) == (FailureCode.FILE_NOT_FOUND, False, text)


def remembered(storage: ArtifactStore) -> Task:
    """A task whose submit saw the folder as it is now."""
    mark = FolderMark.of(stored_folders.sizes_below(storage, PREFIX, MAX_FOLDER_BYTES))
    return replace(asked(), facts=mark_facts({"frames": mark}))


def test_a_folder_as_it_was_at_the_submit_is_taken(storage: LocalArtifactStore, tmp_path: Path) -> None:
    outcome = attempt_of(storage, tmp_path, remembered(storage)).run(room())
    assert outcome.kind is OutcomeKind.SUCCEEDED, outcome.failure


@pytest.mark.parametrize(
    ("gone", "put_now", "counts"),
    [
        pytest.param(["a.jpg", "deep/er/b.jpg"], {}, "3 files then, 1 now", id="lost"),
        pytest.param([], {"c.jpg": b"four"}, "3 files then, 4 now", id="gained"),
        pytest.param(
            ["a.jpg"], {"c.jpg": b"one"}, "3 files as then, but of other names or sizes", id="renamed"
        ),
        pytest.param(
            [], {"a.jpg": b"longer"}, "3 files as then, but of other names or sizes", id="overwritten"
        ),
    ],
)
def test_a_folder_that_changed_since_the_submit_fails_the_task(
    storage: LocalArtifactStore, tmp_path: Path, gone: list[str], put_now: dict[str, bytes], counts: str
) -> None:
    task = remembered(storage)
    for name in gone:
        storage.delete(PREFIX + name)
    for name, content in put_now.items():
        put(storage, PREFIX + name, content)
    text = f"frames: the folder has changed since the task was submitted: {counts}: {PREFIX}"
    outcome = attempt_of(storage, tmp_path, task).run(room())
    assert failure_of(outcome) == (FailureCode.FILE_NOT_FOUND, False, text)


def test_a_file_replaced_while_it_is_fetched_fails_the_task(
    storage: LocalArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list(storage.sizes(PREFIX))
    put(storage, PREFIX + "a.jpg", b"longer")
    monkeypatch.setattr(storage, "sizes", lambda _: iter(sizes))
    code, _, text = failure_of(attempt_of(storage, tmp_path).run(room()))
    assert (code, "of other names or sizes" in text) == (FailureCode.FILE_NOT_FOUND, True)


def test_a_folder_that_grew_too_large_is_refused(storage: LocalArtifactStore, tmp_path: Path) -> None:
    put(storage, PREFIX + "large", bytes(MAX_FOLDER_BYTES))
    code, is_transient, text = failure_of(attempt_of(storage, tmp_path).run(room()))
    assert (code, is_transient) == (FailureCode.INVALID_PARAMS, False)
    assert text.startswith("frames: the files of the folder are larger than")


def test_a_cancel_ends_the_fetching(storage: LocalArtifactStore, tmp_path: Path) -> None:
    for number in range(50):
        put(storage, f"{PREFIX}{number:03}.jpg", b"x")

    class Slow(LocalArtifactStore):
        has_begun, may_go_on = threading.Event(), threading.Event()
        fetched: list[str]

        def fetch(self, key: str, path: Path) -> None:
            self.has_begun.set()
            self.may_go_on.wait()
            self.fetched.append(key)
            super().fetch(key, path)

    slow = Slow(tmp_path / "artifacts")
    slow.fetched = []
    attempt = attempt_of(slow, tmp_path)
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(attempt.run(room())))
    thread.start()
    slow.has_begun.wait()
    attempt.cancel()
    slow.may_go_on.set()
    thread.join()
    assert outcomes[0].kind is OutcomeKind.CANCELLED
    assert len(slow.fetched) < 53


def test_results_carry_keys_and_urls_at_any_depth(storage: LocalArtifactStore, tmp_path: Path) -> None:
    """And every file below the output folder is an artifact, named in the result or not."""

    def make(_inputs: Any, context: Any) -> Result:
        paths = [context.output_dir / name for name in ("a.srt", "more/b.json", "unnamed.txt")]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
        a, b, _ = paths
        files = {"basic": a, "extra": [{"json": b, "url": DownloadUrl(b)}, (a, None)]}
        return Result({"subtitle_files": files, "subtitle_path": a})

    outcome = attempt_of(storage, tmp_path).run(room(make))
    below = f"tasks/{TASK.id}/{TASK.fence}/"
    assert outcome.result is not None, outcome.failure
    assert outcome.result["subtitle_files"] == {
        "basic": f"{below}a.srt",
        "extra": [
            {"json": f"{below}more/b.json", "url": {"$download": f"{below}more/b.json"}},
            [f"{below}a.srt", None],
        ],
    }
    assert [artifact.name for artifact in outcome.artifacts] == ["a.srt", "more/b.json", "unnamed.txt"]


@pytest.fixture
def workspaces(tmp_path: Path) -> Iterator[Workspaces]:
    workspaces = Workspaces(tmp_path / "calls", "owner")
    yield workspaces
    workspaces.close()


@pytest.mark.parametrize(
    ("inputs", "files"), [({"frames": "a/b"}, {}), ({}, {"frames": b"x"})], ids=["named", "as content"]
)
def test_a_direct_call_refuses_a_folder(
    workspaces: Workspaces, inputs: dict[str, str], files: dict[str, bytes]
) -> None:
    with pytest.raises(InvalidInput, match="frames is a folder, which no direct call can carry") as caught:
        run_directly(room(), workspaces, name="toy.run", inputs=inputs, files=files)
    assert caught.value.field == "frames"


class Listed:
    """A store with these keys, as S3 may hold them."""

    def __init__(self, *keys: str) -> None:
        self._keys = keys

    def sizes(self, _prefix: str) -> Iterator[tuple[str, int]]:
        return iter([(key, 1) for key in self._keys])


def test_names_are_relative_and_in_order() -> None:
    store: Any = Listed("f/a", "f/a.b/c", "f/a0")
    assert list(stored_folders.sizes_below(store, "f/", 3)) == ["a", "a.b/c", "a0"]


@pytest.mark.parametrize(
    ("keys", "problem", "words"),
    [
        pytest.param((), ArtifactNotFound, "f/", id="none"),
        pytest.param(("f/a", "f/b", "f/c"), FolderNotUsable, "larger than the 2 bytes", id="too large"),
        pytest.param(
            ("f/a", "f/a/b"), FolderNotUsable, "a is a file and also a folder", id="file and folder"
        ),
    ],
)
def test_what_no_disk_or_task_can_hold(keys: tuple[str, ...], problem: type[Exception], words: str) -> None:
    store: Any = Listed(*keys)
    with pytest.raises(problem, match=words):
        stored_folders.sizes_below(store, "f/", 2)
