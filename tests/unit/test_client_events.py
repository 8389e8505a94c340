"""Following a task, by either client: the server's event stream, its breaks, and polling without it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from mediaray import (
    ApiError,
    Client,
    LogLines,
    Progress,
    ProgressChange,
    ServerUnavailable,
    StatusChange,
    TaskCancelled,
    TaskEnd,
    TaskFailed,
    WaitTimeout,
    transport,
    watching,
)
from mediaray.transport import Patience
from tests.client_kinds import CLIENTS, Connect
from tests.client_server import World, serving

EVENTS = "/v1/tasks/t-1/events"
STATUS = "/v1/tasks/t-1/status"
WAITING = {"reason": "queue", "ahead": 2, "text": "2 tasks are served before it"}
HALF = {"stage": "encode", "done": 5, "total": 10, "unit": "frames", "fraction": 0.5}


def status(word: str, attempt: int = 0, waiting: Any = None) -> tuple[str, dict[str, Any]]:
    at = "2026-01-02T03:04:05"
    told = {"task_id": "t-1", "status": word, "message": "", "at": at, "attempt": attempt, "waiting": waiting}
    return "status", told


def end(word: str = "completed", **more: Any) -> tuple[str, dict[str, Any]]:
    return "end", {"task_id": "t-1", "status": word, "message": "", "progress": {}, **more}


LIFE = [
    status("pending", waiting=WAITING),
    status("running", 1),
    ("progress", {**HALF, "eta_s": {"low": 8, "high": 12}}),
    ("log", {"lines": ["第一行", "second"], "first": 0}),
    end(result={"n": 1}),
]


@pytest.fixture
def world() -> World:
    return World(events={"t-1": LIFE})


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with serving(world) as base_url:
        yield base_url


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return request.param


@pytest.fixture
def client(connect: Connect, url: str) -> Iterator[Client]:
    with connect(url, api_key="secret", retry_s=5) as one:
        yield one


def last_ids(world: World) -> list[str | None]:
    return [seen.headers.get("last-event-id") for seen in world.seen_on("GET", EVENTS)]


def test_events_are_told_as_values_and_end_with_the_task(client, world):
    pending, running, progress, log, last = client.events("t-1")
    assert isinstance(pending, StatusChange)
    assert (pending.status, pending.waiting, pending.at) == ("pending", WAITING, "2026-01-02T03:04:05")
    assert (running.status, running.attempt, running.waiting) == ("running", 1, None)
    half = Progress("running", "encode", 5, 10, "frames", 0.5, eta_s=10, eta_low_s=8, eta_high_s=12)
    assert progress == ProgressChange(half)
    assert log == LogLines(("第一行", "second"), 0)
    assert isinstance(last, TaskEnd)
    assert (last.view.status, last.view.result) == ("completed", {"n": 1})
    (seen,) = world.seen
    assert seen.headers["accept"] == "text/event-stream"
    assert seen.headers["authorization"] == "Bearer secret"


def test_a_broken_stream_goes_on_after_the_last_event_that_came(client, world):
    world.cut_streams_after.extend([2, 0, 1])
    assert len(list(client.events("t-1"))) == len(LIFE)
    assert last_ids(world) == [None, "2", "2", "3"]


def test_a_restart_of_the_server_is_ridden_out(connect, world):
    world.cut_streams_after.append(2)
    with serving(world) as url:
        client = connect(url, retry_s=0)
        events = client.events("t-1")
        before = list(islice(events, 2))
    with pytest.raises(ServerUnavailable), connect(url, retry_s=0) as other:
        other.status("t-1")  # it is really down
    world.refusals.extend([(503, {}), (502, {}), (429, {"retry-after": "0"})])
    with serving(world, int(url.rpartition(":")[2])):
        after = list(events)
        client.close()
    assert [type(event) for event in before + after] == [
        StatusChange,
        StatusChange,
        ProgressChange,
        LogLines,
        TaskEnd,
    ]
    assert set(last_ids(world)[1:]) == {"2"}


def test_a_stream_without_heartbeats_is_given_up_and_opened_again(client, world, monkeypatch):
    monkeypatch.setattr(watching, "LONGEST_SILENCE_S", 0.1)
    monkeypatch.setattr(watching, "SHORTEST_SILENCE_S", 0.1)
    world.heartbeat_s = 60
    world.events["t-1"] = LIFE[:1]
    events = client.events("t-1")
    assert next(events).status == "pending"
    world.events["t-1"] = LIFE
    assert next(events).status == "running"
    assert last_ids(world)[:2] == [None, "1"]


def test_heartbeats_keep_a_stream_open(client, world, monkeypatch):
    monkeypatch.setattr(watching, "LONGEST_SILENCE_S", 0.5)
    world.events["t-1"] = LIFE[:1]
    with pytest.raises(WaitTimeout):
        client.wait("t-1", timeout_s=1.5)
    assert last_ids(world) == [None]


def test_a_watcher_who_leaves_early_hangs_up(client, world):
    world.events["t-1"] = LIFE[:1]
    events = client.events("t-1")
    next(events)
    events.close()
    world.stream_left.wait()


def test_events_of_a_newer_server_are_skipped(client, world):
    world.events["t-1"] = [("weather", {"sun": True}), *LIFE]
    assert len(list(client.events("t-1"))) == len(LIFE)


def test_wait_tells_progress_from_events_with_the_interval_of_the_estimate(client, world):
    world.events["t-1"] = [*LIFE[:-1], status("completed", 1), LIFE[-1]]
    told: list[Progress] = []
    assert client.wait("t-1", on_progress=told.append).result == {"n": 1}
    assert [(one.status, one.fraction, one.eta_low_s, one.eta_high_s) for one in told] == [
        ("pending", None, None, None),
        ("running", None, None, None),
        ("running", 0.5, 8, 12),
        ("completed", None, None, None),
    ]
    assert world.seen_on("GET", STATUS) == []


def test_a_new_attempt_keeps_the_last_status_with_its_progress(client, world):
    world.cut_streams_after.append(2)
    world.events["t-1"] = [
        status("running", 1),
        ("progress", HALF),
        status("pending"),
        ("progress", {}),
        end(),
    ]
    shown = [event.progress for event in client.events("t-1") if not isinstance(event, TaskEnd)]
    assert [(one.status, one.fraction) for one in shown] == [
        ("running", None),
        ("running", 0.5),
        ("pending", 0.5),
        ("pending", None),
    ]


@pytest.mark.parametrize(
    ("last", "error"),
    [
        pytest.param(end("failed", result={"error": "坏", "error_code": "TIMEOUT"}), TaskFailed, id="failed"),
        pytest.param(end("cancelled"), TaskCancelled, id="cancelled"),
    ],
)
def test_wait_raises_what_the_last_event_says(client, world, last, error):
    world.events["t-1"] = [status("running"), last]
    with pytest.raises(error):
        client.wait("t-1")


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        pytest.param(404, {"detail": "Not Found"}, id="not found"),
        pytest.param(405, {"detail": "Method Not Allowed"}, id="not allowed"),
        pytest.param(503, {"detail": "full", "error": {"code": "TOO_MANY_LISTENERS"}}, id="no room"),
    ],
)
def test_without_an_event_stream_the_status_is_polled(client, world, code, answer):
    world.events.clear()
    world.script("GET", EVENTS, answer, status=code)
    progress = {**HALF, "eta_s": 9.5}
    world.status("t-1", {"status": "pending"}, {"status": "running", "progress": progress}, LIFE[-1][1])
    told: list[Progress] = []
    assert client.wait("t-1", on_progress=told.append, poll_s=0.01).status == "completed"
    assert [(one.status, one.eta_s, one.eta_low_s) for one in told] == [
        ("pending", None, None),
        ("running", 9.5, None),
        ("completed", None, None),
    ]
    assert len(world.seen_on("GET", EVENTS)) == 1


def test_polled_changes_come_as_the_same_events(client, world):
    world.events.clear()
    running = {"status": "running", "progress": HALF}
    world.status("t-1", {"status": "pending", "waiting": WAITING}, running, running, LIFE[-1][1])
    first, *others = client.events("t-1")
    assert first.waiting == WAITING
    assert [type(event) for event in others] == [StatusChange, ProgressChange, TaskEnd]


def test_a_task_that_is_deleted_meanwhile_is_an_error(client, world):
    world.events["t-1"] = [status("running"), ("end", {"task_id": "t-1", "status": "deleted"})]
    with pytest.raises(ApiError, match="task t-1 was deleted") as caught:
        client.wait("t-1")
    assert caught.value.status == 404


def test_a_task_that_does_not_exist_is_an_error_not_a_missing_endpoint(client, world):
    with pytest.raises(ApiError) as caught:
        client.wait("nobody")
    assert (caught.value.status, caught.value.code) == (404, "TASK_NOT_FOUND")
    assert [seen.path for seen in world.seen] == ["/v1/tasks/nobody/events", "/v1/tasks/nobody/status"]


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([("status", {"message": "no status"})], id="fields missing"),
        pytest.param([("log", {"lines": 3})], id="fields of another type"),
    ],
)
def test_malformed_events_name_a_wrong_server(client, world, events):
    world.events["t-1"] = events
    with pytest.raises(ApiError, match="does not answer like a mediaray server"):
        list(client.events("t-1"))


def test_an_answer_that_is_no_stream_names_a_wrong_server(client, world):
    world.events.clear()
    world.script("GET", EVENTS, {"page": "of a proxy"})
    with pytest.raises(ApiError, match="does not answer like a mediaray server"):
        list(client.events("t-1"))


def test_a_server_that_stays_away_ends_the_events(connect, world, monkeypatch):
    monkeypatch.setattr(watching, "LONGEST_OUTAGE_S", 0.2)
    with serving(world) as url:
        world.cut_streams_after.append(1)
        client = connect(url)
        events = client.events("t-1")
        next(events)
    with pytest.raises(ServerUnavailable, match=url):
        next(events)
    client.close()


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr(watching, "LONGEST_OUTAGE_S", 0.3)
    monkeypatch.setattr(transport, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(transport, "LONGEST_DELAY_S", 0.02)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("num_told", [0, 1], ids=["never an event", "one event at first"])
def test_streams_that_open_and_tell_nothing_are_given_up(client, world, num_told):
    world.cut_streams_after.extend([num_told] + [0] * 60)  # and then it would tell all
    with pytest.raises(ServerUnavailable):
        list(client.events("t-1"))


@pytest.mark.usefixtures("short_pauses")
def test_streams_that_heartbeats_kept_open_for_long_are_no_outage(client, world, monkeypatch):
    monkeypatch.setattr(watching, "STEADY_S", 0.0)
    world.cut_streams_after.extend([1] + [0] * 20)
    assert len(list(client.events("t-1"))) == len(LIFE)


def test_patience_begins_with_the_first_try():
    patience = Patience(0.5)
    patience._until = 0.0  # as if the time were long over
    assert patience.allows(60)
    patience.begin()
    assert not patience.allows(0)
