"""The server of the tests that kill its processes: short leases, two replicas where a test needs a second."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.media import ffmpeg_path
from tests.callback_receiver import SECRET
from tests.server import ServerProcess

SAMPLES = Path(__file__).parents[2] / "samples"
LEASE_S = 3


@pytest.fixture(scope="session")
def samples() -> Path:
    return SAMPLES


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(
        tmp_path_factory.mktemp("server") / "data",
        sets=[
            "diagnostics.min_replicas=1",
            "diagnostics.max_replicas=2",
            "diagnostics.slots=2",
            "flashvsr.min_replicas=1",
        ],
        lease_s=str(LEASE_S),
        show_diagnostics="true",
        callback_allow_cidrs="127.0.0.0/8",
        callback_secret=SECRET,
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def long_video(server: ServerProcess, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The object key of a video that no test has the patience for."""
    path = tmp_path_factory.mktemp("media") / "long.mp4"
    loop = ["-stream_loop", "20", "-i", str(samples / "bigbuckbunny.mp4"), "-c", "copy", str(path)]
    subprocess.run([ffmpeg_path(), "-v", "error", *loop], check=True)
    return server.upload(path, "long.mp4")
