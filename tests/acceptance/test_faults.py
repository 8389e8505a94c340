"""Real kills of real processes: nothing accepted is lost, nothing is published twice, every task ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from standardwebhooks import Webhook

from tests.acceptance.conftest import LEASE_S
from tests.callback_receiver import SECRET, Receiver, closed_port
from tests.server import HTTP, ServerProcess, eventually

REGISTRY = "ray::RegistryActor"
INGRESS = "ray::ServeReplica:mediaray:ingress"
ECHO = "ray::ServeReplica:mediaray:diagnostics"
UPSCALE = "ray::ServeReplica:mediaray:flashvsr"
FFMPEG = "ray::ServeReplica:mediaray:ffmpeg"
CONTROLLER = "ray::ServeController"


def echo(server: ServerProcess, payload: object, *, sleep_s: float = 0.0) -> str:
    return server.submit("diagnostics.echo", {"payload": payload, "sleep_s": sleep_s})


def assert_succeeded_once(server: ServerProcess, tasks: dict[str, object]) -> None:
    for task_id, payload in tasks.items():
        record = server.wait(task_id)
        assert (record["status"], record["result"].get("payload")) == ("completed", payload), record
        assert server.history(task_id).count("succeed") == 1


@pytest.mark.parametrize("name", [REGISTRY, INGRESS, CONTROLLER], ids=["registry", "ingress", "controller"])
def test_kill_with_queued_and_running_tasks(server: ServerProcess, name: str) -> None:
    tasks = {echo(server, number, sleep_s=2): number for number in range(6)}
    server.wait(next(iter(tasks)), "running")
    server.kill(name)
    tasks |= {echo(server, number): number for number in range(6, 9)}
    assert_succeeded_once(server, tasks)


def test_kill_of_haproxy(server: ServerProcess) -> None:
    tasks: dict[str, object] = {echo(server, "before", sleep_s=2): "before"}
    (haproxy,) = [process for process in server.family() if process.name() == "haproxy"]
    haproxy.kill()
    haproxy.wait()
    tasks |= {echo(server, "after"): "after"}
    assert_succeeded_once(server, tasks)


def test_kill_of_the_idle_registry(server: ServerProcess) -> None:
    before = echo(server, "before")
    server.wait(before)
    server.kill(REGISTRY)
    after = echo(server, "after")
    assert_succeeded_once(server, {before: "before", after: "after"})


def test_kill_of_a_replica_in_the_middle_of_a_task(server: ServerProcess) -> None:
    task_id = echo(server, "again", sleep_s=4)
    worker = server.wait(task_id, "running")["execution_info"]["worker_id"]
    psutil.Process(pid_of(worker)).kill()
    assert_succeeded_once(server, {task_id: "again"})
    history = server.history(task_id)
    assert (history[:3], history[-2:]) == (["create", "lease", "requeue"], ["lease", "succeed"])


def test_a_replica_stopped_past_its_lease_cannot_publish(server: ServerProcess) -> None:
    task_id = echo(server, "once", sleep_s=2)
    first = server.wait(task_id, "running")["execution_info"]["worker_id"]
    replica = psutil.Process(pid_of(first))
    replica.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: "requeue" in server.history(task_id))
        assert_succeeded_once(server, {task_id: "once"})
    finally:
        replica.send_signal(signal.SIGCONT)
    # The woken replica takes work again, so its late report has been answered by then.
    second = server.result(task_id)["execution_info"]["worker_id"]
    assert second != first
    assert_succeeded_once(server, {echo(server, "more"): "more"})
    assert server.history(task_id).count("succeed") == 1
    assert server.result(task_id)["execution_info"]["worker_id"] == second


def test_a_registry_stopped_past_all_leases_takes_no_work_from_its_replicas(server: ServerProcess) -> None:
    task_id = echo(server, "undisturbed", sleep_s=LEASE_S + 6)
    server.wait(task_id, "running")
    registry = server.process(REGISTRY)
    registry.send_signal(signal.SIGSTOP)
    time.sleep(LEASE_S + 2)  # the standstill itself
    registry.send_signal(signal.SIGCONT)
    assert_succeeded_once(server, {task_id: "undisturbed"})
    assert server.history(task_id) == ["create", "lease", "succeed"]


def test_cancel_stops_a_running_upscale(server: ServerProcess, long_video: str) -> None:
    task_id = server.submit("flashvsr.upscale_video", {"video_path": long_video, "scale": 4.0})
    eventually(lambda: server.result(task_id)["progress"]["done"] > 2)
    replica = psutil.Process(pid_of(server.result(task_id)["execution_info"]["worker_id"]))
    assert HTTP.delete(f"{server.url}/v1/tasks/{task_id}").json()["status"] == "cancelled"
    eventually(lambda: is_idle(replica))
    record = server.wait(task_id)
    assert record["status"] == "cancelled"
    assert HTTP.get(f"{server.url}/v1/tasks/{task_id}/status").json()["result"]["error_code"] == "CANCELLED"


def test_engines_yield_to_what_answers_callers(server: ServerProcess, long_video: str) -> None:
    task_id = server.submit("flashvsr.upscale_video", {"video_path": long_video, "scale": 4.0})
    eventually(lambda: server.result(task_id)["progress"]["done"] > 2)
    replica = psutil.Process(pid_of(server.result(task_id)["execution_info"]["worker_id"]))
    before = cpu_s_of_threads(replica)
    eventually(lambda: server.result(task_id)["progress"]["done"] > 12)
    after = cpu_s_of_threads(replica)
    HTTP.delete(f"{server.url}/v1/tasks/{task_id}")
    busiest = max(after, key=lambda thread: after[thread] - before.get(thread, 0.0))
    assert os.getpriority(os.PRIO_PROCESS, busiest) == 10
    assert os.getpriority(os.PRIO_PROCESS, replica.pid) == server.process(REGISTRY).nice() == 0
    assert server.wait(task_id)["status"] == "cancelled"


def test_cancel_ends_a_running_ffmpeg(server: ServerProcess, long_video: str) -> None:
    task_id = server.submit(
        "ffmpeg.extract_keyframes", {"video_path": long_video, "keyframe_sample_count": 10000}
    )
    server.wait(task_id, "running")
    replica = psutil.Process(pid_of(server.result(task_id)["execution_info"]["worker_id"]))
    children = eventually(lambda: replica.children(recursive=True))
    assert {child.nice() for child in children} == {10}
    HTTP.delete(f"{server.url}/v1/tasks/{task_id}")
    assert server.wait(task_id)["status"] == "cancelled"
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_a_callback_outlives_a_killed_registry_and_arrives_once(server: ServerProcess) -> None:
    with closed_port() as port:
        url = f"http://127.0.0.1:{port}/hook"
        body = {"task_name": "diagnostics.echo", "task_id": "told", "input_data": {"payload": 7}}
        answer = HTTP.post(f"{server.url}/v1/tasks", json=body | {"callback": url})
        assert answer.status_code == 200, answer.text
        server.wait("told")
        eventually(lambda: tries(server, "told") >= 1)
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


def test_the_whole_cluster_killed_and_restarted(server: ServerProcess) -> None:
    done = echo(server, "done")
    server.wait(done)
    tasks = {done: "done"} | {echo(server, number, sleep_s=2): number for number in range(6)}
    server.wait(list(tasks)[1], "running")
    run_dir = run_dir_of(server)
    server.kill_everything()
    assert run_dir.exists()
    server.start()
    assert_succeeded_once(server, tasks)
    assert not abandoned_workspaces(server)
    assert not run_dir.exists()


def run_dir_of(server: ServerProcess) -> Path:
    """Where the server keeps its sockets and temporary files."""
    return Path(json.loads((server.data_dir / "server.json").read_text())["run_dir"])


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_ray_itself_killed_starts_again(server: ServerProcess, name: str) -> None:
    tasks: dict[str, object] = {echo(server, number, sleep_s=2): number for number in range(6)}
    server.wait(next(iter(tasks)), "running")
    before = server.family()
    run_dir = run_dir_of(server)
    next(process for process in before if process.name() == name).kill()
    _, alive = psutil.wait_procs(before, timeout=60)
    assert not alive
    eventually(server.is_ready)
    assert_succeeded_once(server, tasks)
    assert not run_dir.exists()


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose Ray is there and whose services are not yet."""
    server = ServerProcess(tmp_path / "data")
    server.launch()
    server.process(CONTROLLER)
    yield server
    server.stop()


