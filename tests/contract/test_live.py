"""Live feedback over HTTP: event streams, long polls, logs and the reasons for waiting."""

from __future__ import annotations

import asyncio

import pytest

from api.errors import TooManyListeners
from api.live import LiveTasks
from api.views.live import Step, follows
from cluster.task import Failure, FailureCode, OutcomeKind, Status
from tests.api_client import key_entry
from tests.live_server import live_serving
from tests.tasks import outcome


@pytest.fixture
async def server(tmp_path):
    async with live_serving(tmp_path) as started:
        yield started


async def submitted(server, task_id="t", **body):
    content = {"task_name": "diagnostics.echo", "input_data": {}, "task_id": task_id, **body}
    answer = await server.http.post("/v1/tasks", json=content)
    assert answer.status_code == 200, answer.text


async def heard(server, is_so, task_id="t"):
    """Return when the replica that serves HTTP has heard of it."""
    known = await server.context.registry.get(task_id)
    while not is_so(known):
        known = await server.context.registry.changed(known, 60)


async def started(server, task_id="t"):
    task = await server.base.start()
    await heard(server, lambda known: known.fence == task.fence, task_id)
    return task


async def test_a_stream_tells_a_task_s_life_in_order(server):
    await submitted(server)
    async with server.events("t") as stream:
        kind, first = await stream.next()
        assert (kind, first["status"], first["task_id"], first["attempt"]) == ("status", "pending", "t", 0)
        assert first["waiting"]["reason"] == "no_replica"
        assert (first["message"], stream.last_id) == ("任务已创建，等待执行", "s1.l0")
        task = await server.base.start()
        assert (await stream.next())[1].items() >= {
            "status": "running",
            "attempt": 1,
            "waiting": None,
        }.items()
        await server.report(task, "one", "two", done=1, total=4, unit="s", stage="sleep", eta_s=3,
                            eta_low_s=2, eta_high_s=4)  # fmt: skip
        assert await stream.next() == ("log", {"lines": ["one", "two"], "first": 0})
        assert (await stream.next()) == (
            "progress",
            {"stage": "sleep", "done": 1, "total": 4, "unit": "s", "fraction": 0.25,
             "eta_s": {"low": 2, "high": 4}},
        )  # fmt: skip
        assert stream.last_id == "s2.l2"
        server.store_log(task, "one", "two", "three")
        await server.base.succeed(task, {"payload": 1})
        assert await stream.next() == ("log", {"lines": ["three"], "first": 2})
        assert (await stream.next())[1]["status"] == "completed"
        ((kind, end),) = await stream.rest()
    status = (await server.http.get("/v1/tasks/t/status")).json()
    assert (kind, end) == ("end", status)
    assert end["result"] == {"payload": 1}


async def test_what_went_by_between_two_answers_of_the_feed_is_told_too(server):
    await submitted(server)
    async with server.events("t") as stream:
        await stream.next()
        task = await server.base.start()
        await server.base.registry.finish([outcome(task, OutcomeKind.HANDED_BACK)])
        await server.base.succeed(await server.base.start())
        rest = await stream.rest()
    assert [(data["status"], data["attempt"]) for kind, data in rest if kind == "status"][-3:] == [
        ("pending", 1), ("running", 2), ("completed", 2),
    ]  # fmt: skip
    assert next(data["status"] for kind, data in rest if kind == "status") == "running"
    assert rest[-1][0] == "end"


async def test_a_listener_goes_on_where_it_was(server):
    await submitted(server)
    task = await started(server)
    async with server.events("t") as stream:
        assert (await stream.next())[1]["status"] == "running"
        await server.report(task, "one", done=1)
        assert (await stream.next())[0] == "log"
        assert (await stream.next())[0] == "progress"
        seen = stream.last_id
    await server.report(task, "two", "three", first=1, done=2)
    await server.report(task, done=3)
    await heard(server, lambda known: known.progress.done == 3)
    async with server.events("t", seen) as stream:
        assert await stream.next() == ("log", {"lines": ["two", "three"], "first": 1})
        kind, progress = await stream.next()
        assert (kind, progress["done"]) == ("progress", 3)
        seen = stream.last_id
    server.store_log(task, "one", "two", "three", "four")
    await server.base.fail(task, "it broke")
    await heard(server, lambda known: known.status.is_final)
    async with server.events("t", seen) as stream:
        rest = await stream.rest()
    assert [kind for kind, _ in rest] == ["log", "status", "end"]
    assert rest[0][1] == {"lines": ["four"], "first": 3}
    assert (rest[1][1]["status"], rest[1][1]["message"]) == ("failed", "it broke")


