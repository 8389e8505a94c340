"""A private PostgreSQL server for tests, where its programs are installed."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_ROLE = "mediaray"
# Tests end with the server: nothing has to survive, and every commit of theirs would wait for a disk.
_OPTIONS = "-c listen_addresses= -c fsync=off -c max_connections=50"


def programs() -> Path | None:
    """The folder of initdb and pg_ctl; None without one, or with none but root to run them."""
    found = [Path(path).parent for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folder = next((folder for folder in found if (folder / "initdb").is_file()), None)
    return folder if os.getuid() or _has_user() else None


@contextmanager
def server(folder: Path) -> Iterator[Callable[[], str]]:
    """Start a server; yields what makes the URL of a new empty database."""
    user = None if os.getuid() else "postgres"
    # Not below pytest's folder, which another user may not enter, and short: it holds a socket.
    home = Path(tempfile.mkdtemp(prefix="mediaray-pg-"))
    if user:
        shutil.chown(home, user)
    data = home / "data"

    def run(program: str, *arguments: str) -> None:
        command = [str(folder / program), "-D", str(data), *arguments]
        subprocess.run(command, check=True, user=user, cwd=home, stdout=subprocess.DEVNULL)

    run("initdb", "-A", "trust", "-U", _ROLE, "-E", "UTF8", "--no-locale", "--no-sync")
    run("pg_ctl", "-w", "-l", str(home / "log"), "-o", f"-k {home} {_OPTIONS}", "start")
    numbers = itertools.count()

    def new_database() -> str:
        name = f"test{next(numbers)}"
        with psycopg.connect(f"postgresql://{_ROLE}@/postgres?host={home}", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://{_ROLE}@/{name}?host={home}"

    try:
        yield new_database
    finally:
        run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(home)


def _has_user() -> bool:
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return False
    return True
