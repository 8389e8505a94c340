"""README's curl for each API works when it is pasted, in a checkout beside a running server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import ServerProcess

ROOT = Path(__file__).parents[2]
SUBMITS = {
    "tasks": r"/v1/tasks -H",
    "flashvsr": r"/flashvsr/api/tasks/",
    "indexed": r"/indexed/api/inference",
    "hallo2": r"/hallo2/api/v1/inference/hallo2",
    "creation": r"/creation/api/tasks/",
}
WITHOUT_ENGINE = {"hallo2", "creation"}
"""What README says answers 503 until its engine lands."""


def curls() -> list[str]:
    """Every curl command of README, continued lines joined."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    return re.findall(r"^curl .*$", text, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    server = ServerProcess(tmp_path_factory.mktemp("readme") / "data")
    server.start()
    yield server
    server.stop()


def test_every_curl_works_when_pasted(server: ServerProcess) -> None:
    answers = {command: pasted(server, command) for command in curls()}
    for dialect, path in SUBMITS.items():
        (answer,) = [answer for command, answer in answers.items() if re.search(path, command)]
        if dialect in WITHOUT_ENGINE:
            assert "no engine" in json.dumps(answer), answer
        else:
            assert answer.get("task_id") or answer.get("id"), answer
    assert server.wait("sound-1")["status"] == "completed"


def pasted(server: ServerProcess, command: str) -> dict[str, object]:
    """What a command answers: its JSON, or for a stream of events the last one's."""
    run = subprocess.run(
        ["bash", "-c", command.replace("http://127.0.0.1:8000", server.url)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, object] = json.loads(run.stdout.strip().splitlines()[-1].removeprefix("data: "))
    return answer
