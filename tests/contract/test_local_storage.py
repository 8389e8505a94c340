"""What only the store in a folder does: crashes, full disks, links, names, signed URLs."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import pytest

from cluster.errors import ArtifactNotFound, BadSignature, ExpiredUrl, InvalidKey, StorageFailure
from cluster.local_storage import LocalArtifactStore
from tests.stores import (
    REPOSITORY,
    content_of,
    keys_below,
    noise,
    put,
    run_python,
)


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
