"""How much of three slots 300 short tasks can use, and how soon a free replica starts a task."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.load import Connection, Request, connections, shared
from benchmarks.report import Report, console
from benchmarks.sections.http_load import NO_OP, until_final
from benchmarks.statistics import percentile, ratio
from benchmarks.systems import BENTOML, OURS, Place, Server, System, start_ours

TASKS, SLOTS, SLEEP_S = 300, 3, 0.05
SINGLE_TASKS = 200
MIN_EFFICIENCY = 0.90
MAX_START_MS = 50.0
IDLE_POLL_S = 0.005

Timing = dict[str, float]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One system's figures. `efficiency` is ideal / actual time from the first start to the last end.

    `start_ms` is by the server's own clock; `seen_ms` from the submit leaving the client until the
    client saw the task completed, which no true start can exceed.
    """

    efficiency: float
    start_ms: list[float]
    seen_ms: list[float]


async def _timing(connection: Connection, task_id: str) -> Timing:
    answer: dict[str, Any] = await connection.ask(Request("GET", f"/v1/tasks/{task_id}/result"))
    return dict(answer["timing"])


async def _burst(system: System, server: Server) -> list[Timing]:
    """All tasks at once from 16 connections."""
    task_ids: list[str] = []
    timings: list[Timing] = []

    async def submit(connection: Connection, request: Request) -> None:
        task_ids.append((await connection.ask(request))["task_id"])

    async def collect(connection: Connection, task_id: str) -> None:
        await until_final(system, connection, task_id)
        timings.append(await _timing(connection, task_id))

    request = system.submit({"payload": "x", "sleep_s": SLEEP_S})
    async with connections(server.port, 16) as opened:
        await shared(opened, iter([request] * TASKS), submit)
        # One connection is enough to watch, and leaves the cores to the work.
        await shared(opened[:1], iter(task_ids), collect)
    return timings


async def _one_by_one(system: System, server: Server, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of start and of seen, with nothing else to do."""
    start_ms: list[float] = []
    seen_ms: list[float] = []
    async with connections(server.port, 1) as (connection,):
        for _ in range(count):
            sent_at = time.perf_counter()
            task_id = (await connection.ask(system.submit(NO_OP)))["task_id"]
            await until_final(system, connection, task_id, IDLE_POLL_S)
            seen_ms.append((time.perf_counter() - sent_at) * 1000)
            timing = await _timing(connection, task_id)
            start_ms.append((timing["started_at"] - timing["created_at"]) * 1000)
    return start_ms, seen_ms


def _efficiency(timings: list[Timing]) -> float:
    first_s = min(timing["started_at"] for timing in timings)
    last_s = max(timing["finished_at"] for timing in timings)
    return (TASKS * SLEEP_S / SLOTS) / (last_s - first_s)


def _measure(system: System, started: AbstractContextManager[Server]) -> Dispatch:
    console.print(f"dispatch: {system.name}", markup=False)
    with started as server:
        asyncio.run(_one_by_one(system, server, 20))
        efficiency = _efficiency(asyncio.run(_burst(system, server)))
        start_ms, seen_ms = asyncio.run(_one_by_one(system, server, SINGLE_TASKS))
    return Dispatch(efficiency, start_ms, seen_ms)


def _spread(values_ms: list[float]) -> str:
    return f"{percentile(values_ms, 50):.1f} / {percentile(values_ms, 99):.1f} ms"


def measure_dispatch(place: Place, systems: list[System]) -> Report:
    """BentoML does not tell when a task started to the fraction of a second: it is not in this section."""
    found: dict[str, Dispatch] = {}
    for system in systems:
        if system is BENTOML:
            continue
        start = partial(start_ours, replicas=1) if system is OURS else system.start
        found[system.name] = _measure(system, start(place, SLOTS))
    rows = [
        (name, f"{one.efficiency:.1%}", _spread(one.start_ms), _spread(one.seen_ms))
        for name, one in found.items()
    ]
    return Report(
        name="dispatch",
        title=f"Dispatch: {TASKS} tasks of {SLEEP_S * 1000:g} ms on {SLOTS} slots; free replica → start",
        header=("system", "of the ideal", "recorded → started p50 / p99", "sent → seen done p50 / p99"),
        rows=rows,
        notes=_notes(found),
        claims=_claims(found),
        raw={name: asdict(one) for name, one in found.items()},
    )


def _notes(found: dict[str, Dispatch]) -> list[str]:
    ours = found.get(OURS.name)
    return [
        f"efficiency, ours / {name}: {ratio(ours.efficiency, one.efficiency)}"
        for name, one in found.items()
        if ours and one is not ours
    ]


def _claims(found: dict[str, Dispatch]) -> dict[str, bool]:
    if OURS.name not in found:
        return {}
    ours = found[OURS.name]
    return {
        f"dispatch efficiency at least {MIN_EFFICIENCY:.0%}": ours.efficiency >= MIN_EFFICIENCY,
        f"free replica → start p99 at most {MAX_START_MS:g} ms, even by sent → seen done": percentile(
            ours.seen_ms, 99
        )
        <= MAX_START_MS,
    }
