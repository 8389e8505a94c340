"""Outputs as inputs: folders, and our own download URLs, in every form that a result or an upload shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import pytest_asyncio
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from api.job_catalog import CatalogError, load_jobs
from cluster import stored_folders
from cluster.stored_folders import FolderMark, recorded_mark
from models.catalog import CATALOG
from models.engine import InputFile, MediaKind
from tests.api_client import SAMPLES, Server, key_entry, serving

ECHO = "diagnostics.echo"
VIDEO = (SAMPLES / "carphone_pristine.mp4").read_bytes()
ACME, OTHER = {"X-API-Key": "key-of-acme"}, {"X-API-Key": "key-of-other"}
KEYS = f"{key_entry('acme', 'key-of-acme')},{key_entry('other', 'key-of-other')}"
FRAMES = "tasks/made/1-lease1/keyframes"


class Inputs(BaseModel):
    """A folder, and a file."""

    model_config = ConfigDict(extra="forbid")
    frames: Annotated[str | None, InputFile(MediaKind.FOLDER)] = None
    video: Annotated[str | None, InputFile(MediaKind.VIDEO)] = Field(
        None, validation_alias=AliasChoices("video", "clip")
    )


loop = pytest.mark.asyncio(loop_scope="module")
MODELS = CATALOG | {ECHO: replace(CATALOG[ECHO], inputs=Inputs)}


@asynccontextmanager
async def having_made(folder: Path) -> AsyncIterator[Server]:
    """Acme has uploaded a folder of frames and a video, and a task has made both."""
    async with serving(folder, MODELS, api_keys=KEYS) as server:
        server.http.headers.update(ACME)
        for path in ("videos/frames/0001.jpg", "videos/frames/more/0002.jpg"):
            await server.put(path, b"jpeg")
        await server.put("videos/in.mp4", VIDEO)
        await server.submit(inputs={}, task_id="made")
        task = await server.start()
        for number in range(3):
            server.publish(task, f"keyframes/{number}__jpg", b"jpeg")
        video = server.publish(task, "out__mp4", VIDEO)
        nested = [{"folder": {"$download": FRAMES}, "video": {"$download": video.key}}]
        await server.succeed(task, {"nested": nested, "keyframe_dir": FRAMES})
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One for all tests that only submit."""
    async with having_made(tmp_path_factory.mktemp("folders")) as server:
        yield server


async def shown(server: Server) -> dict[str, str]:
    """The URLs of the finished task's result."""
    result = (await server.http.get("/v1/tasks/made/result")).json()["result"]
    return dict(result["nested"][0])


async def recorded(server: Server, answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return dict((await server.registry.get(answer.json()["task_id"])).files)


@loop
@pytest.mark.parametrize("ending", ["", "/"], ids=["plain", "with a slash"])
@pytest.mark.parametrize("scheme", ["", "s3://mediaray/", "minio://mediaray/"], ids=["key", "s3", "minio"])
@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        pytest.param(FRAMES, f"{FRAMES}/", id="of a task"),
        pytest.param("videos/frames", "files/acme/videos/frames/", id="uploaded"),
        pytest.param("videos", "files/acme/videos/", id="with folders"),
    ],
)
async def test_a_folder_by_its_key(server: Server, path: str, prefix: str, scheme: str, ending: str) -> None:
    value = f"{scheme}{path}{ending}"
    answer = await server.submit(inputs={"frames": value})
    assert await recorded(server, answer) == {"frames": prefix}
    task = await server.registry.get(answer.json()["task_id"])
    assert task.inputs == {"frames": value}


@loop
@pytest.mark.parametrize(
    "host", ["http://127.0.0.1", "https://elsewhere.example/below"], ids=["ours", "other"]
)
async def test_our_own_download_urls_are_keys_whatever_name_of_the_server_they_bear(
    server: Server, host: str
) -> None:
    urls = {name: url.replace("http://127.0.0.1", host) for name, url in (await shown(server)).items()}
    answer = await server.submit(inputs={"frames": urls["folder"], "video": urls["video"]})
    assert await recorded(server, answer) == {"frames": f"{FRAMES}/", "video": "tasks/made/1-lease1/out.mp4"}