@pytest.mark.parametrize("last_event_id", ["s1.l0", "s2.l7"])
async def test_statuses_of_a_task_that_has_ended_are_replayed(server, last_event_id):
    await submitted(server)
    await server.base.succeed(await server.base.start())
    await heard(server, lambda known: known.status.is_final)
    async with server.events("t", last_event_id) as stream:
        rest = await stream.rest()
    words = ["running", "completed"][int(last_event_id[1]) - 1 :]
    assert [data["status"] for kind, data in rest if kind == "status"] == words
    assert rest[-1][0] == "end"


@pytest.mark.parametrize("last_event_id", ["", "nonsense", "s9.l0", "s0.l0"])
async def test_without_a_known_place_a_stream_begins_at_the_present(server, last_event_id):
    await submitted(server)
    await server.base.succeed(await server.base.start())
    await heard(server, lambda known: known.status.is_final)
    async with server.events("t", last_event_id) as stream:
        rest = await stream.rest()
    assert [kind for kind, _ in rest] == ["status", "end"]
    assert rest[0][1]["status"] == "completed"


async def test_a_stream_outlives_the_registry(server):
    await submitted(server)
    async with server.events("t") as stream:
        assert (await stream.next())[1]["status"] == "pending"
        await server.restart_registry()
        task = await server.base.start()
        assert (await stream.next())[1]["status"] == "running"
        await server.report(task, "one", done=1)
        assert (await stream.next())[1] == {"lines": ["one"], "first": 0}
        assert (await stream.next())[1]["done"] == 1
        await server.restart_registry()
        await server.base.succeed(task)
        assert [data["status"] for _, data in await stream.rest()] == ["completed", "completed"]


async def test_a_deleted_task_ends_its_streams_and_long_polls(server):
    await submitted(server)
    waiting = asyncio.create_task(server.http.get("/v1/tasks/t", params={"wait": 60}))
    async with server.events("t") as stream:
        await stream.next()
        await server.base.registry.delete("t")
        rest = await stream.rest()
    assert rest[-1] == ("end", {"task_id": "t", "status": "deleted"})
    assert (await waiting).status_code == 404


async def test_a_slow_listener_gets_the_newest_progress_only(server):
    await submitted(server)
    task = await started(server)
    live = LiveTasks(server.context)
    stream = live.events(await server.context.registry.get("t"), "", str)
    assert (await anext(stream)).event == "status"
    for done in range(1, 50):
        await server.report(task, f"line {done}", first=done - 1, done=done)
    await heard(server, lambda known: known.progress.done == 49)
    log, progress = await anext(stream), await anext(stream)
    assert (log.event, progress.event, log.id) == ("log", "progress", "s2.l49")
    assert '"done":49' in progress.data
    await stream.aclose()


async def test_200_listeners_cost_the_registry_what_one_does(server):
    server.context.registry._waiting_kept_s = 60.0
    counts = {}
    for num_listeners in (1, 200):
        task_id = f"t{num_listeners}"
        await submitted(server, task_id)
        live = LiveTasks(server.context)
        before = server.line.calls.copy()
        task = await server.context.registry.get(task_id)
        streams = [live.events(task, "", str) for _ in range(num_listeners)]
        assert [(await anext(stream)).event for stream in streams] == ["status"] * num_listeners
        attempt = await server.base.start()
        assert [(await anext(stream)).event for stream in streams] == ["status"] * num_listeners
        await server.report(attempt, "a line", done=1)
        assert [(await anext(stream)).event for stream in streams] == ["log"] * num_listeners
        await server.base.succeed(attempt)
        ends = [[event.event async for event in stream][-1] for stream in streams]
        assert ends == ["end"] * num_listeners
        counts[num_listeners] = server.line.calls - before
    watches = {number: calls.pop("watch") for number, calls in counts.items()}
    assert counts[200] == counts[1]
    assert watches[200] <= 12  # one stream of answers: about one per change, whoever listens


