"""A file input behind a URL: downloaded by the attempt, looked at like an upload, failing in clear words."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from cluster import keys
from cluster.settings import Settings
from cluster.storage import ArtifactStore, open_store
from cluster.task import FailureCode, Outcome, OutcomeKind, Task
from cluster.urls import UrlGuard
from deployments.attempt import RunningAttempt
from deployments.attempt_inputs import FileAccess
from deployments.attempt_logs import ATTEMPT_LOGS
from deployments.engines import EngineRoom
from models.engine import EngineKind, EngineSpec, InputFile, MediaKind, ModelSpec, Result
from models.media import probe
from models.site import Site
from models.zoo import ffmpeg_audio, ffmpeg_subtitle_images
from tests.stores import SAMPLES, content_of, file_access, put
from tests.unit.test_attempt import TASK, Toy
from tests.web_server import Request, WebServer, web_server

VIDEO, MUTE, TEXT = "bigbuckbunny.mp4", "carphone_pristine.mp4", "conversation.rttm"
Extract = Callable[[str], Outcome]
SECRET = "?X-Signature=secret"


class ToyInputs(BaseModel):
    video: Annotated[str | None, InputFile(MediaKind.VIDEO)] = None
    script: Annotated[str | None, InputFile()] = Field(None, validation_alias="text")


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as server:
        for name in (VIDEO, MUTE, TEXT):
            server.serve(f"/{name}", 200, (SAMPLES / name).read_bytes())
        server.serve("/empty.mp4")
        yield server


@pytest.fixture
def storage(tmp_path: Path) -> ArtifactStore:
    return open_store(Settings(data_dir=tmp_path / "data"))


@pytest.fixture
def files(storage: ArtifactStore) -> FileAccess:
    return file_access(storage)


@pytest.fixture
def attempt_logs() -> Iterator[None]:
    """Log lines reach their attempt as they do in a replica."""
    ATTEMPT_LOGS.install()
    yield
    logging.getLogger().removeHandler(ATTEMPT_LOGS)


@pytest.fixture
def extract(files: FileAccess, tmp_path: Path) -> Extract:
    """Runs ffmpeg.extract_audio for the file at a URL."""
    return lambda url: extracted(url, files, tmp_path)


def attempt_of(task: Task, files: FileAccess, folder: Path) -> RunningAttempt:
    return RunningAttempt(task, folder / "work", files, device="cpu", threads=1)


def asked(model: ModelSpec, **inputs: Any) -> Task:
    return replace(TASK, name=model.name, inputs=inputs)


def room(*models: ModelSpec) -> EngineRoom:
    return EngineRoom(models, site=Site(), device="cpu", threads=1)


def toy(seen: list[ToyInputs]) -> ModelSpec:
    class Reader(Toy):
        def run(self, inputs: Any, context: Any) -> Result:
            seen.append(inputs)
            return Result({name: Path(path).read_bytes().hex() for name, path in inputs if path})

    spec = EngineSpec(name="toy-engine", kind=EngineKind.EMBEDDED, make=lambda: Reader(lambda _: Result()))
    return ModelSpec(name="toy.run", title="A toy", inputs=ToyInputs, engines=(spec,))


@pytest.mark.usefixtures("attempt_logs")
def test_a_video_behind_a_url_is_worked_on(server: WebServer, files: FileAccess, tmp_path: Path) -> None:
    (model,) = ffmpeg_audio.MODELS
    attempt = attempt_of(asked(model, video_path=server.url(f"/{VIDEO}{SECRET}")), files, tmp_path)
    outcome = attempt.run(room(model))
    assert outcome.kind is OutcomeKind.SUCCEEDED, outcome.failure
    assert [artifact.name for artifact in outcome.artifacts] == ["bigbuckbunny_audio.wav"]
    assert outcome.result is not None
    assert outcome.result["duration"] == pytest.approx(probe(SAMPLES / VIDEO).duration_s, abs=0.1)
    log = content_of(files.storage, keys.log_key(attempt.task_id, attempt.task.fence)).decode()
    assert "downloaded video_path: 1055736 bytes" in log
    assert "secret" not in log


def test_stored_files_and_urls_meet_in_one_task(
    server: WebServer, storage: ArtifactStore, files: FileAccess, tmp_path: Path
) -> None:
    """Also under an alias, and under the name that the URL gives."""
    put(storage, "files/local/my.txt", b"words")
    seen: list[ToyInputs] = []
    model = toy(seen)
    video = server.url(f"/{VIDEO}")
    task = replace(asked(model, video=video, text="my.txt"), files={"script": "files/local/my.txt"})
    outcome = attempt_of(task, files, tmp_path).run(room(model))
    assert outcome.kind is OutcomeKind.SUCCEEDED, outcome.failure
    assert outcome.result is not None
    assert outcome.result["script"] == b"words".hex()
    assert outcome.result["video"] == (SAMPLES / VIDEO).read_bytes().hex()
    assert [Path(seen[0].video or "").name, Path(seen[0].script or "").name] == [VIDEO, "my.txt"]


def test_any_file_may_be_downloaded_where_any_file_will_do(
    server: WebServer, files: FileAccess, tmp_path: Path
) -> None:
    model = toy([])
    task = asked(model, text=server.url(f"/{TEXT}"))
    outcome = attempt_of(task, files, tmp_path).run(room(model))
    assert outcome.result is not None
    assert outcome.result["script"] == (SAMPLES / TEXT).read_bytes().hex()


BAD_INPUT, LOST, OURS = FailureCode.INVALID_PARAMS, FailureCode.FILE_NOT_FOUND, FailureCode.INTERNAL_ERROR


@pytest.mark.parametrize(
    ("path", "status", "failure", "words"),
    [
        (f"/{TEXT}", 200, (BAD_INPUT, False), "not a media file"),
        (f"/{MUTE}", 200, (BAD_INPUT, False), "no audio stream"),
        ("/empty.mp4", 200, (BAD_INPUT, False), "zero bytes"),
        ("/lost", 404, (LOST, False), "answered 404"),
        ("/closed", 403, (LOST, False), "answered 403"),
        ("/gone", 410, (LOST, False), "answered 410"),
        ("/strange", 418, (BAD_INPUT, False), "answered 418"),
        ("/busy", 503, (OURS, True), "answered 503"),
    ],
    ids=["text", "mute", "empty", "404", "403", "410", "418", "503"],
)
def test_what_is_wrong_is_told_by_field_and_without_secrets(
    server: WebServer, extract: Extract, path: str, status: int, failure: Any, words: str
) -> None:
    if status != 200:
        server.serve(path, status)
    told = extract(server.url(path + SECRET)).failure
    assert told is not None
    assert (told.code, told.is_transient) == failure
    assert told.message.startswith("video_path: ")
    assert words in told.message
    assert "secret" not in told.message


def test_a_stored_file_that_is_gone_is_told_by_field(files: FileAccess, tmp_path: Path) -> None:
    key = "tasks/other/1-abc/out.mp4"
    (model,) = ffmpeg_audio.MODELS
    task = replace(asked(model, video_path=key), files={"video_path": key})
    failure = attempt_of(task, files, tmp_path).run(room(model)).failure
    assert failure is not None
    assert (failure.code, failure.is_transient) == (LOST, False)
    assert failure.message == f"video_path: the file is gone since the task was submitted: {key}"


def test_a_url_that_became_unsafe_is_not_opened(
    server: WebServer, storage: ArtifactStore, tmp_path: Path
) -> None:
    outcome = extracted(server.url(f"/{VIDEO}"), file_access(storage, UrlGuard()), tmp_path)
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.is_transient) == (BAD_INPUT, False)
    assert "not a public address" in outcome.failure.message
    assert not server.seen


def test_a_server_that_is_away_is_tried_again(extract: Extract) -> None:
    outcome = extract("http://127.0.0.1:9/a.mp4")
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.is_transient) == (OURS, True)


def test_too_many_pixels_are_refused_as_at_submit(
    server: WebServer, files: FileAccess, tmp_path: Path
) -> None:
    outcome = extracted(server.url(f"/{VIDEO}"), replace(files, max_pixels=1000), tmp_path)
    assert outcome.failure is not None
    assert outcome.failure.code is BAD_INPUT
    assert "more than the 1000 accepted" in outcome.failure.message


def test_the_model_s_own_check_sees_the_downloaded_file(
    server: WebServer, files: FileAccess, tmp_path: Path
) -> None:
    (model,) = ffmpeg_subtitle_images.MODELS
    task = asked(model, video_path=server.url(f"/{VIDEO}"), subtitle_area=[0, 0, 9000, 9000])
    outcome = attempt_of(task, files, tmp_path).run(room(model))
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.is_transient) == (BAD_INPUT, False)
    assert "subtitle_area: the frame is" in outcome.failure.message


class Told(RunningAttempt):
    """Sets `has_begun` when the first bytes are told."""

    has_begun = threading.Event()

    def report(self, done: float, *args: Any, **words: Any) -> None:
        super().report(done, *args, **words)
        if done:
            self.has_begun.set()


def test_a_cancel_ends_a_download_that_stalls(server: WebServer, files: FileAccess, tmp_path: Path) -> None:
    """Its progress is told until then."""

    def stall(request: Request) -> None:
        request.head(200, Content_Length="1000")
        request.wfile.write(b"half")
        request.wait_for_the_end()

    server.answers["/slow"] = stall
    (model,) = ffmpeg_audio.MODELS
    task = asked(model, video_path=server.url("/slow"))
    attempt = Told(task, tmp_path / "work", files, device="cpu", threads=1)
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(attempt.run(room(model))))
    thread.start()
    attempt.has_begun.wait()
    attempt.cancel()
    thread.join()
    assert outcomes[0].kind is OutcomeKind.CANCELLED
    progress = attempt.progress
    assert (progress.stage, progress.unit, progress.done, progress.total) == ("download", "bytes", 4, 1000)


def extracted(url: str, files: FileAccess, folder: Path) -> Outcome:
    (model,) = ffmpeg_audio.MODELS
    return attempt_of(asked(model, video_path=url), files, folder).run(room(model))
