from __future__ import annotations

import pytest

from cluster import keys
from cluster.errors import InvalidKey

LONGEST_PATH = "/".join(["p" * 99] * 9)  # 899 characters


@pytest.mark.parametrize(
    "path",
    ["a", "a/b.mp4", "視頻/片 1.mp4", ".hidden", "...", "a..b", "a b&c%2e.txt", "n" * 255, LONGEST_PATH],
)
def test_plain_relative_paths_stay_as_they_are(path: str) -> None:
    assert keys.clean_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "a/",
        "a//b",
        "a/./b",
        "../a",
        "a/../../b",
        "a\\..\\b",
        "a\0b",
        "a\nb",
        "a\x7f",
        "\ud800",
        "n" * 256,
        "é" * 128,
        LONGEST_PATH + "/pp",
    ],
    ids=ascii,
)
def test_paths_that_could_leave_or_confuse_are_refused(path: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        keys.clean_path(path)
    assert caught.value.path == path


@pytest.mark.parametrize("name", ["a/b", "/a", "a/", ".."])
def test_a_name_is_one_segment(name: str) -> None:
    with pytest.raises(InvalidKey):
        keys.clean_name(name)


@pytest.mark.parametrize("task_id", ["a", "A-1_b.c", "x" * 128, "...", "123"])
def test_task_ids(task_id: str) -> None:
    assert keys.is_task_id(task_id)
    assert keys.task_prefix(task_id) == f"tasks/{task_id}/"


@pytest.mark.parametrize("task_id", ["", ".", "..", "a/b", "a b", "é", "x" * 129, "a\n", "../a"], ids=ascii)
def test_what_is_no_task_id_never_becomes_a_key(task_id: str) -> None:
    assert not keys.is_task_id(task_id)
    for build in [keys.task_prefix, keys.partial_prefix]:
        with pytest.raises(InvalidKey):
            build(task_id)
    with pytest.raises(InvalidKey):
        keys.input_key(task_id, "a")
    with pytest.raises(InvalidKey):
        keys.artifact_key(task_id, "1-r", "a")


def test_each_kind_of_file_has_a_place_of_its_own() -> None:
    assert keys.upload_key("local", "in/a.mp4") == "files/local/in/a.mp4"
    assert keys.input_key("t1", "a.mp4") == "tasks/t1/input/a.mp4"
    assert keys.artifact_key("t1", "2-r", "frames/1.jpg") == "tasks/t1/2-r/frames/1.jpg"
    assert keys.attempt_prefix("t1", "2-r") == "tasks/t1/2-r/"
    assert keys.partial_prefix("t1") == "tasks/t1/partial/"


def test_a_caller_cannot_name_its_way_out_of_its_place() -> None:
    for build in [
        lambda: keys.upload_key("local", "../other/a"),
        lambda: keys.upload_key("a/b", "c"),
        lambda: keys.input_key("t1", "../2/a"),
        lambda: keys.input_key("t1", "a/b"),
        lambda: keys.artifact_key("t1", "1-r", "../../t2/1/a"),
    ]:
        with pytest.raises(InvalidKey):
            build()
