"""The application's edge: request ids, slashes, keys, defects, and the two tables."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from api.dialects import BY_NAME, CREATION, DIALECTS, FLASHVSR, HALLO2, INDEXED, TASKS, Problem, dialect_at
from api.errors import ROWS, Refused, problem_of
from api.health import redacted_url
from cluster.errors import ClusterError, RegistryUnavailable, StorageFailure
from cluster.task import Status
from models.engine import EngineError
from tests.api_client import key_entry, serving
from tests.tasks import new_task


@pytest.fixture
async def server(tmp_path):
    async with serving(tmp_path) as started:
        yield started


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 128])
async def test_a_sane_request_id_is_kept(server, given):
    for path in ("/healthz", "/nowhere", "/v1/tasks/none/status"):
        answer = await server.http.get(path, headers={"X-Request-ID": given})
        assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", "a\tb", "{}"])
async def test_any_other_request_id_is_replaced(server, given):
    answer = await server.http.get("/healthz", headers={"X-Request-ID": given.encode()})
    assert len(answer.headers["x-request-id"]) == 32


async def test_both_slash_forms_answer_directly(server):
    await server.submit(task_id="t")
    paths = [
        "/v1/tasks",
        "/v1/tasks/health",
        "/v1/tasks/supported-tasks",
        "/v1/tasks/t/status",
        "/v1/tasks/t/result",
        "/v1/models",
        "/healthz",
        "/readyz",
        "/health",
        "/api/tasks",
        "/api/tasks/parameter_schema",
        "/api/system/status",
        "/flashvsr",
        "/flashvsr/health",
        "/tasks/v1/tasks",
        "/openapi.json",
        "/docs",
    ]
    for path in paths:
        assert (await server.http.get(path)).status_code == 200, path
        assert (await server.http.get(path + "/")).status_code == 200, path
    assert (await server.http.get("/v1/tasks//")).status_code == 404
    for path in ("/v1/tasks", "/v1/tasks/"):
        answer = await server.http.post(path, json={"task_name": "diagnostics.echo", "input_data": {}})
        assert answer.status_code == 200


async def test_a_wrong_method_is_405(server):
    answer = await server.http.patch("/v1/tasks")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")


async def test_a_defect_answers_500_without_internals(server, monkeypatch, caplog):
    async def broken(task_id):
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(server.registry, "get", broken)
    with caplog.at_level(logging.ERROR, "mediaray.http"):
        answer = await server.http.get("/v1/tasks/t/status", headers={"X-Request-ID": "find-me"})
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert "find-me" in answer.json()["detail"]
    assert answer.json()["error"]["details"] == {"request_id": "find-me"}
    assert answer.headers["x-request-id"] == "find-me"
    (record,) = caplog.records
    assert "find-me" in record.getMessage()
    assert record.exc_info[1].args == ("password=hunter2",)


async def test_a_registry_that_is_away_says_when_to_ask_again(server, monkeypatch):
    async def away(query):
        raise RegistryUnavailable

    monkeypatch.setattr(server.registry, "list", away)
    answer = await server.http.get("/v1/tasks")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_a_failing_disk_is_told_by_each_dialect(server, monkeypatch):
    def full(key):
        raise StorageFailure("no space left")

    monkeypatch.setattr(server.storage, "writer", full)
    answer = await server.http.put("/v1/files/a", content=b"x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORAGE_FAILURE")
    answer = await server.http.post("/flashvsr/api/tasks", files={"file": ("a.mp4", b"x")})
    assert (answer.status_code, answer.json()) == (500, {"detail": "文件保存失败: no space left"})


async def test_a_registry_that_is_away_keeps_the_upload_it_may_have_recorded(server, monkeypatch):
    from tests.api_client import SAMPLES

    async def away(new):
        raise RegistryUnavailable

    monkeypatch.setattr(server.registry, "submit", away)
    content = (SAMPLES / "carphone_pristine.mp4").read_bytes()
    answer = await server.http.post("/flashvsr/api/tasks", files={"file": ("a.mp4", content)})
    assert (answer.status_code, answer.json()) == (500, {"detail": "创建任务失败"})
    assert len((await server.remains())[1]) == 1


@pytest.fixture
async def guarded(tmp_path):
    entries = (key_entry("acme", key) for key in ("first-key", "second-key"))
    async with serving(tmp_path, api_keys=", ".join(entries)) as started:
        yield started


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "first-key"},
        {"Authorization": "Basic first-key"},
        {"X-API-Key": ""},
        {"X-API-Key": "first-key, second-key"},
        {"X-API-Key": "schlüssel".encode()},
    ],
    ids=["none", "wrong", "no scheme", "other scheme", "empty", "the whole list", "not ascii"],
)
async def test_keys_are_needed(guarded, headers):
    for method, path in (
        ("GET", "/v1/tasks"),
        ("POST", "/flashvsr/api/tasks"),
        ("GET", "/v1/files/download/a"),
    ):
        answer = await guarded.http.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert await guarded.remains() == (0, [], 0)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"authorization": "bearer second-key"},
        {"X-API-Key": "second-key"},
    ],
)
async def test_any_key_opens(guarded, headers):
    assert (await guarded.http.get("/v1/tasks", headers=headers)).status_code == 200


async def test_health_needs_no_key(guarded):
    paths = ["/healthz", "/readyz", "/health", "/flashvsr/health", "/v1/tasks/health", "/"]
    paths += ["/api/health", "/indexed/api/health", "/hallo2/health", "/creation/health"]
    paths += ["/api/v1/health", "/hallo2/api/v1/health", "/tasks/v1/tasks/health"]
    for path in paths:
        assert (await guarded.http.get(path)).status_code == 200


async def test_health_counts_tasks_for_those_who_show_a_key(guarded):
    key = {"X-API-Key": "first-key"}
    await guarded.registry.submit(new_task(tenant="acme", dialect="hallo2"))
    for path in ("/api/v1/health", "/hallo2/api/v1/health"):
        assert (await guarded.http.get(path)).json()["tasks"]["queued"] == 0
        assert (await guarded.http.get(path, headers=key)).json()["tasks"]["queued"] == 1


HEALTH = [
    "/healthz", "/readyz", "/health", "/api/health", "/api/v1/health", "/v1/tasks/health",
    "/tasks/v1/tasks/health/",
    "/indexed/api/health", "/flashvsr/health", "/hallo2/health", "/hallo2/api/v1/health", "/creation/health",
]  # fmt: skip


@pytest.mark.parametrize("path", HEALTH)
async def test_head_of_health_is_get_without_a_body(guarded, path):
    got, head = await guarded.http.get(path), await guarded.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


async def test_signed_urls_need_no_key(guarded):
    key = {"X-API-Key": "first-key"}
    url = (await guarded.http.put("/v1/files/a", content=b"abc", headers=key)).json()["download_url"]
    assert (await guarded.http.get(url)).content == b"abc"
    assert (await guarded.http.get(url + "x")).status_code == 403
    for query in ("token=", "xtoken=1", "a=token=1", "token", "TOKEN=1"):
        assert (await guarded.http.get(f"/v1/files/download/a?{query}")).status_code == 401, query
    assert (await guarded.http.get("/v1/tasks?token=abc")).status_code == 401


def subclasses(root):
    return {root, *(found for child in root.__subclasses__() for found in subclasses(child))}


@pytest.mark.parametrize("root", [ClusterError, EngineError, Refused], ids=lambda root: root.__name__)
def test_every_error_class_has_a_row(root):
    ours = {kind for kind in subclasses(root) - {root} if not kind.__module__.startswith("tests")}
    assert not {kind.__name__ for kind in ours if not any(base in ROWS for base in kind.__mro__)}


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
def test_every_row_makes_a_problem(kind):
    error = kind.__new__(kind)
    Exception.__init__(error, "why")
    error.task_id, error.retry_after_s, error.status, error.number = "t", 3, "queued", 1
    if isinstance(error, Refused):
        error.__init__("why")
    problem, headers = problem_of(error, TASKS, 0.0)
    assert 400 <= problem.status < 600
    assert problem.detail
    assert problem.code.isupper()
    assert all(isinstance(value, str) for value in headers.values())


WORDS = {
    "indexed": ("pending", "processing", "completed", "failed", "failed"),
    "flashvsr": ("pending", "processing", "completed", "failed", "failed"),
    "hallo2": ("queued", "processing", "completed", "failed", "failed"),
    "creation": ("pending", "processing", "completed", "failed", "failed"),
    "tasks": ("pending", "running", "completed", "failed", "cancelled"),
}


@pytest.mark.parametrize("name", WORDS)
def test_status_words(name):
    dialect = BY_NAME[name]
    assert tuple(dialect.words[status] for status in Status) == WORDS[name]
    assert dialect.prefix == f"/{name}"
    assert dialect.statuses("completed") == (Status.SUCCEEDED,)
    assert dialect.statuses("nonsense") == ()


def test_cancelled_counts_as_failed_where_it_is_shown_so():
    assert FLASHVSR.statuses("failed") == (Status.FAILED, Status.CANCELLED)
    assert TASKS.statuses("failed") == (Status.FAILED,)


@pytest.mark.parametrize(
    ("dialect", "keys"),
    [
        (INDEXED, {"detail"}),
        (FLASHVSR, {"detail"}),
        (CREATION, {"detail"}),
        (HALLO2, {"detail", "error_code"}),
        (TASKS, {"detail", "error"}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_error_shapes(dialect, keys):
    assert set(dialect.error_body(Problem(400, "CODE", "text"))) == keys


def test_times():
    at = 1_769_088_600.25
    assert INDEXED.time(at) == "2026-01-22T13:30:00"
    assert HALLO2.time(at) == "2026-01-22T13:30:00Z"
    assert FLASHVSR.time(at) == "2026-01-22T13:30:00.250"
    assert TASKS.time(None) is None


@pytest.mark.parametrize(
    ("path", "name", "inner"),
    [
        ("/flashvsr/api/tasks", "flashvsr", "/api/tasks"), ("/flashvsr", "flashvsr", "/"),
        ("/hallo2/api/v1/tasks", "hallo2", "/api/v1/tasks"), ("/api/v1/tasks/x", "hallo2", "/api/v1/tasks/x"),
        ("/v1/files/upload", "tasks", "/v1/files/upload"), ("/tasks/v1/tasks", "tasks", "/v1/tasks"),
        ("/api/inference", "indexed", "/api/inference"), ("/api/tasks/x", "flashvsr", "/api/tasks/x"),
        ("/videos/a.mp4", "creation", "/videos/a.mp4"), ("/", "flashvsr", "/"), ("", "flashvsr", ""),
    ],
)  # fmt: skip
def test_who_speaks_where(path, name, inner):
    dialect, rest = dialect_at(path)
    assert (dialect.name, rest) == (name, inner)


def test_names_and_prefixes_are_unique():
    assert len({dialect.prefix for dialect in DIALECTS}) == len(BY_NAME) == 5


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////home/me/.mediaray/tasks.sqlite", "sqlite:///tasks.sqlite"),
        ("postgresql://user:secret@db:5432/media?sslpassword=x", "postgresql://db:5432/media"),
        ("postgresql+psycopg://user:p%40ss@db/media", "postgresql+psycopg://db/media"),
    ],
)
def test_database_urls_are_redacted(url, shown):
    assert redacted_url(url) == shown


async def test_the_schema_documents_every_path_parameter_once(server):
    schema = (await server.http.get("/openapi.json")).json()
    operations = [
        (path, operation)
        for path, methods in schema["paths"].items()
        for operation in methods.values()
        if isinstance(operation, dict)
    ]
    ids = [operation["operationId"] for _, operation in operations]
    assert len(ids) == len(set(ids))
    for path, operation in operations:
        named = {item["name"] for item in operation.get("parameters", ()) if item["in"] == "path"}
        assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}, path
    assert {"/v1/tasks", "/v1/files/upload", "/flashvsr/api/tasks", "/api/tasks"} <= schema["paths"].keys()
    create = schema["paths"]["/v1/tasks"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"]["properties"].keys() >= {
        "task_name"
    }
    assert "409" in create["responses"]


async def test_models_list_what_is_missing(server):
    models = {model["name"]: model for model in (await server.http.get("/v1/models")).json()["models"]}
    audio = models["ffmpeg.extract_audio"]
    assert (audio["ready"], audio["service"], audio["missing"]) == (True, "ffmpeg", [])
    assert audio["engine"] == audio["engines"][0]["name"]
    assert "video_path" in audio["input_schema"]["properties"]
    assert "diagnostics.echo" not in models


def test_the_edge_imports_neither_torch_nor_ray():
    code = (
        "import sys, json, api.app; print(json.dumps(sorted({'torch', 'ray', 'boto3'} & set(sys.modules))))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(found.stdout) == []
