"""`mediaray serve` and `mediaray down`: a private Ray on this machine with the application on it.

python -m deployments.server serve [--host H] [--port P] [--config FILE] [--set SERVICE.FIELD=VALUE]
python -m deployments.server down
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

import psutil
import ray
import yaml
from pydantic import ValidationError
from ray import serve
from ray._private.services import canonicalize_bootstrap_address

from api.access import access_of
from cluster.actors import stop_registry
from cluster.settings import Settings
from deployments.app import APP_NAME, AppArgs, build
from deployments.ingress import local_url
from deployments.private_ray import CannotStart, prepare_haproxy, private_ray
from deployments.ray_watch import RayWatch

_DOWN_S = 60.0
_CONNECT_S = 5.0
_POLL_S = 0.1
_ROUTE_S = 20.0
_HEALTH_CHECKS_S = 1.0  # HAProxy asks a server twice before it trusts it
_RUN_DIR_PREFIX = "mediaray-"

logger = logging.getLogger("mediaray")


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = _parser().parse_args(argv)
    try:
        if options.command == "down":
            return down(Settings())
        return run(_settings(options), app_args(options.config, options.set))
    except (CannotStart, ValidationError, ValueError) as error:
        print(f"mediaray: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 2
    except KeyboardInterrupt:  # while Ray was starting, which ends what it had begun
        return 128 + signal.SIGINT


def run(settings: Settings, args: AppArgs) -> int:
    """Start everything, serve until SIGINT or SIGTERM, stop everything. Returns the exit code.

    Where Ray itself dies this process begins anew, as if it had just been started.
    """
    refuse_taken_port(settings.http_host, settings.http_port)
    watch = RayWatch()
    try:
        with _claimed_data_folder(settings) as run_dir:
            logger.info("starting Ray and the services, which takes a while; data in %s", settings.data_path)
            prepare_haproxy(run_dir)
            with private_ray(watch):
                _serve(settings, args, run_dir)
    except KeyboardInterrupt:
        if not watch.is_told_to_stop:
            raise
    except SystemExit as ended:
        if ended.code != signal.SIGTERM:  # Ray's own answer to that one while it starts
            raise
    return 0


def _serve(settings: Settings, args: AppArgs, run_dir: Path) -> NoReturn:
    """Until a signal breaks it off."""
    serve.start(http_options={"host": settings.http_host, "port": settings.http_port})
    serve.run(build(args), name=APP_NAME, route_prefix="/")
    _await_direct_route(run_dir)
    logger.info("serving on http://%s:%s (docs at /docs)", settings.http_host, settings.http_port)
    _warn_of_local_urls(settings)
    while True:
        signal.pause()


def _warn_of_local_urls(settings: Settings) -> None:
    """Callbacks are built without a request whose host could be taken for their download URLs."""
    if not settings.is_loopback and not settings.public_url:
        text = "MEDIARAY_PUBLIC_URL is empty: download URLs in callbacks begin with %s"
        logger.warning(text, local_url(settings))


def down(settings: Settings) -> int:
    """Stop the private server of this data folder, or the application on this machine's cluster."""
    process = _running_server(settings)
    if process is not None:
        return _end_server(process)
    # Not "auto", which takes any Ray of this machine: a private server's on another data folder, for one.
    address = canonicalize_bootstrap_address(None)
    if address is None or not _answers(address):
        logger.info("nothing to stop: no private server and no Ray cluster here")
        return 0
    ray.init(address=address, log_to_driver=False)
    serve.delete(APP_NAME)
    had_registry = stop_registry()
    if not serve.status().applications:
        serve.shutdown()
    ray.shutdown()
    logger.info(
        "application deleted, %s; Ray itself goes on", "registry ended" if had_registry else "no registry"
    )
    return 0


def _end_server(process: psutil.Process) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=_DOWN_S)
    except psutil.TimeoutExpired:
        logger.warning("the server with process id %s still stops after %s s", process.pid, _DOWN_S)
        return 1
    logger.info("stopped the server with process id %s", process.pid)
    return 0


