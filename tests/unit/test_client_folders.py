"""Uploads of folders, by either client: whole, told as one, and judged before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import keys, stored_folders
from mediaray import Client, Transfer, transfers
from tests.client_kinds import CLIENTS
from tests.client_server import World, serving

CREATED = {"task_id": "t-1", "status": "pending", "message": ""}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with serving(world) as base_url:
        yield base_url


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, url: str) -> Iterator[Client]:
    with request.param(url, retry_s=5) as one:
        yield one


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder with a folder in it."""
    for name in ("帧 1.jpg", "more/2.jpg"):
        path = tmp_path / "my frames" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "my frames"


def test_a_folder_as_an_input_is_uploaded_whole_and_named_by_its_key(client, world, frames):
    world.script("POST", "/v1/tasks", CREATED)
    client.submit("paddleocr.perform_ocr", {"keyframe_dir": frames})
    key = world.seen_on("POST", "/v1/tasks")[0].json["input_data"]["keyframe_dir"]
    assert (key.split("/")[0], key.split("/")[2:]) == ("uploads", ["my frames"])
    assert world.files == {f"{key}/帧 1.jpg": "帧 1.jpg".encode(), f"{key}/more/2.jpg": b"more/2.jpg"}


def test_a_folder_moves_under_one_name_and_is_told_as_one(client, world, url, frames, monkeypatch):
    told: list[Transfer] = []
    monkeypatch.chdir(frames)
    stored = client.upload(".", "videos/frames/", on_progress=told.append)
    assert sorted(world.files) == ["videos/frames/more/2.jpg", "videos/frames/帧 1.jpg"]
    assert (stored.path, stored.name, stored.size_bytes) == ("videos/frames", "my frames", 19)
    assert stored.url == f"{url}/v1/files/download/videos/frames"
    assert told == [Transfer("my frames", done, 19) for done in (10, 19)]


def test_a_file_of_a_folder_that_is_sent_again_counts_once(client, world, frames):
    told: list[Transfer] = []
    world.refusals.append((503, {}))
    client.upload(frames, "f", on_progress=told.append)
    assert [one.done_bytes for one in told] == [10, 10, 19]


def touched(path: Path) -> Path:
    path.touch()
    return path


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def written(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def nested(folder: Path, *, levels: int) -> Path:
    """A file whose path below `folder` is longer than a key may be; each part is short."""
    deep = folder.joinpath(*["z" * 200] * levels)
    deep.mkdir(parents=True)
    return written(deep / "file")


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda folder: touched(folder / "z.jpg"), "no empty files", id="empty"),
        pytest.param(
            lambda folder: linked(folder / "z", folder.parent), "links to folders", id="folder link"
        ),
        pytest.param(lambda folder: linked(folder / "more/z", folder), "links to folders", id="link upwards"),
        pytest.param(
            lambda folder: linked(folder / "z", folder / "none"), "leads to nothing", id="broken link"
        ),
        pytest.param(
            lambda folder: linked(folder / "z", folder / "z"), "leads to nothing", id="link to itself"
        ),
        pytest.param(lambda folder: pipe(folder / "z"), "neither a file nor a folder", id="pipe"),
        pytest.param(lambda folder: written(folder / "z\\y"), "of such a name", id="backslash"),
        pytest.param(lambda folder: written(folder / "z\n"), "of such a name", id="line break"),
        pytest.param(lambda folder: written(folder / os.fsdecode(b"z\xff")), "of such a name", id="no text"),
        pytest.param(lambda folder: nested(folder, levels=5), "of such a name", id="too long"),
    ],
)
def test_a_folder_that_the_server_would_refuse_is_refused_before_its_first_byte(
    client, world, frames, make, words
):
    culprit = make(frames)
    with pytest.raises(OSError, match=words) as caught:
        client.submit("x.y", {"folder": frames})
    assert caught.value.filename == str(culprit)
    assert world.seen == []


def test_a_folder_whose_own_name_is_no_text_is_refused(client, world, frames):
    """Its name is a part of the key."""
    renamed = frames.rename(frames.with_name(os.fsdecode(b"z\xff")))
    with pytest.raises(OSError, match="of such a name"):
        client.upload(renamed)
    assert world.seen == []


def test_a_folder_without_files_is_refused(client, world, tmp_path):
    (tmp_path / "empty/more").mkdir(parents=True)
    with pytest.raises(OSError, match="no files") as caught:
        client.upload(tmp_path / "empty")
    assert caught.value.filename == str(tmp_path / "empty")
    assert world.seen == []


def test_a_folder_of_more_files_than_a_task_takes_is_refused(client, world, frames, monkeypatch):
    monkeypatch.setattr(transfers, "MAX_FOLDER_FILES", 1)
    with pytest.raises(OSError, match="more than the 1 files that a task takes"):
        client.upload(frames)
    assert world.seen == []
    (frames / "more/2.jpg").unlink()
    assert client.upload(frames).size_bytes == 9


def test_links_to_files_and_hidden_files_of_a_folder_go_with_it(client, world, frames):
    written(frames / ".DS_Store")
    linked(frames / "linked.jpg", frames / "more/2.jpg")
    client.upload(frames, "f")
    assert sorted(world.files) == ["f/.DS_Store", "f/linked.jpg", "f/more/2.jpg", "f/帧 1.jpg"]
    assert world.files["f/linked.jpg"] == b"more/2.jpg"


NAMES = [
    "a",
    "a/b c",
    "帧",
    "a\\b",
    "a\nb",
    "\x7f",
    "\x1f",
    "\udcff",
    "é" * 127,
    "é" * 128,
    "x" * 255 + "/" + "x" * 256,
    "/".join(["x" * 99] * 9),
    "/".join(["x" * 99] * 8 + ["x" * 100]),
    "/".join(["x" * 99] * 8 + ["x" * 101]),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_the_client_judges_names_like_the_server(name):
    assert transfers.is_taken(name) == keys.is_clean(name)


def test_the_client_counts_files_like_the_server():
    assert transfers.MAX_FOLDER_FILES == stored_folders.MAX_FILES
