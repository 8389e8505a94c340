"""Submitting a task whose file lies behind a URL: judged by address, recorded, not yet downloaded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api_client import Server, serving
from tests.web_server import WebServer, web_server

KEYFRAMES = "ffmpeg.extract_keyframes"


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as web:
        yield web


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path, callback_allow_cidrs="127.0.0.0/8") as server:
        yield server


async def test_an_allowed_url_is_recorded_and_not_opened(server: Server, web: WebServer) -> None:
    url = web.url("/a.mp4?token=1")
    answer = await server.submit(KEYFRAMES, {"video_path": url}, task_id="t")
    assert answer.status_code == 200, answer.text
    task = await server.registry.get("t")
    assert (task.inputs, task.files) == ({"video_path": url}, {})
    assert not web.seen


async def test_the_same_url_is_the_same_request(server: Server, web: WebServer) -> None:
    for path, status in (("/a.mp4", 200), ("/a.mp4", 200), ("/b.mp4", 409)):
        answer = await server.submit(KEYFRAMES, {"video_path": web.url(path)}, task_id="t")
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        ("ffmpeg.extract_audio", {"audio_format": "mp3", "channels": 6}, "mp3"),
        (
            "ffmpeg.crop_subtitle_images",
            {"subtitle_area": [9, 9, 1, 1]},
            "subtitle_area: x1 must be below x2",
        ),
    ],
)
async def test_what_needs_no_look_at_the_file_is_refused_at_submit(
    server: Server, web: WebServer, name: str, inputs: dict[str, Any], words: str
) -> None:
    answer = await server.submit(name, {"video_path": web.url("/a.mp4"), **inputs})
    assert answer.status_code == 400
    assert words in answer.json()["detail"]


async def test_a_network_that_is_not_allowed_is_refused(server: Server) -> None:
    answer = await server.submit(KEYFRAMES, {"video_path": "http://10.0.0.1/a.mp4?token=secret"})
    assert answer.status_code == 400
    problem = answer.json()
    assert problem["detail"].startswith(
        "video_path: 10.0.0.1 is not a public address, or does not resolve; the operator can"
    )
    assert "secret" not in answer.text
