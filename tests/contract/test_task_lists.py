"""GET /v1/tasks: its filters, and pages that neither repeat nor lose a task while others are added."""

from __future__ import annotations

import base64

import pytest

from tests.api_client import serving
from tests.tasks import new_task


@pytest.fixture
async def server(tmp_path):
    async with serving(tmp_path) as started:
        yield started


async def ids(server, **query):
    answer = await server.http.get("/v1/tasks", params=query)
    assert answer.status_code == 200, answer.text
    return [task["task_id"] for task in answer.json()["tasks"]]


async def submit(server, task_id, **fields):
    await server.registry.submit(new_task(id=task_id, **fields))
    server.clock.advance(1)


@pytest.mark.parametrize(
    "status", [["pending", "running"], ["running,pending"], ["pending", "running,cancelled"]], ids=str
)
async def test_several_statuses(server, status):
    for number in range(3):
        await submit(server, f"t{number}")
    await server.succeed(await server.start())
    await server.start()
    assert await ids(server, status=status) == ["t2", "t1"]
    assert await ids(server, status=["completed"]) == ["t0"]


async def test_filters_by_name_service_and_dialect(server):
    await submit(server, "audio", name="ffmpeg.extract_audio", service="ffmpeg")
    await submit(server, "audio2", name="ffmpeg.extract_audio2", service="ffmpeg")
    await submit(server, "frames", name="ffmpeg.extract_keyframes", service="ffmpeg")
    await submit(server, "video", name="flashvsr.upscale_video", service="flashvsr", dialect="flashvsr")
    assert await ids(server, task_name="ffmpeg.extract_audio") == ["audio"]
    assert await ids(server, task_name="ffmpeg.extract_aud%") == []
    assert await ids(server, service="ffmpeg") == ["frames", "audio2", "audio"]
    assert await ids(server, dialect="flashvsr") == ["video"]
    assert await ids(server, dialect="tasks", service="flashvsr") == []


async def test_filters_by_time_of_creation(server):
    begun_at = server.clock.now
    for number in range(4):
        await submit(server, f"t{number}")
    assert await ids(server, created_after=begun_at + 2) == ["t3", "t2"]
    assert await ids(server, created_before=begun_at + 2) == ["t1", "t0"]
    iso = "2027-01-15T08:00:01"  # the clock begins at 08:00:00 UTC
    assert await ids(server, created_after=f"{iso}Z") == ["t3", "t2", "t1"]
    assert await ids(server, created_after=iso, created_before="2027-01-15T10:00:03+02:00") == ["t2", "t1"]


async def test_pages_by_cursor_are_stable_while_tasks_are_added(server):
    for number in range(5):
        await submit(server, f"t{number}")
    for twin in ("a", "b", "c"):  # created in the same moment
        await server.registry.submit(new_task(id=f"same-{twin}"))
    seen, query = [], {"limit": 2}
    while True:
        page = (await server.http.get("/v1/tasks", params=query)).json()
        seen += [task["task_id"] for task in page["tasks"]]
        server.clock.advance(1)
        await server.registry.submit(new_task(id=f"new-{len(seen)}"))
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == ["same-a", "same-b", "same-c", "t4", "t3", "t2", "t1", "t0"]


async def test_the_last_page_has_no_next_cursor(server):
    for number in range(2):
        await submit(server, f"t{number}")
    full = (await server.http.get("/v1/tasks?limit=2")).json()
    assert (len(full["tasks"]), full["next_cursor"], full["total"]) == (2, None, 2)
    first = (await server.http.get("/v1/tasks?limit=1&status=pending")).json()
    second = (await server.http.get(f"/v1/tasks?limit=1&cursor={first['next_cursor']}")).json()
    assert ([task["task_id"] for task in second["tasks"]], second["total"]) == (["t0"], 2)


def cursor(*texts):
    return f"cursor={base64.urlsafe_b64encode(b''.join(texts)).decode()}"


async def test_a_cursor_may_name_the_longest_id(server):
    for task_id in ("a" * 128, "b" * 128):
        await submit(server, task_id)
    first = (await server.http.get("/v1/tasks?limit=1")).json()
    assert await ids(server, cursor=first["next_cursor"]) == ["a" * 128]


@pytest.mark.parametrize(
    "query",
    [
        "status=pending,done",
        "status=",
        "dialect=klingon",
        "service=a%00b",
        "created_after=yesterday",
        "created_before=nan",
        "created_before=1e999",
        "cursor=x",
        "cursor=W10%3D",
        "cursor=WyJhIiwxXQ==",
        "cursor=%C3%BC",
        "cursor=e30%3D",
        cursor(b"[" * 3000),
        cursor(b'[1, "\\ud800"]'),
        cursor(b'[1, "a/b"]'),
        cursor(b'[1, ["a"]]'),
        cursor(b'[1e999, "a"]'),
        cursor(b'[NaN, "a"]'),
        cursor(b'[1, "a"]' + b" " * 300),
        cursor(b'[1, "a"]', b"\xff"),
    ],
    ids=lambda query: query[:30],
)
async def test_bad_filters(server, query):
    answer = await server.http.get(f"/v1/tasks?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "query"