def test_ray_itself_killed_before_the_services_are_there(starting: ServerProcess) -> None:
    before = starting.family()
    next(process for process in before if process.name() == "raylet").kill()
    _, alive = psutil.wait_procs(before, timeout=60)
    assert not alive
    eventually(starting.is_ready)


def test_a_server_told_to_stop_before_the_services_are_there(starting: ServerProcess) -> None:
    starting.stop()
    assert "Traceback" not in starting.log_path.read_text()


def tries(server: ServerProcess, task_id: str) -> int:
    """How often a callback of the task was tried."""
    answer = HTTP.get(f"{server.url}/v1/tasks/{task_id}/deliveries")
    return sum(delivery["num_tries"] for delivery in answer.json()["deliveries"])


def pid_of(worker: str) -> int:
    """A worker id is service-host-pid-random."""
    return int(worker.split("-")[-2])


def cpu_s_of_threads(process: psutil.Process) -> dict[int, float]:
    return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}


def is_idle(process: psutil.Process) -> bool:
    """Whether it uses less than a third of a core for a second."""
    process.cpu_percent()
    return process.cpu_percent(interval=1.0) < 30


def abandoned_workspaces(server: ServerProcess) -> list[Path]:
    folders = [path for path in (server.data_dir / "work").iterdir() if path.is_dir()]
    return [path for path in folders if not psutil.pid_exists(pid_of(path.name))]
