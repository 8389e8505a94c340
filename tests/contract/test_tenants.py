"""API keys and tenants: a caller sees its own tasks and files, and learns nothing of another's."""

from __future__ import annotations

import re

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from api.app import BELOW_PREFIX, ON_ROOT
from api.callers import parse_keys
from api.dialects import DIALECTS, dialect_at
from cluster.task import TaskQuery
from mediaray.cli import app as command_line
from tests.api_client import SAMPLES, key_entry, serving
from tests.tasks import new_task

VIDEO = SAMPLES / "carphone_pristine.mp4"
ACME, OTHER = {"X-API-Key": "key-of-acme"}, {"X-API-Key": "key-of-other"}
KEYS = f"{key_entry('acme', 'key-of-acme')},{key_entry('other', 'key-of-other')}"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory):
    """Acme has a finished task with an output, a file, and a task of every dialect."""
    async with serving(tmp_path_factory.mktemp("tenants"), api_keys=KEYS) as started:
        http = started.http
        http.headers.update(ACME)
        assert (await started.submit(task_id="done")).status_code == 200
        await started.succeed(await started.start(), {"payload": 1})
        started.store("tasks/done/1/out.txt", b"secret")
        assert (await http.put("/v1/files/dir/a.txt", content=b"secret")).status_code == 200
        video = {"file": ("a.mp4", VIDEO.read_bytes())}
        assert (await http.post("/flashvsr/api/tasks", files=video)).status_code == 201
        for dialect in DIALECTS:
            task = new_task(id=f"of-{dialect.name}", dialect=dialect.name, tenant="acme", inputs={})
            await started.registry.submit(task)
        http.headers.pop("x-api-key")
        yield started


loop = pytest.mark.asyncio(loop_scope="module")


def routes_of_tasks() -> list[tuple[str, str]]:
    """Every route of every dialect that names one task: on the root and below the prefixes."""
    routers = [("", router) for router, *_ in ON_ROOT] + [(row[0].prefix, row[1]) for row in BELOW_PREFIX]
    found = {
        (method, prefix + route.path)
        for prefix, router in routers
        for route in router.routes
        for method in route.methods
        if "{task_id}" in route.path
    }
    return sorted(found)


@loop
@pytest.mark.parametrize(("method", "path"), routes_of_tasks(), ids=lambda word: word)
async def test_another_tenants_task_is_answered_as_an_unknown_one(server, method, path):
    name = dialect_at(path)[0].name
    filled = re.sub(r"\{(?!task_id)[^}]+\}", "1", path)

    async def answer(task_id, key):
        asked = await server.http.request(method, filled.format(task_id=task_id), headers=key)
        return asked.status_code, asked.text.replace(task_id, "ID").partition('"timestamp"')[0]

    theirs = await answer(f"of-{name}", OTHER)
    assert theirs == await answer(NOBODY, OTHER)
    # hallo2's contract has one answer for all that cannot be cancelled.
    assert theirs[0] == (400 if (name, method) == ("hallo2", "DELETE") else 404)
    if method == "GET" and filled == path and not path.endswith("/events"):  # a stream without an end
        assert (await answer(f"of-{name}", ACME))[1] != theirs[1], "acme itself is shown its task"


@loop
@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/files/download/dir/a.txt", None, 404),
        ("GET", "/v1/files/download/dir", None, 404),
        ("GET", "/v1/files/download/tasks/done/1/out.txt", None, 404),
        ("GET", "/v1/files/download/tasks/done/1", None, 404),
        ("GET", "/v1/files/download/files/acme/dir/a.txt", None, 404),
        ("DELETE", "/v1/files/dir/a.txt", None, 404),
        ("DELETE", "/v1/files/tasks/done/1/out.txt", None, 400),
        ("DELETE", "/v1/files/directories?directory_path=dir", None, 200),
        ("DELETE", "/v1/files/directories?directory_path=tasks/done", None, 400),
        ("PUT", "/v1/files/tasks/done/1/out.txt", None, 400),
        ("PUT", "/v1/files/..%2Facme%2Fdir%2Fa.txt", None, 400),
        ("POST", "/v1/tasks", {"video_path": "tasks/done/1/out.txt"}, 400),
        ("POST", "/v1/tasks", {"video_path": "files/acme/dir/a.txt"}, 400),
        ("POST", "/v1/tasks", {"video_path": "dir/a.txt"}, 400),
    ],
)  # fmt: skip
async def test_another_tenants_files_are_out_of_reach(server, method, path, body, status):
    before = await server.remains()
    json = body and {"task_name": "ffmpeg.extract_keyframes", "input_data": body}
    answer = await server.http.request(method, path, json=json, headers=OTHER)
    assert answer.status_code == status, answer.text
    assert "secret" not in answer.text
    assert await server.remains() == before


@loop
async def test_what_acme_itself_reads(server):
    for path in ("dir/a.txt", "tasks/done/1/out.txt"):
        answer = await server.http.get(f"/v1/files/download/{path}", headers=ACME)
        assert (answer.status_code, answer.text) == (200, "secret")


