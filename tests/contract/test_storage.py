"""What every artifact store does, on a folder and on S3 (a moto server); then what only one does."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import av
import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from cluster.errors import ArtifactNotFound, BadSignature, ExpiredUrl, InvalidKey, StorageFailure
from cluster.local_storage import LocalArtifactStore
from cluster.s3_storage import PART_BYTES, S3ArtifactStore
from cluster.settings import Settings
from cluster.storage import ArtifactStore, Stored, open_store

REPOSITORY = Path(__file__).parents[2]
SAMPLES = REPOSITORY / "samples"
BUCKET = "artifacts"
SECRET = "very-secret-access-key"
FAR_AHEAD_S = 10**6


@pytest.fixture(scope="module")
def s3_client() -> Iterator[Any]:
    """A client of a moto server, both set up through the environment as an operator would."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "mediaray")
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_MAX_ATTEMPTS", "1")
        client = boto3.session.Session().client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
        client.close()
    server.stop()


@pytest.fixture(scope="module")
def s3_origin(s3_client) -> S3ArtifactStore:
    """The store that makes its own client, once: that takes boto3 a second."""
    return S3ArtifactStore(BUCKET)


@pytest.fixture
def local_store(tmp_path: Path) -> LocalArtifactStore:
    return LocalArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def s3_store(s3_origin: S3ArtifactStore) -> S3ArtifactStore:
    return S3ArtifactStore(BUCKET, f"deep/{uuid4().hex}", s3_origin._client)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> ArtifactStore:
    return request.getfixturevalue(f"{request.param}_store")


def put(store: ArtifactStore, key: str, content: bytes) -> Stored:
    with store.writer(key) as writer:
        writer.write(content)
        return writer.commit()


def content_of(store: ArtifactStore, key: str) -> bytes:
    return b"".join(store.read(key))


def keys_below(store: ArtifactStore, prefix: str) -> list[str]:
    return [stored.key for stored in store.list(prefix)]


