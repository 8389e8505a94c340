"""The API against its own description: no request makes it answer 500, or anything that is not declared."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.dialects import DIALECTS, dialect_at
from api.middleware import OPEN_PATHS
from api.rate_limits import counted_as
from tests.api_client import BASE_URL, SAMPLES, Server, serving
from tests.tasks import new_task

VIDEO = (SAMPLES / "carphone_pristine.mp4").read_bytes()
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES_PER_OPERATION = 5
STATES = ("running", "succeeded", "failed", "cancelled", "queued")
OTHER_NAMES = {"filename": "{task_id}_final.mp4", "number": "1", "name": "hallo2", "path": "a.mp4"}

fuzzed = settings(
    max_examples=EXAMPLES_PER_OPERATION,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass
class World:
    """A server with a task of every dialect in every state, its description, and its event loop."""

    loop: asyncio.Runner
    server: Server
    document: dict[str, Any]

    def operations(self) -> list[Any]:
        schema = schemathesis.openapi.from_dict(self.document)
        return [operation.ok() for operation in schema.get_all_operations()]

    def ask(self, case: Case) -> int:
        """Send what schemathesis made, byte by byte, and judge the answer; returns its status."""
        made = requests.Request(**case.as_transport_kwargs(base_url=BASE_URL)).prepare()
        content = made.body.encode() if isinstance(made.body, str) else made.body
        http = self.server.http
        request = http.build_request(made.method, made.url, headers=dict(made.headers), content=content)
        answer = self.loop.run(http.send(request))
        assert answer.status_code != 500, answer.text
        case.validate_response(schemathesis.Response.from_any(answer), checks=CHECKS)
        return answer.status_code


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    async def opened(stack: AsyncExitStack) -> tuple[Server, dict[str, Any]]:
        server = await stack.enter_async_context(serving(tmp_path_factory.mktemp("openapi")))
        await server.put("a.mp4", VIDEO)
        for state in STATES:  # the queued ones last: each of the others must be the next to run
            for dialect in DIALECTS:
                await bring(server, f"{dialect.name}-{state}", dialect.name, state)
        return server, (await server.http.get("/openapi.json")).json()

    with asyncio.Runner() as loop:
        stack = AsyncExitStack()
        yield World(loop, *loop.run(opened(stack)))
        loop.run(stack.aclose())


async def bring(server: Server, task_id: str, dialect: str, state: str) -> None:
    """Make a task of this dialect that stands so."""
    facts = {"index": 1, "input_file_name": "a.mp4", "output_file_name": "b.mp4"}
    files = {"video_path": "files/local/a.mp4"}
    inputs = {"payload": 1, "prompt": "a"}
    new = new_task(id=task_id, dialect=dialect, inputs=inputs, facts=facts, files=files)
    await server.registry.submit(new)
    if state == "cancelled":
        await server.registry.cancel(task_id)
    elif state != "queued":
        task = await server.start()
        assert task.id == task_id
    if state == "succeeded":
        await server.succeed(task, {"payload": 1, "video_path": "out.mp4"}, out__mp4=VIDEO)
    elif state == "failed":
        await server.fail(task, "no")


def name_of(operation: Any) -> str:
    return f"{operation.method.upper()} {operation.path}"


def test_whatever_is_asked_is_answered_as_described(world: World, subtests: pytest.Subtests) -> None:
    for operation in world.operations():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            with subtests.test(f"{name_of(operation)} {mode.value}"):

                @seed(20)
                @fuzzed
                @given(operation.as_strategy(generation_mode=mode))
                def check(case: Case) -> None:
                    world.ask(case)

                try:
                    check()
                except Unsatisfiable:  # nothing about this operation can be wrong
                    assert mode is GenerationMode.NEGATIVE


def test_tasks_in_every_state_are_shown_as_described(world: World, subtests: pytest.Subtests) -> None:
    for operation in world.operations():
        dialect, _ = dialect_at(operation.path)
        if operation.method != "get" or "{" not in operation.path:
            continue
        statuses = set()
        for state in STATES:
            if operation.path.endswith("/events") and state in {"queued", "running"}:
                continue  # a stream that goes on for as long as the task does
            task_id = f"{dialect.name}-{state}"
            with subtests.test(f"{name_of(operation)} {state}"):
                statuses.add(world.ask(operation.Case(path_parameters=named(operation, task_id))))
        with subtests.test(f"{name_of(operation)} answered well once"):
            assert 200 in statuses, statuses


def named(operation: Any, task_id: str) -> dict[str, str]:
    """What stands for the braces of the path."""
    names = {"task_id": task_id} | {name: text.format(task_id=task_id) for name, text in OTHER_NAMES.items()}
    if operation.path.startswith("/indexed"):
        names["filename"] = "out.mp4"
    return {name: text for name, text in names.items() if f"{{{name}}}" in operation.path}


def test_who_needs_a_key_and_what_is_counted_is_described(world: World) -> None:
    for path, methods in world.document["paths"].items():
        _, inner = dialect_at(path)
        for method, operation in methods.items():
            request = f"{method.upper()} {path}"
            answers = operation["responses"].keys()
            is_open = (inner.rstrip("/") or "/") in OPEN_PATHS
            assert ("401" in answers) == (not is_open), request
            assert ("429" in answers) == (counted_as(method.upper(), path) is not None), request
            assert operation["security"] == ([{}] if is_open else [{"bearer": []}, {"key": []}]), request
