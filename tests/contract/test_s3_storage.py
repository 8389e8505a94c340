"""What only the store in S3 does: multipart uploads, companions, presigned URLs."""

from __future__ import annotations

import hashlib
import os
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import pytest

from cluster.errors import ArtifactNotFound, ExpiredUrl, InvalidKey, StorageFailure
from cluster.s3_storage import PART_BYTES, S3ArtifactStore
from tests.stores import (
    BUCKET,
    FAR_AHEAD_S,
    SAMPLES,
    SECRET,
    keys_below,
    noise,
    put,
)


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


def test_a_url_of_another_prefix_or_bucket_names_no_key(s3_store: S3ArtifactStore) -> None:
    client = s3_store._client
    for other in (S3ArtifactStore(BUCKET, uuid4().hex, client), S3ArtifactStore("another", client=client)):
        url = other.download_url("files/local/a", base_url="", expires_s=60)
        assert s3_store.key_of_url(url) is None
        assert other.key_of_url(url) == "files/local/a"


@pytest.mark.parametrize("change", [("X-Amz-Date=2", "X-Amz-Date=x"), ("X-Amz-Expires=", "X-Amz-Expires=x")])
def test_a_url_whose_age_cannot_be_read_has_expired(s3_store: S3ArtifactStore, change) -> None:
    url = s3_store.download_url("files/local/a", base_url="", expires_s=60)
    with pytest.raises(ExpiredUrl):
        s3_store.key_of_url(url.replace(*change))


def test_sizes_pass_over_what_is_no_file_of_ours(s3_client, s3_store: S3ArtifactStore) -> None:
    for name in ("files/local/folder/", "files/local/../a", "files/local//b", "files/local/c"):
        s3_client.put_object(Bucket=BUCKET, Key=f"{s3_store._prefix}{name}", Body=b"x")
    assert list(s3_store.sizes("files/local/")) == [("files/local/c", 1)]
