"""What every artifact store does, on a folder and on S3 (a moto server)."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import av
import pytest

from cluster.errors import ArtifactNotFound, ExpiredUrl, InvalidKey, StorageFailure
from cluster.local_storage import LocalArtifactStore
from cluster.s3_storage import PART_BYTES
from cluster.settings import Settings
from cluster.storage import ArtifactStore, open_store
from tests.stores import (
    BUCKET,
    SAMPLES,
    content_of,
    keys_below,
    noise,
    put,
    run_python,
)


@pytest.mark.parametrize(
    "size_bytes",
    [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 5],
    ids=["empty", "one byte", "one part", "a byte more than a part", "three parts"],
)
def test_what_was_committed_is_what_stat_and_read_return(store: ArtifactStore, size_bytes: int) -> None:
    content = noise(size_bytes)
    with store.writer("tasks/t/1/out.bin") as writer:
        for start in range(0, size_bytes, 3_000_000):
            writer.write(content[start : start + 3_000_000])
        committed = writer.commit()
    assert store.stat("tasks/t/1/out.bin") == committed
    assert committed.sha256 == hashlib.sha256(content).hexdigest()
    assert committed.size_bytes == size_bytes
    assert content_of(store, "tasks/t/1/out.bin") == content


def test_chunks_are_at_most_one_mebibyte(store: ArtifactStore) -> None:
    put(store, "files/local/big", noise(3 * 1024**2 + 7))
    sizes = [len(chunk) for chunk in store.read("files/local/big")]
    assert max(sizes) <= 1024**2
    assert sum(sizes) == 3 * 1024**2 + 7


def test_one_huge_write_is_the_same_as_many(store: ArtifactStore) -> None:
    content = noise(3 * PART_BYTES)
    assert put(store, "files/local/big", content).sha256 == hashlib.sha256(content).hexdigest()
    assert content_of(store, "files/local/big") == content


def test_a_writer_left_without_commit_leaves_nothing(store: ArtifactStore) -> None:
    with store.writer("tasks/t/1/out") as writer:
        writer.write(noise(PART_BYTES + 1))
    with pytest.raises(ArtifactNotFound):
        store.stat("tasks/t/1/out")
    assert keys_below(store, "tasks/") == []


def test_an_error_while_writing_leaves_the_old_object(store: ArtifactStore) -> None:
    put(store, "tasks/t/1/out", b"old")

    def fail_midway() -> None:
        with store.writer("tasks/t/1/out") as writer:
            writer.write(noise(PART_BYTES + 1))
            raise RuntimeError("decoder")

    with pytest.raises(RuntimeError, match="decoder"):
        fail_midway()
    assert content_of(store, "tasks/t/1/out") == b"old"


def test_a_new_object_is_seen_only_after_commit(store: ArtifactStore) -> None:
    old = put(store, "tasks/t/1/out", b"old text")
    with store.writer("tasks/t/1/out") as writer:
        writer.write(b"[1, 2, 3]")
        assert store.stat("tasks/t/1/out") == old
        assert content_of(store, "tasks/t/1/out") == b"old text"
        new = writer.commit()
    assert store.stat("tasks/t/1/out") == new
    assert new.media_type == "application/json"
    assert content_of(store, "tasks/t/1/out") == b"[1, 2, 3]"


@pytest.mark.parametrize(
    "sizes", [(PART_BYTES + 1, 10), (10, PART_BYTES + 1), (PART_BYTES + 1, PART_BYTES + 2)]
)
def test_overwriting_changes_the_etag_whatever_the_sizes(
    store: ArtifactStore, sizes: tuple[int, int]
) -> None:
    for size_bytes in sizes:
        content = noise(size_bytes)
        put(store, "files/local/a", content)
        assert store.stat("files/local/a").etag == f'"{hashlib.sha256(content).hexdigest()}"'


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        pytest.param(0, None, b"0123456789", id="all"),
        pytest.param(3, None, b"3456789", id="from"),
        pytest.param(0, 4, b"0123", id="up to"),
        pytest.param(3, 5, b"34", id="between"),
        pytest.param(9, 10, b"9", id="last byte"),
        pytest.param(8, 100, b"89", id="beyond the end"),
        pytest.param(10, None, b"", id="from the end"),
        pytest.param(50, 60, b"", id="behind the end"),
        pytest.param(5, 5, b"", id="nothing"),
        pytest.param(0, 0, b"", id="nothing of the start"),
    ],
)
def test_range_reads(store: ArtifactStore, start: int, stop: int | None, expected: bytes) -> None:
    put(store, "files/local/digits", b"0123456789")
    assert b"".join(store.read("files/local/digits", start, stop)) == expected
    assert b"".join(store.read("files/local/digits", start, stop)) == expected


@pytest.mark.parametrize("key", ["files/local/none", "files/local/object/below", "files/local"])
@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda store, key, path: store.stat(key), id="stat"),
        pytest.param(lambda store, key, path: store.read(key), id="read"),
        pytest.param(lambda store, key, path: store.read(key, 5, 5), id="read nothing"),
        pytest.param(lambda store, key, path: store.open(key), id="open"),
        pytest.param(lambda store, key, path: store.fetch(key, path), id="fetch"),
    ],
)
def test_a_missing_object_is_refused_at_the_call(
    store: ArtifactStore, tmp_path: Path, key: str, use: Callable[[ArtifactStore, str, Path], object]
) -> None:
    put(store, "files/local/object", b"x")
    with pytest.raises(ArtifactNotFound) as caught:
        use(store, key, tmp_path / "fetched")
    assert caught.value.key == key
    assert not (tmp_path / "fetched").exists()
    assert store.delete(key) is False


BAD_KEYS = ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a\\b", "a\nb", "."]


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
@pytest.mark.parametrize("method", ["writer", "stat", "read", "open", "delete"])
def test_keys_that_are_no_plain_path_are_refused(store: ArtifactStore, key: str, method: str) -> None:
    with pytest.raises(InvalidKey):
        getattr(store, method)(key)


@pytest.mark.parametrize("prefix", ["", "/", "tasks", "../", "a/../", "a//"], ids=repr)
def test_prefixes_end_in_a_slash_and_stay_inside(store: ArtifactStore, prefix: str) -> None:
    with pytest.raises(InvalidKey):
        list(store.list(prefix))
    with pytest.raises(InvalidKey):
        store.delete_prefix(prefix)


@pytest.mark.parametrize(
    "key",
    [
        "files/local/with space & plus+ 100%.txt",
        "files/local/视频/任务 №1.mp4",
        "files/local/'quotes\" #hash?query=1;v",
        "files/local/.hidden",
        "files/local/" + "n" * 255,
    ],
    ids=["punctuation", "unicode", "quotes", "dot", "longest name"],
)
def test_any_plain_key_works(store: ArtifactStore, key: str) -> None:
    put(store, key, b"content")
    assert content_of(store, key) == b"content"
    assert keys_below(store, "files/local/") == [key]
    assert store.delete(key)
    assert keys_below(store, "files/local/") == []


def test_put_file_judges_the_media_type_by_content(store: ArtifactStore, tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "carphone_pristine.mp4", tmp_path / "movie.txt")
    stored = store.put_file("files/local/movie.txt", tmp_path / "movie.txt")
    assert stored.media_type == "video/mp4"
    (tmp_path / "page.mp4").write_text("<html><script>alert(1)</script></html>")
    assert store.put_file("files/local/page.mp4", tmp_path / "page.mp4").media_type.startswith("text/plain")


def test_a_large_object_is_judged_by_its_first_bytes(store: ArtifactStore) -> None:
    with store.writer("files/local/a.bin") as writer:
        writer.write(b"fLa")
        writer.write(b"C" + b"\x00" + noise(PART_BYTES))
        writer.commit()
    assert store.stat("files/local/a.bin").media_type == "audio/flac"


def test_put_file_of_a_missing_file_says_so(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put_file("files/local/a", tmp_path / "none")


def test_open_seeks_like_a_file(store: ArtifactStore) -> None:
    content = noise(700_000)
    put(store, "files/local/a", content)
    with store.open("files/local/a") as file:
        assert file.seekable()
        assert file.read(10) == content[:10]
        assert file.seek(-20, os.SEEK_END) == 699_980
        assert file.read() == content[-20:]
        assert file.read() == b""
        file.seek(300_000)
        file.seek(5, os.SEEK_CUR)
        assert file.read(400_000) == content[300_005:]
        file.seek(10**9)
        assert file.read(1) == b""
        with pytest.raises((ValueError, OSError)):
            file.seek(-1)


def test_a_video_can_be_probed_through_open(store: ArtifactStore) -> None:
    store.put_file("files/local/v.mp4", SAMPLES / "bigbuckbunny.mp4")
    with store.open("files/local/v.mp4") as file, av.open(file) as container:
        assert container.streams.video[0].width > 0
        assert next(container.decode(video=0)).width > 0


def test_fetch_makes_folders_and_replaces_what_is_there(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, "files/local/a", b"one")
    target = tmp_path / "work" / "input" / "a.bin"
    store.fetch("files/local/a", target)
    put(store, "files/local/a", b"two")
    assert target.read_bytes() == b"one"
    store.fetch("files/local/a", target)
    store.fetch("files/local/a", target)
    assert target.read_bytes() == b"two"
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


def test_removing_a_fetched_file_keeps_the_object(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, "files/local/a", b"one")
    store.fetch("files/local/a", tmp_path / "work" / "a")
    shutil.rmtree(tmp_path / "work")
    assert content_of(store, "files/local/a") == b"one"


def test_list_is_ordered_by_key_and_stays_below_its_prefix(store: ArtifactStore) -> None:
    inside = [
        "tasks/t1/1/a",
        "tasks/t1/1/a-b",
        "tasks/t1/1/a.b",
        "tasks/t1/1/ab/c",
        "tasks/t1/1/é",
        "tasks/t1/2/B",
    ]
    for key in [*reversed(inside), "tasks/t10/1/a", "tasks/t1x", "files/local/tasks/t1/1/a"]:
        put(store, key, key.encode())
    listed = list(store.list("tasks/t1/"))
    assert [stored.key for stored in listed] == inside
    assert listed == [store.stat(key) for key in inside]
    assert keys_below(store, "tasks/none/") == []


def test_files_and_folders_sort_as_keys(store: ArtifactStore) -> None:
    keys = ["x/a-c", "x/a.txt", "x/a/b", "x/a0"]  # "-" and "." sort before "/", "0" after it
    for key in reversed(keys):
        put(store, key, b"")
    assert keys_below(store, "x/") == keys


def test_a_long_list_is_complete(store: ArtifactStore) -> None:
    keys = [f"tasks/t/1/{number:04}" for number in range(24)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: put(store, key, b"x"), keys))
    assert keys_below(store, "tasks/t/1/") == keys
    assert store.delete_prefix("tasks/t/") == 24


def test_delete_says_whether_there_was_something(store: ArtifactStore) -> None:
    put(store, "files/local/a/b", noise(PART_BYTES + 1))
    assert store.delete("files/local/a") is False
    assert store.delete("files/local/a/b") is True
    assert store.delete("files/local/a/b") is False
    put(store, "files/local/a", b"now an object")
    assert store.stat("files/local/a").size_bytes == 13


def test_delete_prefix_takes_all_below_and_nothing_beside(store: ArtifactStore) -> None:
    for key in ["tasks/t1/1/a", "tasks/t1/input/b", "tasks/t1/1/deep/er/c"]:
        put(store, key, b"x")
    put(store, "tasks/t1/big", noise(PART_BYTES + 1))
    put(store, "tasks/t10/1/a", b"x")
    assert store.delete_prefix("tasks/t1/") == 4
    assert store.delete_prefix("tasks/t1/") == 0
    assert keys_below(store, "tasks/") == ["tasks/t10/1/a"]


def test_many_threads_share_a_store(store: ArtifactStore) -> None:
    contents = {f"files/local/{number % 4}/{number}": noise(200_000 + number) for number in range(12)}

    def round_of(key: str) -> bool:
        put(store, key, contents[key])
        return content_of(store, key) == contents[key] and store.stat(key).size_bytes == len(contents[key])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_of, contents))
    assert sorted(contents) == keys_below(store, "files/")


def test_check_is_a_round_trip_that_leaves_nothing(store: ArtifactStore) -> None:
    store.check()
    assert keys_below(store, ".check/") == []


MEMORY_PROBE = """
import resource, sys
from pathlib import Path
from cluster.local_storage import LocalArtifactStore
from cluster.s3_storage import S3ArtifactStore
kind, place, prefix, folder = sys.argv[1:]
store = LocalArtifactStore(Path(place)) if kind == "local" else S3ArtifactStore(place, prefix)
def round_trip(source):
    store.put_file("files/local/a", Path(folder, source))
    sum(len(chunk) for chunk in store.read("files/local/a"))
    store.fetch("files/local/a", Path(folder, "fetched"))
