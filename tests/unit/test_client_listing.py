"""Lists, logs and deliveries, by either client."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs

import pytest

from mediaray import ApiError, Client, Delivery, DeliveryTry
from tests.client_kinds import CLIENTS
from tests.client_server import World, serving

TRY = {"at": "2026-01-02T03:04:05", "status_code": 503, "error": None, "duration_s": 0.2}
DELIVERY = {
    "number": 1,
    "webhook_id": "w",
    "url": "https://example.org/hook",
    "status": "failed",
    "created_at": "2026-01-02T03:04:00",
    "next_try_at": None,
    "num_tries": 9,
    "tries": [TRY],
}
SHOWN = Delivery(
    number=1,
    url="https://example.org/hook",
    status="failed",
    created_at="2026-01-02T03:04:00",
    next_try_at="",
    num_tries=9,
    tries=(DeliveryTry("2026-01-02T03:04:05", 503, "", 0.2),),
)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, world: World) -> Iterator[Client]:
    with serving(world) as url, request.param(url, retry_s=5) as one:
        yield one


def page(*ids: str, next_cursor: str | None = None) -> dict[str, object]:
    tasks = [{"task_id": one, "task_name": "ffmpeg.extract_audio", "status": "running"} for one in ids]
    return {"tasks": tasks, "total": 5, "next_cursor": next_cursor}


def test_a_list_follows_the_cursor_to_its_end(client, world):
    world.script("GET", "/v1/tasks", page("a", "b", next_cursor="c+/1"), page(next_cursor="c2"), page("c"))
    views = list(client.list(status="running", task_name="ffmpeg.extract_audio"))
    assert [(view.id, view.name) for view in views] == [(one, "ffmpeg.extract_audio") for one in "abc"]
    asked = [parse_qs(seen.query) for seen in world.seen]
    assert [one.get("cursor") for one in asked] == [None, ["c+/1"], ["c2"]]
    chosen = {"status": ["running"], "task_name": ["ffmpeg.extract_audio"]}
    assert all(chosen.items() <= one.items() for one in asked)


def test_a_list_stops_at_its_limit_and_fetches_no_page_too_many(client, world):
    world.script("GET", "/v1/tasks", page("a", "b", next_cursor="x"), page("c", "d", next_cursor="y"))
    assert [view.id for view in client.list(limit=3, cursor="before")] == ["a", "b", "c"]
    asked = [parse_qs(seen.query) for seen in world.seen]
    assert [(one["limit"], one["cursor"]) for one in asked] == [(["3"], ["before"]), (["1"], ["x"])]


def test_a_list_of_an_unknown_status_is_refused(client, world):
    world.script("GET", "/v1/tasks", {"detail": "status is unknown"}, status=422)
    with pytest.raises(ApiError, match="status is unknown"):
        list(client.list(status="late"))


def test_logs_whole_and_the_tail(client, world):
    world.texts["/v1/tasks/t-1/logs"] = "一\x0c\n\nb\n".encode() + b"\xff\n"
    assert client.logs("t-1") == ["一\x0c", "", "b", "\ufffd"]
    world.texts["/v1/tasks/t-1/logs"] = b""
    assert client.logs("t-1", tail=2) == []
    assert [seen.query for seen in world.seen] == ["", "tail=2"]


def test_deliveries_and_a_replay(client, world):
    world.script("GET", "/v1/tasks/t-1/deliveries", {"task_id": "t-1", "deliveries": [DELIVERY]})
    world.script("POST", "/v1/tasks/t-1/deliveries/1/replay", {**DELIVERY, "status": "pending"})
    assert client.deliveries("t-1") == [SHOWN]
    assert client.replay_delivery("t-1", 1).status == "pending"


def test_a_replay_is_not_repeated_where_it_may_have_arrived(client, world):
    world.refusals.append((502, {}))
    with pytest.raises(ApiError):
        client.replay_delivery("t-1", 1)
    assert len(world.seen) == 1


def test_submit_names_the_callback(client, world):
    world.script("POST", "/v1/tasks", {"task_id": "t-1", "status": "pending", "message": ""})
    client.submit("x.y", {}, callback="https://example.org/hook")
    assert world.seen[0].json["callback"] == "https://example.org/hook"


def test_too_many_requests_are_waited_out(client, world):
    world.refusals.extend([(429, {"retry-after": "0"})] * 2)
    world.status("t-1", {"status": "running"})
    assert client.status("t-1").status == "running"
    assert len(world.seen) == 3
