"""One server for the acceptance tests, with short leases and two replicas where a test needs a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import ServerProcess

SAMPLES = Path(__file__).parents[2] / "samples"
LEASE_S = 3


@pytest.fixture(scope="session")
def samples() -> Path:
    return SAMPLES


@pytest.fixture(scope="session")
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
    )
    server.start()
    yield server
    server.stop()