round_trip("small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
round_trip("large")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_memory_does_not_grow_with_the_object(kind: str, tmp_path: Path, s3_client) -> None:
    for name, size_bytes in {"small": 2 * PART_BYTES, "large": 6 * PART_BYTES}.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(size_bytes)
    place = str(tmp_path / "artifacts") if kind == "local" else BUCKET
    growth_bytes = int(run_python(MEMORY_PROBE, kind, place, uuid4().hex, str(tmp_path)).stdout)
    assert growth_bytes < 2.5 * PART_BYTES


def test_the_default_store_is_a_folder_of_the_data_dir(tmp_path: Path) -> None:
    store = open_store(Settings(data_dir=tmp_path, storage_url=""))
    assert isinstance(store, LocalArtifactStore)
    put(store, "files/local/a", b"x")
    assert (tmp_path / "artifacts/objects/files/local/a").is_file()
    assert (tmp_path / "download.key").is_file()


def test_a_file_url_names_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my files"
    store = open_store(Settings(data_dir=tmp_path / "data", storage_url=folder.as_uri()))
    put(store, "files/local/a", b"x")
    assert (folder / "objects/files/local/a").is_file()


def test_an_s3_url_names_bucket_and_prefix(s3_client, tmp_path: Path) -> None:
    prefix = uuid4().hex
    store = open_store(Settings(data_dir=tmp_path, storage_url=f"s3://{BUCKET}/{prefix}"))
    put(store, "files/local/a", b"x")
    assert s3_client.head_object(Bucket=BUCKET, Key=f"{prefix}/files/local/a")["ContentLength"] == 1


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///prefix", "file://", "file:///", "file://host/x", "ftp://user:pw@h/x", "/srv"]
)
def test_other_urls_are_refused_without_showing_them(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageFailure) as caught:
        open_store(Settings(data_dir=tmp_path, storage_url=url))
    assert "user:pw" not in str(caught.value)


