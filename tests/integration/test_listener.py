"""Without keys Serve must listen on loopback, whoever started it: `serve deploy` reads its own file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.api_client import key_entry
from tests.server import free_port

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import ray
from ray import serve
from cluster.settings import Settings
from deployments.app import build, refuse_open_listener
port, keys = sys.argv[1:]
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
serve.start(http_options={"host": "0.0.0.0", "port": int(port)})
refuse_open_listener(Settings(api_keys=keys))
try:
    build({})
    print("built")
except ValueError as error:
    print("refused:", error)
"""


def test_an_open_listener_of_serve_needs_keys(tmp_path: Path) -> None:
    """That one on loopback needs none is what every other test with a server shows."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(free_port()), key_entry("acme", "key")],
        env=os.environ | {"MEDIARAY_DATA_DIR": str(tmp_path), "MEDIARAY_API_KEYS": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == (
        "refused: http_options.host=0.0.0.0 is reachable from outside and MEDIARAY_API_KEYS is empty:"
        " set keys, or listen on 127.0.0.1"
    )
