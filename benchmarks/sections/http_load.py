"""Submit, status and end-to-end rates of no-op tasks, on each system in turn, three rounds."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import cycle, islice

from benchmarks.load import BadAnswer, Connection, Request, connections, measure, shared
from benchmarks.processes import free_port
from benchmarks.report import Report, console
from benchmarks.statistics import Figures, figures, middle, ratio
from benchmarks.systems import OURS, Place, Server, System

ROUNDS = 3
WARM_UP = 50
SUBMITS = {1: 1000, 16: 800}
STATUSES = {1: 500, 16: 2000}
END_TO_END = {16: 500}
POLL_S = 0.02
LOST_AFTER_S = 60.0
NO_OP = {"payload": "x", "sleep_s": 0}

Measured = dict[str, Figures]


async def _submit(system: System, server: Server, kept: int, count: int) -> tuple[Figures, list[str]]:
    async with connections(server.port, kept) as opened:
        sample, bodies = await measure(opened, [system.submit(NO_OP)] * count)
    return figures(sample), [json.loads(body)["task_id"] for body in bodies]


async def _drain(system: System, server: Server, task_ids: list[str]) -> None:
    """Returns when all are final, so that no measurement runs on the leftovers of another."""
    async with connections(server.port, 1) as (connection,):
        for task_id in task_ids:
            await until_final(system, connection, task_id)


async def until_final(system: System, connection: Connection, task_id: str, poll_s: float = POLL_S) -> None:
    """Raises BadAnswer for a task that is lost: some peers have been seen to lose one."""
    give_up_at = time.monotonic() + LOST_AFTER_S
    while (status := (await connection.ask(system.status(task_id)))["status"]) not in system.finals:
        if time.monotonic() > give_up_at:
            raise BadAnswer(f"{system.name}: task {task_id} is {status} after {LOST_AFTER_S:g} s")
        await asyncio.sleep(poll_s)
    if status != "completed":
        raise BadAnswer(f"{system.name}: task {task_id} ended as {status}")


async def _status(system: System, server: Server, kept: int, task_ids: list[str], count: int) -> Figures:
    asked = [system.status(task_id) for task_id in islice(cycle(task_ids), count)]
    async with connections(server.port, kept) as opened:
        sample, _ = await measure(opened, asked)
    return figures(sample)


async def _end_to_end(system: System, server: Server, kept: int, count: int) -> Figures:
    """Tasks per second from the first submit until the last one was seen to be final."""
    task_ids: list[str] = []

    async def submit(connection: Connection, request: Request) -> None:
        task_ids.append((await connection.ask(request))["task_id"])

    async def see(connection: Connection, task_id: str) -> None:
        await until_final(system, connection, task_id)

    async with connections(server.port, kept) as opened:
        wall_s = await shared(opened, iter([system.submit(NO_OP)] * count), submit)
        wall_s += await shared(opened, iter(task_ids), see)
    return Figures(0.0, 0.0, count / wall_s)


async def _round(system: System, server: Server) -> Measured:
    _, task_ids = await _submit(system, server, 4, WARM_UP)
    await _drain(system, server, task_ids)
    measured: Measured = {}
    for kept, count in SUBMITS.items():
        measured[f"submit, {kept} conn."], task_ids = await _submit(system, server, kept, count)
        await _drain(system, server, task_ids)
    for kept, count in STATUSES.items():
        measured[f"status, {kept} conn."] = await _status(system, server, kept, task_ids, count)
    for kept, count in END_TO_END.items():
        measured[f"end to end, {kept} conn."] = await _end_to_end(system, server, kept, count)
    return measured


class _Trivial(asyncio.Protocol):
    """Answers every read with the same bytes: what the generator can reach at most."""

    ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(self.ANSWER)


def _serve_trivial(port: int) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Trivial, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(serve())


@contextmanager
def _trivial_server() -> Iterator[int]:
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=_serve_trivial, args=(port,))
    process.start()
    try:
        yield port
    finally:
        process.terminate()
        process.join()


async def _ceiling(port: int) -> dict[int, Figures]:
    for _ in range(100):
        try:
            async with connections(port, 1):
                break
        except ConnectionError:
            await asyncio.sleep(0.05)
    found: dict[int, Figures] = {}
    for kept in STATUSES:
        async with connections(port, kept) as opened:
            sample, _ = await measure(opened, [Request("GET", "/")] * 5000)
        found[kept] = figures(sample)
    return found


def ceiling() -> dict[int, Figures]:
    """The generator's own figures against a server that does nothing, by connections."""
    with _trivial_server() as port:
        return asyncio.run(_ceiling(port))


def measure_all(place: Place, systems: list[System]) -> dict[str, list[Measured]]:
    """Each system started anew in each round, alone on the machine, in turns."""
    rounds: dict[str, list[Measured]] = {system.name: [] for system in systems}
    for number in range(ROUNDS):
        for system in systems:
            console.print(f"http round {number + 1}/{ROUNDS}: {system.name}", markup=False)
            with system.start(place, 0) as server:
                rounds[system.name].append(asyncio.run(_round(system, server)))
    return rounds


def measure_http(place: Place, systems: list[System]) -> Report:
    limits = ceiling()
    rounds = measure_all(place, systems)
    medians = {
        name: {row: middle(one[row] for one in listed) for row in listed[0]}
        for name, listed in rounds.items()
    }
    return Report(
        name="http",
        title=f"HTTP: no-op tasks, median of {ROUNDS} rounds",
        header=(
            "row",
            *(f"{system.name} p50 / p99 ms, per s" for system in systems),
            *_ratio_header(systems),
        ),
        rows=[_row(row, medians, systems) for row in medians[systems[0].name]],
        notes=_notes(limits),
        claims=_claims(medians, systems),
        raw={
            "ceiling": {str(kept): asdict(one) for kept, one in limits.items()},
            "rounds": {
                name: [{row: asdict(value) for row, value in one.items()} for one in listed]
                for name, listed in rounds.items()
            },
        },
    )


def _peers(systems: list[System]) -> list[System]:
    return [system for system in systems if system is not OURS] if OURS in systems else []


def _ratio_header(systems: list[System]) -> tuple[str, ...]:
    return tuple(f"ours / {peer.name}" for peer in _peers(systems))


def _row(row: str, medians: dict[str, Measured], systems: list[System]) -> tuple[str, ...]:
    cells = [_cell(medians[system.name][row]) for system in systems]
    ratios = [ratio(medians[OURS.name][row].per_s, medians[peer.name][row].per_s) for peer in _peers(systems)]
    return (row, *cells, *ratios)


def _cell(value: Figures) -> str:
    latency = f"{value.p50_ms:.2f} / {value.p99_ms:.2f} ms, " if value.p50_ms else ""
    return f"{latency}{value.per_s:,.0f}/s"


def _notes(limits: dict[int, Figures]) -> list[str]:
    reached = ", ".join(f"{one.per_s:,.0f}/s at {kept}" for kept, one in limits.items())
    return [
        f"The load generator alone reaches {reached} connections (a server that answers fixed bytes).",
        "One system runs at a time; generator and system share the machine's cores.",
        "mediaray commits every step of a task to disk (fsync), as BentoML (SQLite) and a synced Redis do.",
    ]


def _claims(medians: dict[str, Measured], systems: list[System]) -> dict[str, bool]:
    return {
        f"ahead of {peer.name} in every row": all(
            medians[OURS.name][row].per_s > value.per_s for row, value in medians[peer.name].items()
        )
        for peer in _peers(systems)
    }
