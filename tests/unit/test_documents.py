"""Every dialect's own /docs and /redoc, below its prefix and on a host name of its own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

from api.dialects import DIALECTS, Dialect
from tests.api_client import BASE_URL, Server, key_entry, serving

OWN_HOST = "http://own.example.com"
NAMES = [dialect.name for dialect in DIALECTS]


@pytest.fixture(params=DIALECTS, ids=NAMES)
async def dialect_and_server(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Dialect, Server]]:
    dialect: Dialect = request.param
    hosts = f"own.example.com={dialect.name}"
    async with serving(tmp_path, hosts=hosts, api_keys=key_entry("somebody", "their-key")) as server:
        yield dialect, server


async def test_pages_show_the_dialect_alone(dialect_and_server: tuple[Dialect, Server]) -> None:
    """Without a key: the pages, the schema they name, and a documented path that is really served there."""
    dialect, server = dialect_and_server
    for url in (f"{BASE_URL}{dialect.prefix}/docs", f"{OWN_HOST}/docs", f"{OWN_HOST}/redoc"):
        answer = await server.http.get(url)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        (named,) = re.findall(r"""["']([^"']*openapi\.json)["']""", answer.text)
        schema_url = urljoin(url, named)
        schema = (await server.http.get(schema_url)).raise_for_status().json()
        assert not [path for path in schema["paths"] if path.startswith(dialect.prefix + "/")]
        served = urljoin(schema_url, schema["servers"][0]["url"])
        health = next(path for path in schema["paths"] if path.endswith("/health"))
        answer = await server.http.get(served.rstrip("/") + health)
        assert answer.status_code == 200, (served, answer.text)