def _answers(address: str) -> bool:
    """Whether somebody listens there: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S):
            return True
    except OSError:
        return False


def app_args(config: Path | None, changes: list[str]) -> AppArgs:
    """The application's arguments: defaults, then the config file's, then SERVICE.FIELD=VALUE changes."""
    args: dict[str, Any] = {}
    if config is not None:
        args = _args_in(config)
    for change in changes:
        path, _, value = change.partition("=")
        service, _, name = path.partition(".")
        defaults = AppArgs.model_validate(args).service(service).model_dump()
        args.setdefault("services", {})[service] = defaults | {name: yaml.safe_load(value)}
    return AppArgs.model_validate(args)


def _args_in(config: Path) -> dict[str, Any]:
    """The application's args in a serve_config.yaml. Raises CannotStart."""
    try:
        applications = yaml.safe_load(config.read_text())["applications"]
        found = [app.get("args") or {} for app in applications if app["name"] == APP_NAME]
    except OSError as error:
        raise CannotStart(f"{config} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise CannotStart(f"{config} is no configuration of Ray Serve: {error!r}") from error
    if not found:
        raise CannotStart(f"{config} has no application named {APP_NAME}")
    args: dict[str, Any] = found[0]
    return args


def refuse_taken_port(host: str, port: int) -> None:
    """Raise CannotStart where nobody can or somebody does listen: two Serve proxies would share the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            text = (
                f"cannot listen on {host}, port {port} ({error.strerror}): set MEDIARAY_HTTP_HOST and _PORT"
            )
            if error.errno == errno.EADDRINUSE:
                text = f"port {port} on {host} is taken: stop what listens there, or set MEDIARAY_HTTP_PORT"
            raise CannotStart(text) from error


@contextmanager
def _claimed_data_folder(settings: Settings) -> Iterator[Path]:
    """Hold the data folder: two servers on one task database would each lease its tasks.

    Gives a folder for sockets and temporary files, short of name and gone afterwards; that of a server that
    was killed goes now.
    """
    with _opened_server_file(settings) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(
                f"another server uses the data folder {settings.data_path}: stop it with `mediaray down`, or"
                " set MEDIARAY_DATA_DIR"
            ) from None
        _remove_run_dir_of_killed(file)
        with tempfile.TemporaryDirectory(prefix=_RUN_DIR_PREFIX) as run_dir:
            json.dump({"pid": os.getpid(), "port": settings.http_port, "run_dir": run_dir}, file)
            file.flush()
            try:
                yield Path(run_dir)
            finally:
                file.truncate(0)


def _remove_run_dir_of_killed(file: TextIO) -> None:
    """What the server file still tells is of a server that had no time to clean up. Empties the file."""
    file.seek(0)
    with suppress(json.JSONDecodeError, KeyError):
        run_dir = Path(json.load(file)["run_dir"])
        if run_dir.name.startswith(_RUN_DIR_PREFIX):
            shutil.rmtree(run_dir, ignore_errors=True)
    file.truncate(0)


def _opened_server_file(settings: Settings) -> TextIO:
    """Makes the data folder, its owner's alone. Raises CannotStart."""
    try:
        settings.data_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _server_file(settings).open("a+")
    except OSError as error:
        text = f"the data folder {settings.data_path} cannot be used: {error.strerror}; set MEDIARAY_DATA_DIR"
        raise CannotStart(text) from error


def _running_server(settings: Settings) -> psutil.Process | None:
    """The process that holds the data folder, if one does."""
    path = _server_file(settings)
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return psutil.Process(json.load(file)["pid"])
    return None


def _await_direct_route(run_dir: Path) -> None:
    """Return when HAProxy reaches the ingress replica itself, or when that takes too long.

    Before, it goes round by Ray's Python proxy, which is slower and buffers whole uploads.
    """
    deadline_s = time.monotonic() + _ROUTE_S
    while time.monotonic() < deadline_s:
        configurations = [path.read_text() for path in run_dir.glob("*/haproxy.cfg")]
        if not configurations or any("SERVE_REPLICA" in text for text in configurations):
            break
        time.sleep(_POLL_S)
    if configurations:
        time.sleep(_HEALTH_CHECKS_S)


def _server_file(settings: Settings) -> Path:
    return settings.data_path / "server.json"


def _settings(options: argparse.Namespace) -> Settings:
    given = {"http_host": options.host, "http_port": options.port}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    access_of(settings)  # refuse what no ingress replica could serve, before anything is started
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mediaray", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("serve", help="serve until interrupted")
    start.add_argument("--host", help="address to listen on (MEDIARAY_HTTP_HOST, 127.0.0.1)")
    start.add_argument("--port", type=int, help="port to listen on (MEDIARAY_HTTP_PORT, 8000)")
    start.add_argument("--config", type=Path, help="a serve_config.yaml whose args to use")
    start.add_argument("--set", action="append", default=[], metavar="SERVICE.FIELD=VALUE")
    commands.add_parser("down", help="stop the private server, or the application on this cluster")
    return parser


if __name__ == "__main__":
    sys.exit(main())