@loop
async def test_the_url_of_an_upload_is_its_key(server: Server) -> None:
    upload = await server.http.put("/v1/files/videos/in.mp4", content=VIDEO)
    answer = await server.submit(inputs={"video": upload.json()["download_url"]})
    assert await recorded(server, answer) == {"video": "files/acme/videos/in.mp4"}


@loop
async def test_the_same_url_is_the_same_request_also_once_it_has_expired(server: Server) -> None:
    inputs = {"frames": (await shown(server))["folder"]}
    first = await server.submit(inputs=inputs, task_id="t")
    server.clock.advance(server.settings.download_url_ttl_s)
    again = await server.submit(inputs=inputs, task_id="t")
    assert (first.status_code, again.status_code) == (200, 200)
    late = await server.submit(inputs=inputs)
    assert (late.status_code, late.json()["error"]["code"]) == (400, "URL_EXPIRED")
    assert late.json()["detail"].endswith(f"pass the object key, which does not expire: {FRAMES}")


@loop
async def test_an_expired_url_of_an_upload_tells_the_path_that_can_be_named(server: Server) -> None:
    upload = await server.http.put("/v1/files/videos/in.mp4", content=VIDEO)
    server.clock.advance(server.settings.download_url_ttl_s)
    late = await server.submit(inputs={"video": upload.json()["download_url"]})
    assert late.json()["detail"].endswith(": videos/in.mp4")


@loop
async def test_a_valid_url_opens_nothing_to_another_tenant(server: Server) -> None:
    urls = await shown(server)
    upload = (await server.http.put("/v1/files/videos/in.mp4", content=VIDEO)).json()["download_url"]
    before = await server.remains()
    for inputs in ({"frames": urls["folder"]}, {"video": urls["video"]}, {"video": upload}):
        body = {"task_name": ECHO, "input_data": inputs}
        answer = await server.http.post("/v1/tasks", json=body, headers=OTHER)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "FILE_NOT_FOUND")
        assert "token" not in answer.text
    assert await server.remains() == before


@loop
@pytest.mark.parametrize("change", [("token=", "token=x"), ("out.mp4", "in.mp4")], ids=["token", "key"])
async def test_a_url_that_was_not_signed_here_is_judged_like_any_other(
    server: Server, change: tuple[str, str]
) -> None:
    url = (await shown(server))["video"].replace(*change)
    answer = await server.submit(inputs={"video": url})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_URL")
    assert "127.0.0.1 is not a public address" in answer.json()["detail"]


@loop
@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        pytest.param("videos/none", "FILE_NOT_FOUND", "文件不存在: frames: videos/none", id="missing"),
        pytest.param("videos/in.mp4", "FILE_NOT_FOUND", "文件不存在", id="a file"),
        pytest.param("tasks", "FILE_NOT_FOUND", "文件不存在", id="all tasks"),
        pytest.param("tasks/none/1/a", "FILE_NOT_FOUND", "文件不存在", id="of no task"),
        pytest.param("", "INVALID_PARAMS", "not a valid object key", id="nothing"),
        pytest.param("/", "INVALID_PARAMS", "not a valid object key", id="everything"),
        pytest.param("videos/../..", "INVALID_PARAMS", "not a valid object key", id="above"),
        pytest.param("videos//", "INVALID_PARAMS", "not a valid object key", id="two slashes"),
        pytest.param("files/acme/videos", "INVALID_PARAMS", "not a valid object key", id="inner key"),
        pytest.param("s3://other/videos", "INVALID_PARAMS", "s3://mediaray/key", id="another bucket"),
        pytest.param("s3://mediaray", "INVALID_PARAMS", "not a valid object key", id="the bucket"),
        pytest.param("https://example.com/a.zip", "INVALID_URL", "another server: upload", id="archive"),
    ],
)
async def test_what_is_no_folder_of_the_caller_is_refused(
    server: Server, value: str, code: str, words: str
) -> None:
    before = await server.remains()
    answer = await server.submit(inputs={"frames": value})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert words in answer.json()["detail"]
    assert await server.remains() == before


