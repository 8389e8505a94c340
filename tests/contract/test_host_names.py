"""A host name of its own for a dialect: the same answers as below its prefix, and nothing else."""

from __future__ import annotations

import pytest
import pytest_asyncio
from pydantic import ValidationError

from api.access import access_of
from api.dialects import DIALECTS
from api.hosts import parse_hosts
from cluster.settings import Settings
from tests.api_client import BASE_URL, SAMPLES, key_entry, serving

HOSTS = ",".join(f"{dialect.name}.example.com={dialect.name}" for dialect in DIALECTS)


loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory):
    async with serving(tmp_path_factory.mktemp("hosts"), hosts=HOSTS) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def with_keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    async with serving(folder, hosts=HOSTS, api_keys=key_entry("acme", "key")) as started:
        yield started


def at(server, host, method, path, **rest):
    return server.http.request(method, path, headers={"host": host}, **rest)


@loop
@pytest.mark.parametrize(
    "host", ["flashvsr.example.com", "FlashVSR.Example.COM:8443", "flashvsr.example.com."]
)
async def test_a_mapped_host_serves_its_dialect(server, host):
    video = {"file": ("a.mp4", (SAMPLES / "carphone_pristine.mp4").read_bytes())}
    seed = {"seed": str(len(host))}  # the same video with the same parameters would be a duplicate
    created = await at(server, host, "POST", "/api/tasks/", files=video, data=seed)
    assert created.status_code == 201, created.text
    task_id = created.json()["id"]
    for path in (f"/api/tasks/{task_id}", "/api/tasks", "/api/tasks/", "/health", "/", "/api/system/status"):
        below = await server.http.get(f"/flashvsr{path}")
        alone = await at(server, host, "GET", path)
        assert (alone.status_code, alone.json()) == (below.status_code, below.json()), path
    assert (await at(server, host, "GET", "/")).json()["name"] == "FlashVSR"


@loop
@pytest.mark.parametrize(
    "path", ["/v1/tasks", "/flashvsr/api/tasks", "/tasks/v1/tasks", "/readyz", "/v1/models"]
)
async def test_a_mapped_host_serves_nothing_else(server, path):
    answer = await at(server, "flashvsr.example.com", "GET", path)
    assert (answer.status_code, set(answer.json())) == (404, {"detail"})


@loop
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "example.com"},
        {"host": "x.flashvsr.example.com"},
        {"host": "flashvsr.example.com.evil.org"},
        {"host": "127.0.0.1", "x-forwarded-host": "flashvsr.example.com"},
        {"host": "é".encode("latin-1")},
        {"host": ""},
    ],
    ids=["parent", "child", "suffix", "forwarded", "not ascii", "empty"],
)
async def test_every_other_host_is_the_whole_origin(with_keys, headers):
    answer = await with_keys.http.get("/", headers=headers)
    assert answer.json()["name"] == "mediaray"


@loop
@pytest.mark.parametrize("host", ["tasks.example.com", "flashvsr.example.com:81"])
async def test_download_urls_begin_with_the_callers_host_and_work_there(server, host):
    await server.submit(task_id=f"of-{len(host)}")
    task = await server.start()
    await server.succeed(task, out__txt=b"made")
    body = (await at(server, host, "GET", f"/v1/tasks/{task.id}/status")).json()
    if host.startswith("tasks"):
        url = body["minio_files"][0]["url"]
        assert url.startswith(f"http://{host}/v1/files/download/")
    else:
        assert body == {"detail": "Not Found"}
        url = (await server.http.get(f"/v1/tasks/{task.id}/status")).json()["minio_files"][0]["url"]
    path = url.removeprefix(f"http://{host}").removeprefix(BASE_URL)
    assert (await at(server, host, "GET", path)).content == b"made"


async def test_errors_and_limits_are_the_dialects(tmp_path):
    async with serving(tmp_path, hosts="h.example=hallo2", rate_limit_create=1) as server:
        await at(server, "h.example", "POST", "/api/v1/inference/hallo2")
        refused = await at(server, "h.example", "POST", "/api/v1/inference/hallo2")
        assert (refused.status_code, refused.json()["error_code"]) == (429, "RATE_LIMITED")
        assert (await at(server, "h.example", "GET", "/nowhere")).json().keys() == {"detail", "error_code"}


@pytest.mark.parametrize(
    "text",
    ["flashvsr.example.com", "=flashvsr", "a.example=flash", "a.example:80=flashvsr", "a/b=flashvsr",
     "a.example=flashvsr,A.example=tasks"],
)  # fmt: skip
def test_a_map_that_makes_no_sense_is_refused_at_start(text):
    with pytest.raises(ValueError, match="indexed, flashvsr, hallo2, creation, tasks"):
        access_of(Settings(hosts=text))


def test_spaces_and_empty_parts_do_no_harm():
    assert [dialect.name for dialect in parse_hosts(" a.b = flashvsr , ").values()] == ["flashvsr"]


def test_keys_of_blanks_are_no_keys():
    with pytest.raises(ValueError, match="holds no key"):
        access_of(Settings(api_keys=" , "))


def test_a_refused_setting_is_not_printed():
    with pytest.raises(ValidationError) as refused:
        Settings(http_host="0.0.0.0", database_url="postgresql://me:hunter2@db/x")
    assert "hunter2" not in str(refused.value)
