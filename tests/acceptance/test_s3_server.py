"""A server whose artifacts lie on S3: a moto server here, reached through the settings an operator uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from models.media import probe
from tests.server import HTTP, ServerProcess

BUCKET = "media"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an S3 server with one bucket, in the environment of what is started from here."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture(scope="module")
def server(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data_dir = tmp_path_factory.mktemp("s3") / "data"
    server = ServerProcess(data_dir, storage_url=f"s3://{BUCKET}/prefix")
    server.start()
    yield server
    server.stop()


def test_a_task_goes_from_upload_to_presigned_download(
    server: ServerProcess, s3: str, samples: Path, tmp_path: Path
) -> None:
    key = server.upload(samples / "bigbuckbunny.mp4", "in.mp4")
    record = server.wait(server.submit("ffmpeg.extract_audio", {"video_path": key}))
    assert record["status"] == "completed", record
    (file,) = [file for file in record["minio_files"] if file["name"].endswith(".wav")]
    assert file["download_url"].startswith(f"{s3}/{BUCKET}/prefix/tasks/")
    answer = HTTP.get(file["download_url"])
    assert answer.status_code == 200
    (tmp_path / "out.wav").write_bytes(answer.content)
    with (tmp_path / "out.wav").open("rb") as sound:
        assert probe(sound).duration_s == pytest.approx(record["result"]["duration"], abs=0.1)


def test_what_is_deleted_leaves_the_bucket(server: ServerProcess, samples: Path) -> None:
    key = server.upload(samples / "bigbuckbunny.mp4", "gone.mp4")
    listed = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="prefix/")["Contents"]
    assert any(entry["Key"].endswith("gone.mp4") for entry in listed)
    assert HTTP.delete(f"{server.url}/v1/files/{key}").status_code == 200
    listed = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="prefix/").get("Contents", [])
    assert not any(entry["Key"].endswith("gone.mp4") for entry in listed)
    assert list((server.data_dir).glob("artifacts/**/*.mp4")) == []