def noise(size_bytes: int) -> bytes:
    return (os.urandom(1021) * (size_bytes // 1021 + 1))[:size_bytes]


# --- the contract ---


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


def run_python(code: str, *arguments: str, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*wrapper, sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)


# --- download URLs ---


def test_local_download_urls_carry_a_token_for_one_key(tmp_path: Path) -> None:
    store = LocalArtifactStore(tmp_path / "artifacts", now=lambda: 1000.0)
    url = urlsplit(store.download_url("files/local/a b/é.mp4", base_url="http://host:8000/", expires_s=60))
    assert unquote(url.path) == "/v1/files/download/files/local/a b/é.mp4"
    assert url.path.isascii()
    (token,) = parse_qs(url.query)["token"]
    store.signer.verify(token, "files/local/a b/é.mp4", 1059.0)
    with pytest.raises(ExpiredUrl):
        store.signer.verify(token, "files/local/a b/é.mp4", 1060.0)
    with pytest.raises(BadSignature):
        store.signer.verify(token, "files/local/other", 1001.0)


def test_a_local_download_url_names_the_file_only_where_the_key_does_not(
    local_store: LocalArtifactStore,
) -> None:
    query = urlsplit(local_store.download_url("a/b.mp4", base_url="", expires_s=1, filename="b.mp4")).query
    assert set(parse_qs(query)) == {"token"}
    query = urlsplit(local_store.download_url("a/b.mp4", base_url="", expires_s=1, filename="片 1.mp4")).query
    assert parse_qs(query)["filename"] == ["片 1.mp4"]


def test_two_stores_on_one_folder_accept_each_others_tokens(tmp_path: Path) -> None:
    first, second = LocalArtifactStore(tmp_path / "artifacts"), LocalArtifactStore(tmp_path / "artifacts")
    first.signer.verify(second.signer.sign("a", 60, 0.0), "a", 1.0)


def test_s3_download_urls_need_no_credentials(s3_store: S3ArtifactStore) -> None:
    s3_store.put_file("files/local/a b.mp4", SAMPLES / "carphone_distorted.mp4")
    url = s3_store.download_url("files/local/a b.mp4", base_url="", expires_s=60, filename='é "x".mp4')
    answer = httpx.get(url)
    assert answer.status_code == 200
    assert answer.content == (SAMPLES / "carphone_distorted.mp4").read_bytes()
    assert answer.headers["content-type"] == "video/mp4"
    disposition = answer.headers["content-disposition"]
    assert disposition == "inline; filename=\"_ _x_.mp4\"; filename*=UTF-8''%C3%A9%20%22x%22.mp4"
    assert SECRET not in url


def test_s3_urls_older_than_s3_allows_are_cut_to_seven_days(s3_store: S3ArtifactStore) -> None:
    url = s3_store.download_url("files/local/a", base_url="", expires_s=FAR_AHEAD_S)
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == ["604800"]


# --- only the folder ---


def incoming(root: Path) -> list[str]:
    return [path.name for path in (root / ".incoming").iterdir()]


def test_an_object_and_a_folder_cannot_share_a_name_on_disk(local_store: LocalArtifactStore) -> None:
    put(local_store, "files/local/a", b"object")
    put(local_store, "files/local/dir/b", b"object")
    for key in ["files/local/a/b", "files/local/a/b/c", "files/local/dir", "files/local"]:
        with pytest.raises(InvalidKey):
            local_store.writer(key)


def test_an_object_that_came_in_the_way_meanwhile_is_refused_at_commit(
    local_store: LocalArtifactStore,
) -> None:
    with local_store.writer("files/local/a/b") as below, local_store.writer("files/local/a") as above:
        above.commit()
        with pytest.raises(InvalidKey):
            below.commit()
    local_store.delete("files/local/a")
    with local_store.writer("files/local/a/b") as below, local_store.writer("files/local/a") as above:
        below.commit()
        with pytest.raises(InvalidKey):
            above.commit()
    assert keys_below(local_store, "files/") == ["files/local/a/b"]


def test_empty_folders_of_an_interrupted_upload_are_no_obstacle(
    local_store: LocalArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "artifacts/objects/files/local/a/b").mkdir(parents=True)
    put(local_store, "files/local/a", b"object")
    assert content_of(local_store, "files/local/a") == b"object"


def test_nothing_is_left_after_commit_abort_and_delete(
    local_store: LocalArtifactStore, tmp_path: Path
) -> None:
    root = tmp_path / "artifacts"
    put(local_store, "tasks/t/1/a", b"x")
    with local_store.writer("tasks/t/1/b") as writer:
        writer.write(b"x")
        assert len(incoming(root)) == 1
    assert incoming(root) == []
    local_store.delete("tasks/t/1/a")
    assert list((root / "objects").iterdir()) == []
    assert [path for path in (root / "facts").rglob("*") if path.is_file()] == []


def test_uploads_that_died_over_a_day_ago_are_removed_on_open(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    LocalArtifactStore(root)
    for name in ["old", "new"]:
        (root / ".incoming" / name).write_bytes(b"x")
    written_at = (root / ".incoming/old").stat().st_mtime
    os.utime(root / ".incoming/old", (written_at - 86_500, written_at - 86_500))
    LocalArtifactStore(root)
    assert incoming(root) == ["new"]


def test_racing_writers_of_one_key_leave_one_whole_object(local_store: LocalArtifactStore) -> None:
    contents = [bytes([65 + number]) * 100_000 for number in range(8)]
    barrier = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        with local_store.writer("files/local/same") as writer:
            writer.write(content)
            barrier.wait()
            writer.commit()
        local_store.stat("files/local/same")

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    content = content_of(local_store, "files/local/same")
    assert content in contents
    assert local_store.stat("files/local/same").sha256 == hashlib.sha256(content).hexdigest()


def test_writing_and_deleting_beside_each_other(local_store: LocalArtifactStore) -> None:
    """Deleting the last object of a folder must not take the folder from under a writer."""

    def churn(name: str) -> None:
        for _ in range(150):
            put(local_store, f"files/local/shared/deep/{name}", b"x")
            assert local_store.delete(f"files/local/shared/deep/{name}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, "abcd"))
    assert keys_below(local_store, "files/") == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="facts lost"),
        pytest.param(lambda path: path.write_text('{"sha'), id="facts torn"),
        pytest.param(lambda path: path.write_text("[]"), id="facts of another shape"),
        pytest.param(lambda path: path.write_bytes(b"\xff\x00"), id="facts overwritten"),
    ],
)
def test_damaged_facts_are_computed_anew_and_kept(
    local_store: LocalArtifactStore, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    stored = put(local_store, "tasks/t/1/a", b"content")
    (facts,) = [path for path in (tmp_path / "artifacts/facts").rglob("*") if path.is_file()]
    kept = facts.read_bytes()
    damage(facts)
    assert local_store.stat("tasks/t/1/a") == stored
    assert facts.read_bytes() == kept


def test_an_object_replaced_behind_its_facts_is_noticed(
    local_store: LocalArtifactStore, tmp_path: Path
) -> None:
    """The state that a crash between the two renames leaves: facts of one version, bytes of the other."""
    put(local_store, "tasks/t/1/a", b"old bytes")
    path = tmp_path / "artifacts/objects/tasks/t/1/a"
    times = path.stat()
    (tmp_path / "other").write_bytes(b"new bytes")
    os.utime(tmp_path / "other", ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(tmp_path / "other", path)
    assert local_store.stat("tasks/t/1/a").sha256 == hashlib.sha256(b"new bytes").hexdigest()


ENDLESS_WRITER = """
import sys
from pathlib import Path
from cluster.local_storage import LocalArtifactStore
store = LocalArtifactStore(Path(sys.argv[1]))
for number in range(10**9):
    with store.writer("tasks/t/1/a") as writer:
        writer.write(bytes([65 + number % 26]) * 300_000)
        writer.commit()
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_object(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    for lines_before_kill in (1, 6, 13):
        command = [sys.executable, "-c", ENDLESS_WRITER, str(root)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
            for _ in range(lines_before_kill):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        store = LocalArtifactStore(root)
        content = content_of(store, "tasks/t/1/a")
        assert len(content) == 300_000
        assert len(set(content)) == 1
        assert store.stat("tasks/t/1/a").sha256 == hashlib.sha256(content).hexdigest()
        assert keys_below(store, "tasks/") == ["tasks/t/1/a"]


def test_links_that_leave_the_folder_are_not_followed(
    local_store: LocalArtifactStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    objects = tmp_path / "artifacts/objects/files/local"
    objects.mkdir(parents=True)
    (objects / "folder").symlink_to(outside)
    (objects / "file").symlink_to(outside / "secret")
    (objects / "circle").symlink_to(objects / "circle")
    for key in ["files/local/folder/secret", "files/local/file", "files/local/circle"]:
        for use in [local_store.stat, local_store.read, local_store.open]:
            with pytest.raises(ArtifactNotFound):
                use(key)
    with pytest.raises(InvalidKey):
        local_store.writer("files/local/folder/new")
    assert local_store.delete("files/local/folder/secret") is False
    assert keys_below(local_store, "files/") == []
    assert keys_below(local_store, "files/local/folder/") == []
    local_store.delete_prefix("files/local/folder/")
    local_store.delete_prefix("files/")
    assert (outside / "secret").read_bytes() == b"secret"


def test_fetch_links_on_one_file_system_and_objects_are_read_only(
    local_store: LocalArtifactStore, tmp_path: Path
) -> None:
    put(local_store, "files/local/a", b"x")
    local_store.fetch("files/local/a", tmp_path / "a")
    assert (tmp_path / "a").samefile(tmp_path / "artifacts/objects/files/local/a")
    assert (tmp_path / "a").stat().st_mode & 0o222 == 0


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_fetch_copies_across_file_systems(local_store: LocalArtifactStore, tmp_path: Path) -> None:
    target = Path("/dev/shm") / f"mediaray-{uuid4().hex}"
    if Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    content = noise(3_000_000)
    put(local_store, "files/local/a", content)
    try:
        local_store.fetch("files/local/a", target)
        assert target.read_bytes() == content
    finally:
        target.unlink(missing_ok=True)


FULL_DISK = """
import resource, sys
from pathlib import Path
from cluster.errors import StorageFailure
from cluster.local_storage import LocalArtifactStore
root, limit_bytes = Path(sys.argv[1]), int(sys.argv[2])
store = LocalArtifactStore(root)
with store.writer("tasks/t/1/small") as writer:
    writer.write(b"x" * 1000)
    writer.commit()
if limit_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
try:
    with store.writer("tasks/t/1/large") as writer:
        writer.write(b"y" * 1_500_000)
        writer.write(b"y" * 2_500_000)
        writer.commit()
except StorageFailure as failure:
    print(failure)
print([stored.key for stored in store.list("tasks/")], list((root / ".incoming").iterdir()))
store.delete("tasks/t/1/small")
store.check()
"""
NO_SPACE = (
    "no space left on the artifact store's disk: free space in artifacts or set MEDIARAY_STORAGE_URL\n"
    "['tasks/t/1/small'] []\n"
)


def test_a_file_size_limit_is_reported_like_a_full_disk(tmp_path: Path) -> None:
    assert run_python(FULL_DISK, str(tmp_path / "artifacts"), str(2 * 1024**2)).stdout == NO_SPACE


def test_a_full_disk_is_reported_and_leaves_nothing_behind(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"'
    wrapper = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(tmp_path))
    trial = [*wrapper, "true"] if shutil.which("unshare") else ["false"]
    if subprocess.run(trial, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs a mount namespace for a small tmpfs")
    assert run_python(FULL_DISK, str(tmp_path / "artifacts"), "0", wrapper=wrapper).stdout == NO_SPACE


def test_failures_of_the_disk_name_no_path(local_store: LocalArtifactStore, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "artifacts")
    (tmp_path / "artifacts").write_bytes(b"no folder")
    with pytest.raises(StorageFailure) as caught:
        local_store.check()
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(StorageFailure) as caught:
        LocalArtifactStore(tmp_path / "artifacts")
    assert str(tmp_path) not in str(caught.value)


# --- only S3 ---


def names_in_bucket(client, store: S3ArtifactStore) -> list[str]:
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=store._prefix).get("Contents", [])
    return [entry["Key"].removeprefix(store._prefix) for entry in found]


def test_large_objects_have_a_companion_that_goes_with_them(s3_client, s3_store: S3ArtifactStore) -> None:
    put(s3_store, "tasks/t/1/small", b"x")
    put(s3_store, "tasks/t/1/large", noise(PART_BYTES + 1))
    put(s3_store, "tasks/t/2/large", noise(PART_BYTES + 1))
    assert names_in_bucket(s3_client, s3_store)[:2] == [".sha256/tasks/t/1/large", ".sha256/tasks/t/2/large"]
    s3_store.delete("tasks/t/1/large")
    assert names_in_bucket(s3_client, s3_store)[0] == ".sha256/tasks/t/2/large"
    assert s3_store.delete_prefix("tasks/") == 2
    assert names_in_bucket(s3_client, s3_store) == []


@pytest.mark.parametrize("key", [".sha256", ".sha256/tasks/t/1/large"])
def test_companions_cannot_be_reached_as_objects(s3_store: S3ArtifactStore, key: str) -> None:
    put(s3_store, "tasks/t/1/large", noise(PART_BYTES + 1))
    with pytest.raises(InvalidKey):
        s3_store.stat(key)
    with pytest.raises(InvalidKey):
        list(s3_store.list(f"{key}/"))


@pytest.mark.parametrize("ending", ["no commit", "an error", "a refused commit"])
def test_unfinished_multipart_uploads_are_ended(s3_client, s3_store: S3ArtifactStore, ending: str) -> None:
    def upload() -> None:
        with s3_store.writer("tasks/t/1/out") as writer:
            writer.write(noise(PART_BYTES + 1))
            assert uploads() == [f"{s3_store._prefix}tasks/t/1/out"]
            if ending == "an error":
                raise RuntimeError("decoder")
            if ending == "a refused commit":
                writer._parts[0]["ETag"] = '"00000000000000000000000000000000"'
                writer.commit()

    def uploads() -> list[str]:
        return [
            upload["Key"] for upload in s3_client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        ]

    expected = {"an error": RuntimeError, "a refused commit": StorageFailure}.get(ending)
    if expected:
        with pytest.raises(expected):
            upload()
    else:
        upload()
    assert uploads() == []
    with pytest.raises(ArtifactNotFound):
        s3_store.stat("tasks/t/1/out")


def test_objects_of_other_tools_are_described_by_content(s3_client, s3_store: S3ArtifactStore) -> None:
    content = (SAMPLES / "carphone_distorted.mp4").read_bytes()
    s3_client.put_object(Bucket=BUCKET, Key=f"{s3_store._prefix}files/local/v.txt", Body=content)
    s3_client.put_object(Bucket=BUCKET, Key=f"{s3_store._prefix}files/local/folder/", Body=b"")
    (listed,) = s3_store.list("files/local/")
    assert (listed.key, listed.media_type) == ("files/local/v.txt", "video/mp4")
    assert listed.sha256 == hashlib.sha256(content).hexdigest()
    assert ".sha256/files/local/v.txt" in names_in_bucket(s3_client, s3_store)


def test_a_companion_of_an_older_version_is_not_believed(s3_client, s3_store: S3ArtifactStore) -> None:
    put(s3_store, "files/local/a", noise(PART_BYTES + 1))
    s3_client.put_object(Bucket=BUCKET, Key=f"{s3_store._prefix}files/local/a", Body=b"newer")
    assert s3_store.stat("files/local/a").sha256 == hashlib.sha256(b"newer").hexdigest()
    assert s3_store.stat("files/local/a").media_type.startswith("text/plain")


def test_a_reader_does_not_mix_two_versions(s3_store: S3ArtifactStore) -> None:
    put(s3_store, "files/local/a", noise(600_000))
    with s3_store.open("files/local/a") as file:
        file.read(10)
        put(s3_store, "files/local/a", noise(600_000))
        file.seek(500_000)
        with pytest.raises(StorageFailure):
            file.read(10)


def test_prefixes_of_two_stores_in_one_bucket_are_apart(s3_client) -> None:
    first = S3ArtifactStore(BUCKET, f"/{uuid4().hex}/", s3_client)
    second = S3ArtifactStore(BUCKET, uuid4().hex, s3_client)
    put(first, "files/local/a", b"x")
    assert keys_below(second, "files/") == []
    assert keys_below(first, "files/") == ["files/local/a"]


def test_failures_of_s3_say_what_to_check_and_no_secret(s3_client, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageFailure, match="NoSuchBucket") as no_bucket:
        S3ArtifactStore("none-such", client=s3_client).check()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageFailure, match="AWS_ENDPOINT_URL") as no_server:
        S3ArtifactStore(BUCKET).check()
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(StorageFailure, match="credentials") as no_credentials:
        S3ArtifactStore(BUCKET).check()
    for caught in [no_bucket, no_server, no_credentials]:
        assert SECRET not in str(caught.value)
        assert "127.0.0.1" not in str(caught.value)


# --- choosing the store ---


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
