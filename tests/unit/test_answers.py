"""What JSON has no words for, in every kind of answer, and names of files as they are kept."""

from __future__ import annotations

import json

import pytest

from api.form_tasks import file_name
from tests.api_client import serving
from tests.live_server import live_serving
from tests.tasks import outcome

ODD = {"psnr": float("inf"), "levels": [float("nan"), -float("inf"), 1.5]}
SHOWN = {"psnr": None, "levels": [None, None, 1.5]}
HALF = {"speakers": {"\ud800": ["a\udfffb", 1.5, None]}}
"""What an engine may read from JSON: half of a character, which UTF-8 cannot carry."""


async def test_an_answer_has_null_for_what_is_no_number(tmp_path):
    async with serving(tmp_path) as server:
        await server.submit(task_id="t")
        await server.succeed(await server.start(), ODD)
        for path in ("/v1/tasks/t/result", "/v1/tasks/t/status"):
            answer = await server.http.get(path)
            assert json.loads(answer.content, parse_constant=pytest.fail)["result"] == SHOWN


async def test_half_a_character_in_one_result_breaks_no_answer(tmp_path):
    async with serving(tmp_path) as server:
        await server.submit(task_id="t")
        await server.succeed(await server.start(), HALF)
        for path in ("/v1/tasks/t/result", "/v1/tasks/t", "/v1/tasks"):
            body = (await server.http.get(path)).raise_for_status().json()
            task = body["tasks"][0] if "tasks" in body else body
            assert task["result"] == {"speakers": {"?": ["a?b", 1.5, None]}}


async def test_an_event_has_null_for_what_is_no_number(tmp_path):
    async with live_serving(tmp_path) as server:
        await server.base.submit(task_id="t")
        task = await server.base.start()
        await server.base.registry.finish([outcome(task, result=ODD)])
        async with server.events("t") as stream:
            assert (await stream.rest())[-1][1]["result"] == SHOWN


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a\u3000b.mp4", "a\u3000b.mp4"),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467.mp4", "\U0001f468\u200d\U0001f469\u200d\U0001f467.mp4"),
        ("a\u00a0b\u00ad.mp4", "a\u00a0b\u00ad.mp4"),
        ("a\r\nX-Evil: 1\x00\x7f\x85.mp4", "aX-Evil: 1.mp4"),
        ("a\u202e4pm.exe.mp4", "a4pm.exe.mp4"),
        ("\u2066a\u2069\u200f\u061c.mp4", "a.mp4"),
        ("a\u2028b.mp4", "ab.mp4"),
        ("C:\\videos\\a.mp4", "a.mp4"),
        ("\u202e", ""),
    ],
    ids=ascii,
)
def test_a_file_keeps_its_name_without_controls(sent, kept):
    assert file_name(sent) == kept