async def mark_of(server: Server, task_id: str) -> FolderMark | None:
    return recorded_mark((await server.registry.get(task_id)).facts, "frames")


@loop
async def test_what_a_folder_held_is_recorded_and_a_retry_records_it_anew(tmp_path: Path) -> None:
    async with having_made(tmp_path) as server:
        await server.submit(inputs={"frames": FRAMES}, task_id="t")
        await server.submit(inputs={"video": "videos/in.mp4"}, task_id="without")
        held = {f"{number}.jpg": len(b"jpeg") for number in range(3)}
        assert await mark_of(server, "t") == FolderMark.of(held)
        assert await mark_of(server, "without") is None
        await server.fail(await server.start())
        server.storage.delete(f"{FRAMES}/0.jpg")
        again = await server.http.post("/v1/tasks/t/retry")
        del held["0.jpg"]
        assert await mark_of(server, again.json()["task_id"]) == FolderMark.of(held)


@loop
async def test_a_folder_is_bounded_in_files(server: Server, monkeypatch: Any) -> None:
    monkeypatch.setattr(stored_folders, "MAX_FILES", 2)
    many = await server.submit(inputs={"frames": FRAMES})
    assert many.status_code == 400
    assert many.json()["detail"] == "frames: the folder has more than the 2 files accepted"
    assert (await server.submit(inputs={"frames": "videos/frames"})).status_code == 200


@loop
async def test_a_folder_of_more_bytes_than_an_upload_may_have_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, MODELS, max_upload_bytes=10) as server:
        for name in ("a", "b"):
            await server.put(f"frames/{name}", b"123456")
        answer = await server.submit(inputs={"frames": "frames"})
    assert answer.status_code == 400
    assert "larger than the 10 bytes accepted" in answer.json()["detail"]


@loop
async def test_a_retry_takes_the_folder_again_and_says_when_it_is_gone(tmp_path: Path) -> None:
    async with having_made(tmp_path) as server:
        url = (await shown(server))["folder"]
        await server.submit(inputs={"frames": url}, task_id="t")
        await server.fail(await server.start())
        server.clock.advance(server.settings.download_url_ttl_s)
        again = await server.http.post("/v1/tasks/t/retry")
        assert await recorded(server, again) == {"frames": f"{FRAMES}/"}
        server.storage.delete_prefix(f"{FRAMES}/")
        gone = await server.http.post("/v1/tasks/t/retry")
        assert (gone.status_code, gone.json()["error"]["code"]) == (400, "FILE_NOT_FOUND")


@loop
@pytest.mark.parametrize("name", ["video", "clip"])
async def test_a_retry_with_another_file_takes_that_under_every_name_of_the_input(
    tmp_path: Path, name: str
) -> None:
    async with having_made(tmp_path) as server:
        await server.submit(inputs={name: "videos/in.mp4", "frames": FRAMES}, task_id="t")
        await server.fail(await server.start())
        await server.put("videos/other.mp4", VIDEO)
        again = await server.http.post("/v1/tasks/t/retry", json={"input_data": {name: "videos/other.mp4"}})
        assert await recorded(server, again) == {
            "video": "files/acme/videos/other.mp4",
            "frames": f"{FRAMES}/",
        }


@loop
async def test_a_result_opens_no_files_but_its_task_s_own(tmp_path: Path) -> None:
    """What a caller sent can come back in a result, also in the form in which engines name files."""
    async with having_made(tmp_path) as server:
        inputs = [{"$download": key} for key in ("files/other/a", "tasks/t10/1/a", "tasks/t/../made/a", 3)]
        await server.submit(inputs={}, task_id="t")
        await server.succeed(await server.start(), {"payload": inputs})
        result = (await server.http.get("/v1/tasks/t/result")).json()["result"]
        assert result == {"payload": inputs}


def test_a_numbered_job_names_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text(f"jobs:\n  1:\n    task: {ECHO}\n    inputs:\n      frames: videos\n")
    with pytest.raises(CatalogError, match=r"inputs\.frames: .* no folders"):
        load_jobs(path, MODELS)