def test_sizes_are_those_of_the_list(store: ArtifactStore) -> None:
    for name, content in {"b/c": b"", "a": b"123", "a.b": b"1"}.items():
        put(store, f"tasks/t/1/{name}", content)
    put(store, "tasks/t/10/a", b"beside")
    sizes = list(store.sizes("tasks/t/1/"))
    assert sizes == [("tasks/t/1/a", 3), ("tasks/t/1/a.b", 1), ("tasks/t/1/b/c", 0)]
    assert sizes == [(stored.key, stored.size_bytes) for stored in store.list("tasks/t/1/")]
    assert list(store.sizes("tasks/none/")) == []
    with pytest.raises(InvalidKey):
        list(store.sizes("tasks"))


@pytest.mark.parametrize(
    "key", ["tasks/t/1/out.mp4", "tasks/t/1/keyframes", "files/local/视频 №1 + 100%?#&.mp4"], ids=ascii
)
@pytest.mark.parametrize("filename", [None, "other name.mp4"])
def test_a_download_url_names_its_key(store: ArtifactStore, key: str, filename: str | None) -> None:
    url = store.download_url(key, base_url="https://h:1/below", expires_s=60, filename=filename)
    assert store.key_of_url(url) == key


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda url: url.partition("?")[0], id="without permission"),
        pytest.param(lambda url: "https://elsewhere.example/a.mp4?token=1&X-Amz-Signature=1", id="elsewhere"),
        pytest.param(lambda url: url.replace("/tasks/t/1/a", "?key=tasks/t/1/a&"), id="no path"),
        pytest.param(lambda url: "http://[broken?token=x", id="no URL"),
        pytest.param(lambda url: "", id="nothing"),
    ],
)
def test_no_other_url_names_a_key(store: ArtifactStore, change: Callable[[str], str]) -> None:
    url = store.download_url("tasks/t/1/a", base_url="http://h", expires_s=60)
    assert store.key_of_url(change(url)) is None


def test_a_url_past_its_time_says_so(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    url = store.download_url("tasks/t/1/a b", base_url="http://h", expires_s=60)
    now = time.time()
    monkeypatch.setattr(store, "_now", lambda: now + 55)
    assert store.key_of_url(url) == "tasks/t/1/a b"
    monkeypatch.setattr(store, "_now", lambda: now + 61)
    with pytest.raises(ExpiredUrl) as caught:
        store.key_of_url(url)
    assert caught.value.key == "tasks/t/1/a b"
