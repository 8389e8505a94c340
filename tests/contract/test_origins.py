"""A server without keys serves its own machine, and no page that a browser there opened from elsewhere."""

from __future__ import annotations

import pytest
import pytest_asyncio

from tests.api_client import key_entry, serving

SETTINGS = {"hosts": "own.example=flashvsr", "public_url": "https://media.example:8443/base"}
EVIL = "http://evil.example"
BODY = b'{"task_name": "diagnostics.echo", "input_data": {}}'

loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory):
    async with serving(tmp_path_factory.mktemp("origins"), **SETTINGS) as started:
        yield started


OURS = [
    "localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:80", "127.255.0.1", "[::1]", "[::1]:8000",
    "media.example", "Media.Example:1", "own.example:8000",
]  # fmt: skip
FOREIGN = [
    "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "notlocalhost",
    "10.0.0.1", "0.0.0.0", "[::]", "[::2]", "", ":8000", "sub.media.example", "media.example.evil.example",
    "127.0.0.1,evil",
]  # fmt: skip


@loop
@pytest.mark.parametrize("host", OURS)
async def test_it_answers_as_itself(server, host):
    answer = await server.http.get("/health", headers={"host": host})
    assert answer.status_code == 200


@loop
@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/v1/tasks", "/", "/readyz", "/v1/files/download/a?token=x"])
async def test_it_answers_as_nobody_else(server, host, path):
    answer = await server.http.get(path, headers={"host": host})
    assert answer.status_code == 403
    for way_out in ("127.0.0.1", "MEDIARAY_PUBLIC_URL", "MEDIARAY_HOSTS", "MEDIARAY_API_KEYS"):
        assert way_out in answer.json()["detail"]


SHAPES = {
    "/v1/tasks": {"detail", "error"},
    "/hallo2/api/v1/tasks": {"detail", "error_code"},
    "/flashvsr/api/tasks": {"detail"},
}


@loop
@pytest.mark.parametrize("path", SHAPES)
async def test_each_dialect_says_it_in_its_own_shape(server, path):
    host = await server.http.get(path, headers={"host": "evil.example"})
    page = await server.http.post(path, headers={"origin": EVIL})
    assert set(host.json()) == set(page.json()) == SHAPES[path]


@loop
@pytest.mark.parametrize(
    "origin", [EVIL, "https://evil.example:8000", "null", "", "file://", "http://[", "127.0.0.1"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_foreign_pages_write_nothing(server, method, origin):
    headers = {"origin": origin, "content-type": "text/plain"}
    before = await server.remains()
    answer = await server.http.request(method, "/v1/tasks", content=BODY, headers=headers)
    assert answer.status_code == 403
    assert "takes no writes from pages of" in answer.json()["detail"]
    assert await server.remains() == before


@loop
@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1", "http://localhost:5173", "http://[::1]:3", "https://media.example", None]
)
async def test_own_pages_and_programs_write(server, origin):
    headers = {} if origin is None else {"origin": origin}
    answer = await server.http.post("/v1/tasks", content=BODY, headers=headers)
    assert answer.status_code == 200, answer.text


@loop
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_any_page_may_show_a_picture(server, method):
    """The answer carries no permission to read it, so the page's script learns nothing."""
    answer = await server.http.request(method, "/health", headers={"origin": EVIL})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


async def test_with_keys_the_key_is_what_counts(tmp_path):
    async with serving(tmp_path, api_keys=key_entry("acme", "key")) as server:
        headers = {"host": "any.example", "origin": EVIL, "x-api-key": "key"}
        assert (await server.http.post("/v1/tasks", content=BODY, headers=headers)).status_code == 200
