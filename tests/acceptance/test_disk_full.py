"""A full artifact store: told to the caller in words, never retried, and over once there is room again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import HTTP, ServerProcess

STORE_BYTES = 6 << 20
FULL = "no space left on the artifact store's disk: free space in artifacts or set MEDIARAY_STORAGE_URL"
LARGE = {"sample_rate": 192_000, "channels": 8}  # 16 MB of the sample's 5 seconds
SMALL = {"sample_rate": 16_000, "channels": 1}  # 170 kB


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 6 MiB where the server's artifacts go."""
    folder = tmp_path_factory.mktemp("full") / "data" / "artifacts"
    folder.mkdir(parents=True)
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES}", "mediaray-test", str(folder)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here: {getattr(error, 'stderr', '') or error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(store.parent, sets=["diagnostics.min_replicas=1"], show_diagnostics="true")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def video(server: ServerProcess, samples: Path) -> str:
    return server.upload(samples / "bigbuckbunny.mp4", "bunny.mp4")


@pytest.fixture
def filler(server: ServerProcess, store: Path, tmp_path: Path, video: str) -> Iterator[str]:
    """An upload that leaves less room than any output needs."""
    path = tmp_path / "filler"
    path.write_bytes(os.urandom(shutil.disk_usage(store).free - 65536))
    yield server.upload(path, "filler.bin")
    HTTP.delete(f"{server.url}/v1/files/filler.bin")


def extract(server: ServerProcess, video: str, options: dict[str, int]) -> str:
    return server.submit("ffmpeg.extract_audio", {"video_path": video} | options)


def assert_failed_once(server: ServerProcess, task_id: str) -> None:
    record = server.wait(task_id)
    assert record["status"] == "failed", record
    assert FULL in record["message"]
    assert record["result"] == {"error": FULL, "error_code": "INTERNAL_ERROR"}
    assert server.history(task_id) == ["create", "lease", "fail"]


def test_an_output_that_does_not_fit_fails_once_and_leaves_no_trace(
    server: ServerProcess, store: Path, video: str
) -> None:
    free_bytes = shutil.disk_usage(store).free
    assert_failed_once(server, extract(server, video, LARGE))
    assert free_bytes - shutil.disk_usage(store).free < 65536
    done = server.wait(extract(server, video, SMALL))
    assert done["status"] == "completed", done


def test_outputs_that_fit_one_by_one_but_not_together_are_all_taken_back(
    server: ServerProcess, store: Path, samples: Path, tmp_path: Path
) -> None:
    sound = server.upload(samples / "conversation.wav", "conversation.wav")
    cues = "".join(f"{n}\n00:00:{2 * n:02},000 --> 00:00:{2 * n + 1:02},000\nx\n\n" for n in range(1, 6))
    (tmp_path / "cues.srt").write_text(cues)
    subtitle = server.upload(tmp_path / "cues.srt", "cues.srt")
    free_bytes = shutil.disk_usage(store).free
    inputs = {"audio_path": sound, "subtitle_path": subtitle} | LARGE  # five outputs of 3 MB
    assert_failed_once(server, server.submit("ffmpeg.split_audio_segments", inputs))
    assert free_bytes - shutil.disk_usage(store).free < 65536


def test_a_full_store_refuses_in_words_and_recovers(server: ServerProcess, video: str, filler: str) -> None:
    refused = HTTP.put(f"{server.url}/v1/files/more.bin", content=bytes(1 << 20))
    assert refused.status_code == 503, refused.text
    assert FULL in refused.json()["detail"]
    assert_failed_once(server, extract(server, video, SMALL))
    echo = server.wait(server.submit("diagnostics.echo", {"payload": "still here"}))
    assert (echo["status"], echo["result"]["payload"]) == ("completed", "still here")
    assert HTTP.delete(f"{server.url}/v1/files/{filler}").status_code == 200
    done = server.wait(extract(server, video, SMALL))
    assert done["status"] == "completed", done
    assert HTTP.get(done["minio_files"][0]["download_url"]).content[:4] == b"RIFF"