@loop
@pytest.mark.parametrize("inputs", [{"payload": 1}, {"payload": 2}], ids=["same inputs", "other inputs"])
async def test_an_id_of_another_tenant_is_taken_and_that_is_all(server, inputs):
    answer = await server.http.post(
        "/v1/tasks",
        json={"task_name": "diagnostics.echo", "input_data": inputs, "task_id": "done"},
        headers=OTHER,
    )
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert (error["code"], error["details"]) == ("TASK_CONFLICT", None)
    assert answer.json()["detail"] == ("the task id or idempotency key is taken by a different request: done")


@loop
async def test_lists_and_counts_are_the_callers_own(server):
    paths = ["/v1/tasks", "/api/tasks", "/api/tasks/", "/api/tasks?skip=0", "/hallo2/api/v1/tasks"]
    paths += [f"/{name}/api/tasks" for name in ("flashvsr", "creation", "indexed")]
    for path in paths:
        theirs, own = [(await server.http.get(path, headers=key)).json() for key in (OTHER, ACME)]
        assert not theirs["tasks"], path
        assert own["tasks"], path
        count = "count" if path.startswith("/hallo2") else "total"
        assert (theirs[count], own[count] > 0) == (0, True), path
    for key, total in ((OTHER, 0), (ACME, 2)):
        status = (await server.http.get("/flashvsr/api/system/status", headers=key)).json()
        assert status["tasks"]["total"] == total


async def test_keys_of_idempotency_and_twins_are_each_tenants_own(tmp_path):
    async with serving(tmp_path, api_keys=KEYS) as server:
        body = {"task_name": "diagnostics.echo", "input_data": {"payload": 1}}
        once = {"Idempotency-Key": "k"}
        first, again, theirs = [
            (await server.http.post("/v1/tasks", json=body, headers=key | once)).json()["task_id"]
            for key in (ACME, ACME, OTHER)
        ]
        assert first == again != theirs
        assert (await server.registry.get(theirs)).tenant == "other"
        for key, status in ((ACME, 201), (OTHER, 201), (ACME, 409), (OTHER, 409)):
            files = {"file": ("a.mp4", VIDEO.read_bytes())}
            assert (
                await server.http.post("/flashvsr/api/tasks", files=files, headers=key)
            ).status_code == status
        for key in (ACME, OTHER):
            assert (await server.http.put("/v1/files/a", content=b"x", headers=key)).status_code == 200
        keys = (await server.remains())[1]
        assert {"files/acme/a", "files/other/a"} <= set(keys)


async def test_several_keys_open_one_tenant(tmp_path):
    rotating = f"{key_entry('acme', 'old')},{key_entry('acme', 'new')}"
    async with serving(tmp_path, api_keys=rotating) as server:
        await server.http.put("/v1/files/a", content=b"x", headers={"X-API-Key": "old"})
        answer = await server.http.get("/v1/files/download/a", headers={"Authorization": "Bearer new"})
        assert answer.content == b"x"


async def test_without_keys_every_task_is_the_local_tenants(tmp_path):
    async with serving(tmp_path) as server:
        await server.submit(task_id="t")
        assert (await server.registry.list(TaskQuery(tenant="local"))).total == 1


async def test_a_key_made_on_the_command_line_opens_the_server(tmp_path):
    printed = CliRunner().invoke(command_line, ["keys", "new", "acme"])
    assert printed.exit_code == 0, printed.output
    key, entry = printed.stdout.splitlines()
    assert key.startswith("mr_")
    assert len(key) == 46
    assert key not in entry
    async with serving(tmp_path, api_keys=entry) as server:
        assert (await server.http.get("/v1/tasks", headers={"X-API-Key": key})).status_code == 200
        assert (await server.http.get("/v1/tasks", headers={"X-API-Key": entry})).status_code == 401
        digest = entry.rpartition(":")[2]
        assert (await server.http.get("/v1/tasks", headers={"X-API-Key": digest})).status_code == 401


@pytest.mark.parametrize("tenant", ["", ".", "..", "a/b", "a b", "a:b", "a,b", "é", "x" * 65])
def test_tenant_names_are_path_segments(tenant):
    printed = CliRunner().invoke(command_line, ["keys", "new", "--", tenant])
    assert printed.exit_code == 2
    assert "mr_" not in printed.output
    with pytest.raises(ValueError, match="entry 1"):
        parse_keys(key_entry(tenant, "k") if "," not in tenant else f"a;{key_entry('b', 'k')}")


HASH = "0" * 64


@pytest.mark.parametrize(
    "text",
    [
        "mr_verysecret",
        "acme:mr_verysecret",
        "acme:sha256:verysecret",
        f"acme:sha256:{HASH}0verysecret",
        f"acme:md5:{HASH}verysecret",
        f"acme:sha256:{HASH},verysecret",
    ],
)
def test_an_entry_that_is_no_hash_is_refused_without_being_shown(text):
    with pytest.raises(ValueError, match="mediaray keys new TENANT") as refused:
        parse_keys(text)
    assert "verysecret" not in str(refused.value)


def test_a_key_may_open_one_tenant_only():
    with pytest.raises(ValueError, match="twice"):
        parse_keys(f"a:sha256:{HASH},b:sha256:{HASH}")
