"""Requests per minute: what counts, for whom, and what callers are told."""

from __future__ import annotations

import httpx
import pytest

from api.app import BELOW_PREFIX
from api.dialects import DIALECTS
from api.rate_limits import Kind, WindowStorage, counted_as
from tests.api_client import BASE_URL, key_entry, serving
from tests.manual_clock import ManualClock

KEYS = ",".join(key_entry(*names) for names in (("acme", "one"), ("acme", "two"), ("other", "three")))
TOLD = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


def told(answer):
    return tuple(int(answer.headers[name]) for name in TOLD)


@pytest.fixture
async def server(tmp_path):
    async with serving(tmp_path, rate_limit_create=3, rate_limit_status=5) as started:
        yield started


async def test_each_answer_tells_what_is_left_and_the_next_one_is_refused(server):
    begun = server.clock()
    for number in range(3):
        server.clock.advance(1)
        answer = await server.submit(task_id=f"t{number}")
        assert answer.status_code == 200
        assert told(answer) == (3, 2 - number, begun + 61)
    refused = await server.submit(task_id="t3")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "58")
    assert told(refused) == (3, 0, begun + 61)
    assert refused.json()["error"]["code"] == "RATE_LIMITED"
    assert refused.json()["detail"] == "too many requests: at most 3 a minute; try again in 58 s"
    assert (await server.remains())[0] == 3
    server.clock.advance(58)
    assert told(await server.submit(task_id="t3"))[1] == 2


async def test_requests_that_are_refused_count_and_are_told_too(server):
    for remaining, status in ((2, 400), (1, 422), (0, 400), (0, 429)):
        body = b"[" if status == 422 else b'{"input_data":{}}'
        answer = await server.http.post("/v1/tasks", content=body)
        assert (answer.status_code, told(answer)[1]) == (status, remaining)


async def test_reads_have_a_count_of_their_own(server):
    await server.submit(task_id="t")
    reads = ["/v1/tasks/t/status", "/v1/tasks/t/result", "/tasks/v1/tasks/t/status/", "/api/tasks/t"]
    for remaining, path in enumerate([*reads[::-1], reads[0]]):
        assert told(await server.http.get(path))[1] == 4 - remaining
    assert (await server.http.get(reads[0])).status_code == 429
    assert (await server.submit()).status_code == 200


async def test_a_replayed_delivery_and_an_export_are_creations(server):
    for path in ("/v1/tasks/t/deliveries/1/replay", "/flashvsr/api/tasks/t/export_from_chunks", "/v1/tasks"):
        assert (await server.http.post(path)).status_code != 429
    for path in ("/v1/tasks/t/deliveries/1/replay", "/api/tasks/t/export_from_chunks"):
        assert (await server.http.post(path)).status_code == 429


async def test_a_retry_is_a_creation(server):
    await server.submit(task_id="t")
    await server.http.delete("/v1/tasks/t")
    for status in (200, 200, 429):
        assert (await server.http.post("/v1/tasks/t/retry")).status_code == status


SHAPES = {
    "/flashvsr/api/tasks/": {"detail"},
    "/hallo2/api/v1/inference/hallo2": {"detail", "error_code"},
    "/api/v1/inference/hallo2": {"detail", "error_code"},
    "/creation/api/tasks/": {"detail"},
    "/indexed/api/inference": {"detail"},
    "/v1/tasks": {"detail", "error"},
}


async def test_each_dialect_says_it_in_its_own_shape(tmp_path):
    async with serving(tmp_path, rate_limit_create=1) as server:
        await server.submit()
        for path, keys in SHAPES.items():
            refused = await server.http.post(path)
            assert (refused.status_code, set(refused.json())) == (429, keys), path


async def test_nothing_else_is_counted(server):
    for path in ("/v1/tasks", "/v1/models", "/healthz", "/v1/tasks/health", "/api/tasks", "/nowhere"):
        for _ in range(6):
            answer = await server.http.get(path)
            assert answer.status_code != 429
            assert "x-ratelimit-limit" not in answer.headers


async def test_a_path_that_ends_with_a_line_end_is_no_way_past(server):
    assert (await server.http.post("/v1/tasks%0A", json={"task_name": "diagnostics.echo"})).status_code == 404
    assert (await server.http.get("/healthz%0A/")).status_code == 404


async def test_zero_is_no_limit(tmp_path):
    async with serving(tmp_path, rate_limit_create=0, rate_limit_status=1) as server:
        for _ in range(5):
            answer = await server.submit()
            assert (answer.status_code, "x-ratelimit-limit" in answer.headers) == (200, False)
        task_id = answer.json()["task_id"]
        for status in (200, 429):
            assert (await server.http.get(f"/v1/tasks/{task_id}/status")).status_code == status


async def test_the_keys_of_a_tenant_share_its_count(tmp_path):
    async with serving(tmp_path, rate_limit_create=2, api_keys=KEYS) as server:
        for key, status in (("one", 200), ("two", 200), ("one", 429), ("three", 200), ("no", 401)):
            answer = await server.http.post(
                "/v1/tasks",
                json={"task_name": "diagnostics.echo", "input_data": {}},
                headers={"X-API-Key": key},
            )
            assert answer.status_code == status


async def test_without_keys_each_address_has_its_count(server):
    for address, limited_from in (("127.0.0.1", 3), ("127.0.0.2", 3)):
        transport = httpx.ASGITransport(app=server.app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as http:
            body = {"task_name": "diagnostics.echo", "input_data": {}}
            codes = [(await http.post("/v1/tasks", json=body)).status_code for _ in range(4)]
        assert codes == [200] * limited_from + [429]


def served_routes():
    return {
        f"{method} {dialect.prefix}{route.path}"
        for dialect, router, *_ in BELOW_PREFIX
        for route in router.routes
        for method in route.methods
    }


def test_what_the_table_counts_is_served_and_nothing_else_is_counted():
    """A typo in the table would leave a route without its limit."""
    served = served_routes()
    counted = {
        f"{route.partition(' ')[0]} {dialect.prefix}{route.partition(' ')[2].replace('{id}', '{task_id}')}"
        for dialect in DIALECTS
        for route in (*dialect.creates, *dialect.reads)
    }
    assert counted <= served
    assert {route for route in served if counted_as(*route.split(" "))} == counted


def test_paths_beside_the_table_are_free():
    assert counted_as("POST", "/v1/tasks") is Kind.CREATE
    assert counted_as("GET", "/v1/tasks/t/status") is Kind.READ
    for method, path in (("GET", "/v1/tasks"), ("GET", "/v1/tasks/a/b/status"), ("POST", "/v1/tasksx")):
        assert counted_as(method, path) is None


def test_callers_of_past_minutes_are_forgotten():
    clock = ManualClock()
    windows = WindowStorage(clock, max_windows=1000)
    for number in range(500):
        clock.advance(1)
        windows.incr(str(number), 60)
        assert len(windows) <= 61


def test_a_flood_of_callers_does_not_grow_beyond_the_bound():
    windows = WindowStorage(ManualClock(), max_windows=10)
    for number in range(100):
        windows.incr("faithful", 60)
        windows.incr(str(number), 60)
        assert len(windows) <= 10
    assert windows.get("99") == 1
    assert windows.get("0") == 0