async def test_one_tenant_takes_half_of_the_room(tmp_path):
    keys = ",".join(key_entry(name, name) for name in ("acme", "other"))
    async with live_serving(tmp_path, max_listeners=4, api_keys=keys) as server:
        live = LiveTasks(server.context)
        with live.listener("acme"):
            with live.listener("acme"):
                with pytest.raises(TooManyListeners, match="your 2 event streams"):
                    live.check_room("acme")
                with live.listener("other"), live.listener("other"):
                    with pytest.raises(TooManyListeners, match="open at this server"):
                        live.check_room("other")
                    with pytest.raises(TooManyListeners, match="open at this server"):
                        live.check_room("acme")
            live.check_room("acme")


@pytest.mark.parametrize(
    "keys", ["", f"{key_entry('acme', 'a')},{key_entry('acme', 'b')}"], ids=["none", "one's"]
)
async def test_a_tenant_alone_takes_all_of_it(tmp_path, keys):
    async with live_serving(tmp_path, max_listeners=2, api_keys=keys) as server:
        live = LiveTasks(server.context)
        with live.listener("acme"):
            live.check_room("acme")


async def test_unknown_tasks_and_too_many_listeners(tmp_path):
    async with live_serving(tmp_path, max_listeners=1) as server:
        for path in ("", "/events", "/logs"):
            answer = await server.http.get(f"/v1/tasks/nope{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "TASK_NOT_FOUND")
        await submitted(server)
        async with server.events("t") as stream:
            await stream.next()
            for path in ("/v1/tasks/t/events", "/v1/tasks/t?wait=5"):
                answer = await server.http.get(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "TOO_MANY_LISTENERS")
                assert int(answer.headers["retry-after"]) > 0
            await server.base.succeed(await server.base.start())
            await stream.rest()
        async with server.events("t") as stream:
            assert (await stream.rest())[-1][0] == "end"


async def test_of_listeners_that_come_at_once_all_but_one_are_refused(tmp_path, caplog):
    """As when an ingress comes back and all its listeners with it."""
    async with live_serving(tmp_path, max_listeners=1) as server:
        await submitted(server)
        answers, have_all = [], asyncio.Event()

        async def listen():
            async with server.http.stream("GET", "/v1/tasks/t/events") as answer:
                answers.append(answer.status_code)
                if len(answers) == 10:
                    have_all.set()
                await answer.aread()

        listening = [asyncio.create_task(listen()) for _ in range(10)]
        await have_all.wait()
        assert sorted(answers) == [200] + [503] * 9
        await server.base.succeed(await server.base.start())
        await asyncio.gather(*listening)
        assert not caplog.records


async def test_a_long_poll_ends_with_the_task(server):
    await submitted(server)
    at_once = (await server.http.get("/v1/tasks/t", params={"wait": 0.01})).json()
    assert (at_once["status"], at_once["version"]) == ("pending", 1)
    ended = asyncio.create_task(server.http.get("/v1/tasks/t", params={"wait": 60}))
    changed = asyncio.create_task(server.http.get("/v1/tasks/t", params={"wait": 60, "since": 1}))
    task = await server.base.start()
    assert (await changed).json().items() >= {"status": "running", "version": 2, "waiting": None}.items()
    assert not ended.done()
    await server.base.succeed(task, {"n": 1})
    assert (await ended).json().items() >= {"status": "completed", "version": 4, "result": {"n": 1}}.items()
    assert (await server.http.get("/v1/tasks/t?wait=60")).json()["status"] == "completed"


@pytest.mark.parametrize("query", ["wait=61", "wait=-1", "wait=nan", "wait=x", "since=x"])
async def test_bad_waits(server, query):
    await submitted(server)
    assert (await server.http.get(f"/v1/tasks/t?{query}")).status_code == 422


async def test_the_log_while_it_grows_and_afterwards(server):
    await submitted(server)
    assert (await server.http.get("/v1/tasks/t/logs")).text == ""
    task = await started(server)
    await server.report(task, "one", "zwei ü")
    running = await server.http.get("/v1/tasks/t/logs")
    assert (running.text, running.headers["content-type"]) == ("one\nzwei ü\n", "text/plain; charset=utf-8")
    server.store_log(task, "one", "zwei ü", "three")
    await server.base.fail(task)
    waited = await server.http.get("/v1/tasks/t?wait=60")
    assert waited.json()["status"] == "failed"
    stored = await server.http.get("/v1/tasks/t/logs")
    assert stored.text == "one\nzwei ü\nthree\n"
    part = await server.http.get("/v1/tasks/t/logs", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"zwei")
    assert (await server.http.get("/v1/tasks/t/logs?tail=1")).text == "three\n"
    assert (await server.http.get("/v1/tasks/t/logs?tail=0")).text == ""


async def test_a_task_that_logged_nothing_has_an_empty_log(server):
    await submitted(server)
    await server.base.succeed(await server.base.start())
    answer = await server.http.get("/v1/tasks/t/logs")
    assert (answer.status_code, answer.text) == (200, "")


async def waiting_of(server, task_id="t"):
    return (await server.http.get(f"/v1/tasks/{task_id}")).json()["waiting"]


async def test_why_a_task_waits(server):
    registry = server.base.registry
    await submitted(server, "first")
    await submitted(server)
    waiting = await waiting_of(server)
    assert (waiting["reason"], waiting["position"], waiting["ahead"]) == ("no_replica", 2, 1)
    await registry.expect("diagnostics", 1)
    assert (await waiting_of(server))["reason"] == "replica_starting"
    first = await server.base.start()
    waiting = await waiting_of(server)
    assert (waiting["reason"], waiting["position"], waiting["ahead"]) == ("queue", 1, 0)
    assert waiting["text"].startswith("the replicas of diagnostics are busy")
    failure = Failure(FailureCode.INTERNAL_ERROR, "S3 is away", is_transient=True)
    await registry.finish([outcome(first, OutcomeKind.FAILED, failure=failure)])
    server.base.clock.advance(0.5)
    waited = (await server.http.get("/v1/tasks/first?wait=60&since=2")).json()["waiting"]
    assert (waited["reason"], waited["position"]) == ("retry_delay", None)


async def test_a_silent_stream_is_kept_alive(server, monkeypatch):
    monkeypatch.setattr("api.routes.live.HEARTBEAT_S", 0.01)
    await submitted(server)
    async with server.http.stream("GET", "/v1/tasks/t/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line == ": alive":
                break
        else:
            pytest.fail("the stream ended")


async def test_a_later_listener_is_told_why_the_task_waits_now(server):
    await submitted(server, "first")
    await submitted(server)
    async with server.events("t") as early:
        first = (await early.next())[1]["waiting"]
        assert (first["reason"], first["ahead"]) == ("no_replica", 1)
        await server.base.registry.cancel("first")
        await server.base.registry.expect("diagnostics", 1)
        async with server.events("t") as late:
            second = (await late.next())[1]["waiting"]
    assert (second["reason"], second["ahead"]) == ("replica_starting", 0)


async def test_a_wait_that_went_by_before_a_cancel_is_told(server):
    await submitted(server)
    task = await started(server)
    async with server.events("t") as stream:
        assert (await stream.next())[1]["status"] == "running"
        registry = server.base.registry
        await asyncio.gather(  # within one turn of the feed
            registry.finish([outcome(task, OutcomeKind.HANDED_BACK)]), registry.cancel("t")
        )
        told = [data["status"] for kind, data in await stream.rest() if kind == "status"]
    history = [event.event for event in await server.base.registry.events("t")]
    assert history == ["create", "lease", "requeue", "cancel"]
    assert told == ["pending", "cancelled"]


def test_only_a_success_follows_a_run_without_a_wait_between():
    run = Step(2, Status.RUNNING, 0.0, 1, "")
    assert follows(run, Step(4, Status.SUCCEEDED, 1.0, 1, ""))
    assert not follows(run, Step(4, Status.CANCELLED, 1.0, 1, ""))
    assert not follows(run, Step(4, Status.FAILED, 1.0, 1, ""))
