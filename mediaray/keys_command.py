"""`mediaray keys`: API keys for a server, which knows them by their hash."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Annotated

import typer

from mediaray import display

KEY_BYTES = 32
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")

app = typer.Typer(no_args_is_help=True, help="Make API keys for a server.")


def new_key() -> str:
    return "mr_" + secrets.token_urlsafe(KEY_BYTES)


def entry_of(tenant: str, key: str) -> str:
    """What MEDIARAY_API_KEYS holds for a key."""
    return f"{tenant}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"


@app.callback()
def keys() -> None:
    """Keeps `new` a sub-command, although it is the only one."""


@app.command()
def new(
    tenant: Annotated[str, typer.Argument(help="Whose tasks and files the key opens: A-Z a-z 0-9 . _ -")],
) -> None:
    """Make a key; prints it once, and the entry for the server's MEDIARAY_API_KEYS.

    A tenant may have several keys: add the new entry, change the callers, remove the old entry.
    """
    if not _TENANT.fullmatch(tenant) or tenant in {".", ".."}:
        raise typer.BadParameter("1-64 of A-Z a-z 0-9 . _ - and not . or ..", param_hint="TENANT")
    key = new_key()
    display.err.print("the key, shown only now; callers send it as Authorization: Bearer KEY", markup=False)
    display.out.print(key, markup=False)
    display.err.print("its entry for MEDIARAY_API_KEYS (separate several by commas)", markup=False)
    display.out.print(entry_of(tenant, key), markup=False)
