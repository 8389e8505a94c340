"""The sender against a real HTTP server and the real registry: every kind of answer, payload, signature."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from api.callbacks import CallbackSender
from cluster.book import RegistryLimits
from cluster.delivery import Delivery, DeliveryStatus
from cluster.errors import RegistryUnavailable
from cluster.outbox import CALLBACK_LEASE_S
from cluster.registry import TaskRegistry
from cluster.store import TaskStore
from cluster.task import Artifact, Failure, FailureCode, OutcomeKind
from cluster.urls import UrlGuard
from cluster.webhooks import Signer
from tests.callback_receiver import CLOSE, HANG, Receiver, closed_port
from tests.manual_clock import ManualClock
from tests.tasks import lease_request, new_task, outcome

SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
ARTIFACT = Artifact("out.txt", "tasks/t/1/out.txt", "text/plain", 3, "0" * 64)
UNSIGNABLE = Artifact("gone.txt", "tasks/t/1/gone.txt", "text/plain", 3, "0" * 64)
LOOPBACK = UrlGuard([ip_network("127.0.0.0/8")])


@dataclass
class Bench:
    """The registry with a clock, and a sender over it."""

    registry: TaskRegistry
    sender: CallbackSender
    clock: ManualClock
    url_calls: list[str]

    async def end(self, url: str, task_id: str = "t", **fields: object) -> None:
        await self.registry.submit(new_task(id=task_id, callback_url=url, callback_request_id=task_id))
        (task,) = await self.registry.lease(lease_request())
        await self.registry.finish([outcome(task, **fields)])

    async def turn(self) -> Delivery:
        """Send what is due, and tell how the first delivery stands."""
        await asyncio.gather(*await self.sender.turn(0.0))
        return (await self.registry.get("t")).deliveries[0]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock, url_calls = ManualClock(), []
    limits = RegistryLimits(coalesce_s=0, gather_s=0)
    registry = TaskRegistry(TaskStore(f"sqlite:///{tmp_path}/tasks.sqlite"), clock, limits, clock)
    await registry.open()

    def url_of(key: str) -> str:
        url_calls.append(key)
        if key == UNSIGNABLE.key:
            raise LookupError("no credentials")
        return f"http://server/{key}?signed={len(url_calls)}"

    sender = CallbackSender(registry, LOOPBACK, Signer(SECRET), url_of, clock)
    yield Bench(registry, sender, clock, url_calls)
    await registry.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


async def test_payload_headers_and_signature(bench: Bench, receiver: Receiver) -> None:
    result = {"text": "任务", "audio": {"$download": "tasks/t/1/out.txt"}}
    await bench.end(receiver.url, result=result, artifacts=(ARTIFACT,))
    bench.clock.advance(2)
    assert (await bench.turn()).status is DeliveryStatus.SENT
    (request,) = receiver.all()
    file = request.json["minio_files"][0]
    assert file["download_url"] == file["url"] != request.json["result"]["audio"]
    ended_at = datetime.fromtimestamp(bench.clock() - 2, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert request.json == {
        "task_id": "t",
        "status": "completed",
        "result": {"text": "任务", "audio": "http://server/tasks/t/1/out.txt?signed=1"},
        "minio_files": [
            {
                "file_path": "tasks/t/1/out.txt", "download_url": "http://server/tasks/t/1/out.txt?signed=2",
                "size": 3, "content_type": "text/plain", "name": "out.txt", "type": "other",
                "url": "http://server/tasks/t/1/out.txt?signed=2",
            }
        ],
        "timestamp": ended_at,
    }  # fmt: skip
    assert request.path == "/hook"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-task-status"] == "completed"
    assert request.headers["webhook-timestamp"] == str(int(bench.clock()))
    assert "." not in request.headers["webhook-id"]
    assert request.headers["webhook-signature"] == signature(request.headers, request.body)


async def test_what_json_and_utf_8_have_no_word_for_does_not_keep_the_rest_back(
    bench: Bench, receiver: Receiver
) -> None:
    await bench.end(receiver.url, result={"psnr": float("inf"), "ssim": [float("nan")], "half": "\ud800"})
    await bench.turn()
    (request,) = receiver.all()
    told = json.loads(request.body, parse_constant=pytest.fail)["result"]
    assert told == {"psnr": None, "ssim": [None], "half": "?"}


def signature(headers: dict[str, str], body: bytes) -> str:
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    return Webhook(SECRET).sign(headers["webhook-id"], at, body.decode())


@pytest.mark.parametrize(
    ("kind", "failure", "word", "result"),
    [
        (
            OutcomeKind.FAILED,
            Failure(FailureCode.GPU_OUT_OF_MEMORY, "GPU内存不足"),
            "failed",
            {"error": "GPU内存不足", "error_code": "GPU_OUT_OF_MEMORY"},
        ),
        (OutcomeKind.CANCELLED, None, "cancelled", {"error": "任务已取消", "error_code": "CANCELLED"}),
    ],
    ids=["failed", "cancelled"],
)
async def test_other_endings_tell_why(
    bench: Bench, receiver: Receiver, kind: OutcomeKind, failure: Failure | None, word: str, result: object
) -> None:
    await bench.end(receiver.url, kind=kind, failure=failure)
    await bench.turn()
    (request,) = receiver.all()
    told = {name: request.json[name] for name in ("status", "result", "minio_files")}
    assert told == {"status": word, "result": result, "minio_files": []}
    assert request.headers["x-task-status"] == word


async def test_500_500_200_arrives_with_fresh_urls_and_signatures(bench: Bench, receiver: Receiver) -> None:
    receiver.answers = [500, 503]
    await bench.end(receiver.url, artifacts=(ARTIFACT,))
    stands = []
    for _ in range(3):
        stands.append(await bench.turn())
        assert await bench.turn() == stands[-1]  # nothing is due before its time
        bench.clock.now = stands[-1].due_at or bench.clock.now
    assert [each.status for each in stands] == ["pending", "pending", "sent"]
    assert [tried.status_code for tried in stands[-1].tries] == [500, 503, 200]
    first, second, third = receiver.all()
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == third.headers["webhook-id"]
    assert len({request.headers["webhook-timestamp"] for request in (first, second, third)}) == 3
    assert len({request.json["minio_files"][0]["download_url"] for request in (first, second, third)}) == 3
    assert third.headers["webhook-signature"] == signature(third.headers, third.body)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (301, "failed"),
        (308, "failed"),
        (410, "failed"),
        (404, "failed"),
        (429, "pending"),
        (CLOSE, "pending"),
    ],
    ids=str,
)
async def test_one_answer(bench: Bench, receiver: Receiver, answer: int, status: str) -> None:
    receiver.answers = [answer]
    receiver.headers = {"Location": receiver.url}
    await bench.end(receiver.url)
    delivery = await bench.turn()
    assert delivery.status == status
    assert len(receiver.all()) == 1
    (tried,) = delivery.tries
    assert tried.status_code == (None if answer == CLOSE else answer)
    assert bool(tried.error) == (answer == CLOSE)


async def test_a_receiver_that_hangs_is_given_up_and_tried_again(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.callbacks.TIMEOUT_S", 0.2)
    receiver.answers = [HANG]
    await bench.end(receiver.url)
    delivery = await bench.turn()
    assert (delivery.status, delivery.tries[0].status_code) == ("pending", None)
    assert "did not answer in time" in delivery.tries[0].error
    bench.clock.now = delivery.due_at or 0.0
    assert (await bench.turn()).status == "sent"


async def test_retry_after_is_honoured(bench: Bench, receiver: Receiver) -> None:
    receiver.answers, receiver.headers = [503], {"Retry-After": "900"}
    await bench.end(receiver.url)
    assert (await bench.turn()).due_at == bench.clock() + 900


async def test_a_closed_port_is_tried_again(bench: Bench) -> None:
    with closed_port() as port:
        await bench.end(f"http://127.0.0.1:{port}/")
        delivery = await bench.turn()
    assert (delivery.status, delivery.tries[0].status_code) == ("pending", None)
    assert "cannot be reached" in delivery.tries[0].error


async def test_an_address_that_has_become_private_ends_the_delivery(bench: Bench, receiver: Receiver) -> None:
    bench.sender._poster = UrlGuard()
    await bench.end(receiver.url)
    delivery = await bench.turn()
    assert (delivery.status, receiver.all()) == ("failed", [])
    assert "not a public address" in delivery.tries[0].error


async def test_what_cannot_even_be_written_counts_as_a_try(
    bench: Bench, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.end(receiver.url, artifacts=(UNSIGNABLE,))
    delivery = await bench.turn()
    assert (delivery.status, delivery.num_tries, receiver.all()) == ("pending", 1, [])
    assert "server error: LookupError" in delivery.tries[0].error
    assert "could not be tried" in caplog.text


async def test_one_slow_receiver_leaves_the_others_alone(bench: Bench, receiver: Receiver) -> None:
    receiver.answers = [HANG]
    await bench.end(receiver.url)
    (slow,) = await bench.sender.turn(0.0)
    await asyncio.to_thread(receiver.received.get)
    await bench.end(receiver.url, "quick")
    await asyncio.gather(*await bench.sender.turn(0.0))
    assert (await bench.registry.get("quick")).deliveries[0].status == "sent"
    receiver.release.set()
    await slow


async def test_the_loop_sends_as_callbacks_become_due_and_no_more_than_its_slots(
    bench: Bench, receiver: Receiver
) -> None:
    slots = bench.sender._free_slots = 4
    receiver.answers = [HANG] * slots
    for number in range(slots + 3):
        await bench.end(receiver.url, f"t{number}")
    bench.sender.start()
    for _ in range(slots):
        await asyncio.to_thread(receiver.received.get)
    assert len(bench.sender._deliveries) == slots
    assert receiver.received.empty()
    receiver.release.set()
    for _ in range(3):
        await asyncio.to_thread(receiver.received.get)
    await bench.sender.stop()


async def test_a_report_is_repeated_until_the_registry_is_back(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.callbacks._PAUSE_S", 0)
    report, refusals = bench.registry.report_callback, iter([RegistryUnavailable("away")] * 2)

    async def report_later(told: object) -> None:
        for refusal in refusals:
            raise refusal
        await report(told)

    monkeypatch.setattr(bench.registry, "report_callback", report_later)
    await bench.end(receiver.url)
    assert (await bench.turn()).status == "sent"
    assert len(receiver.all()) == 1


async def test_a_sender_that_stops_leaves_its_callback_to_the_next(bench: Bench, receiver: Receiver) -> None:
    receiver.answers = [HANG]
    await bench.end(receiver.url)
    bench.sender.start()
    first = await asyncio.to_thread(receiver.received.get)
    await bench.sender.stop()
    bench.clock.advance(CALLBACK_LEASE_S)
    assert (await bench.turn()).status == "sent"
    (second,) = receiver.all()
    assert second.headers["webhook-id"] == first.headers["webhook-id"]
