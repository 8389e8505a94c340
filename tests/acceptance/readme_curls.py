"""README's curl for each API, and pasting one in a checkout beside a running server."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from tests.server import ServerProcess

ROOT = Path(__file__).parents[2]
SUBMITS = {
    "tasks": r"/v1/tasks -H",
    "flashvsr": r"/flashvsr/api/tasks/",
    "indexed": r"/indexed/api/inference",
    "hallo2": r"/hallo2/api/v1/inference/hallo2",
    "creation": r"/creation/api/tasks/",
}


def curls() -> list[str]:
    """Every curl command of README, continued lines joined."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    return re.findall(r"^curl .*$", text, flags=re.MULTILINE)


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
