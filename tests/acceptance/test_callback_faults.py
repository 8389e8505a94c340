"""A callback survives its registry: receiver down, task ends, kill -9, receiver up, delivered and signed."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import pytest
from standardwebhooks import Webhook

from tests.callback_receiver import Receiver, closed_port
from tests.server import ServerProcess, eventually

SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
REGISTRY = "ray::RegistryActor"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(
        tmp_path_factory.mktemp("callbacks") / "data",
        sets=["diagnostics.min_replicas=1"],
        callback_allow_cidrs="127.0.0.0/8",
        callback_secret=SECRET,
    )
    server.start()
    yield server
    server.stop()


def test_a_callback_outlives_a_killed_registry_and_arrives_once(server: ServerProcess) -> None:
    with closed_port() as port:
        url = f"http://127.0.0.1:{port}/hook"
        body = {"task_name": "diagnostics.echo", "task_id": "told", "input_data": {"payload": 7}}
        answer = httpx.post(f"{server.url}/v1/tasks", json=body | {"callback": url}, timeout=60)
        assert answer.status_code == 200, answer.text
        server.wait("told")
        eventually(lambda: tries(server) >= 1)
        assert server.result("told")["callback_status"] == "pending"
        server.kill(REGISTRY)
    with Receiver(port) as receiver:
        request = receiver.received.get(timeout=50)
        eventually(lambda: server.result("told")["callback_status"] == "sent")
        assert receiver.all() == []
    told = Webhook(SECRET).verify(request.body, request.headers)
    assert (told["task_id"], told["status"], told["result"]["payload"]) == ("told", "completed", 7)
    assert request.headers["x-task-status"] == "completed"
    assert server.history("told").count("callback_sent") == 1


def tries(server: ServerProcess) -> int:
    answer = httpx.get(f"{server.url}/v1/tasks/told/deliveries", timeout=60)
    return sum(delivery["num_tries"] for delivery in answer.json()["deliveries"])
