"""Live feedback: latency beside running work, and what 200 event streams of one task cost the registry."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass

import psutil

from benchmarks.load import BadAnswer, Connection, Request, connections, measure
from benchmarks.processes import process_name
from benchmarks.report import Report, console
from benchmarks.sections.http_load import NO_OP, until_final
from benchmarks.statistics import Figures, figures
from benchmarks.systems import OURS, Place, Server, System, start_ours

RUNNING, SLOTS, RUN_S = 10, 16, 60.0
REQUESTS, KEPT = 400, 4
MAX_SUBMIT_MS, MAX_STATUS_MS = 50.0, 30.0
LISTENERS, LISTEN_S = 200, 15.0
MAX_EXTRA_CPU = 0.05
REGISTRY = "ray::RegistryActor"


@dataclass(frozen=True, slots=True)
class Listened:
    """One long task while so many listened: seconds of CPU of the registry, and events per listener."""

    listeners: int
    wall_s: float
    registry_cpu_s: float
    fewest_events: int

    @property
    def cpu_share(self) -> float:
        return self.registry_cpu_s / self.wall_s


async def _submitted(server: Server, count: int, sleep_s: float) -> list[str]:
    request = OURS.submit({"payload": "x", "sleep_s": sleep_s})
    async with connections(server.port, 1) as (connection,):
        return [(await connection.ask(request))["task_id"] for _ in range(count)]


async def _until_running(server: Server, task_ids: list[str]) -> None:
    async with connections(server.port, 1) as (connection,):
        for task_id in task_ids:
            await connection.ask(Request("GET", f"/v1/tasks/{task_id}?wait=60&since=1"))


async def _latencies(server: Server) -> dict[str, Figures]:
    """Submit and status of no-op tasks while ten tasks run and report progress."""
    running = await _submitted(server, RUNNING, RUN_S)
    await _until_running(server, running)
    async with connections(server.port, KEPT) as opened:
        submits, bodies = await measure(opened, [OURS.submit(NO_OP)] * REQUESTS)
        statuses, _ = await measure(
            opened, [OURS.status(task_id) for task_id in running * (REQUESTS // RUNNING)]
        )
        task_ids = [json.loads(body)["task_id"] for body in bodies]
        for task_id in task_ids:
            await until_final(OURS, opened[0], task_id)
        for task_id in running:
            await _cancel(opened[0], task_id)
    return {"submit": figures(submits), "status": figures(statuses)}


async def _cancel(connection: Connection, task_id: str) -> None:
    await connection.ask(Request("DELETE", f"/v1/tasks/{task_id}"))
    await connection.ask(Request("GET", f"/v1/tasks/{task_id}?wait=60"))


async def _listen(port: int, task_id: str, counts: list[int], number: int) -> None:
    """One event stream, read until it is cancelled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /v1/tasks/{task_id}/events HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise BadAnswer(f"an event stream was refused: {head[:200]!r}")
        while line := await reader.readline():
            counts[number] += line.startswith(b"event: ")
    finally:
        writer.close()


def registry_of(server: Server) -> psutil.Process:
    """The registry's process; raises BadAnswer where there is none."""
    for process in server.process.children(recursive=True):
        if process_name(process).startswith(REGISTRY):
            return process
    raise BadAnswer("the server has no registry process")


async def _listened(server: Server, listeners: int) -> Listened:
    (task_id,) = await _submitted(server, 1, RUN_S)
    await _until_running(server, [task_id])
    counts = [0] * listeners
    loop = asyncio.get_running_loop()
    streams = [loop.create_task(_listen(server.port, task_id, counts, number)) for number in range(listeners)]
    await asyncio.sleep(2)  # the streams open
    registry = registry_of(server)
    before, begun_at = registry.cpu_times(), time.perf_counter()
    await asyncio.sleep(LISTEN_S)
    wall_s, after = time.perf_counter() - begun_at, registry.cpu_times()
    for stream in streams:
        if stream.done():
            stream.result()
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    async with connections(server.port, 1) as (connection,):
        await _cancel(connection, task_id)
    cpu_s = (after.user + after.system) - (before.user + before.system)
    return Listened(listeners, wall_s, cpu_s, min(counts, default=0))


def measure_live(place: Place, systems: list[System]) -> Report:
    """Ours alone: the peers have neither progress nor event streams."""
    console.print("live: mediaray", markup=False)
    with start_ours(place, SLOTS, replicas=1) as server:
        latencies = asyncio.run(_latencies(server))
        listened = [asyncio.run(_listened(server, count)) for count in (0, LISTENERS)]
    return Report(
        name="live",
        title=f"Live feedback: {RUNNING} tasks running; {LISTENERS} event streams of one task",
        header=("row", "measured"),
        rows=[*(_latency_row(*item) for item in latencies.items()), *map(_listened_row, listened)],
        claims=_claims(latencies, listened),
        raw={
            "latencies": {name: asdict(one) for name, one in latencies.items()},
            "listened": [asdict(one) for one in listened],
        },
    )


def _latency_row(name: str, one: Figures) -> tuple[str, str]:
    return f"{name}, {KEPT} conn.", f"{one.p50_ms:.2f} / {one.p99_ms:.2f} ms, {one.per_s:,.0f}/s"


def _listened_row(one: Listened) -> tuple[str, str]:
    cpu = f"registry {one.registry_cpu_s:.2f} s CPU in {one.wall_s:.0f} s ({one.cpu_share:.1%})"
    return f"{one.listeners} listeners", f"{cpu}, at least {one.fewest_events} events each"


def _claims(latencies: dict[str, Figures], listened: list[Listened]) -> dict[str, bool]:
    alone, crowded = listened
    return {
        f"submit p99 under {MAX_SUBMIT_MS:g} ms": latencies["submit"].p99_ms < MAX_SUBMIT_MS,
        f"status p99 under {MAX_STATUS_MS:g} ms": latencies["status"].p99_ms < MAX_STATUS_MS,
        f"{LISTENERS} streams cost the registry under {MAX_EXTRA_CPU:.0%} of a core": (
            crowded.cpu_share - alone.cpu_share < MAX_EXTRA_CPU
        ),
        "every stream got progress": crowded.fewest_events > LISTEN_S,
    }
