"""Who is calling: API keys, and the tenant that each of them opens."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from api.errors import Unauthorized

TENANT = "local"
"""Whose tasks they are where the server has no keys: it then listens on loopback only."""
KEY_NEEDED = "a valid API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY"
_ENTRY = re.compile(r"([A-Za-z0-9._-]{1,64}):sha256:([0-9a-fA-F]{64})")
_SCOPE_TENANT = "mediaray.tenant"


@dataclass(frozen=True, slots=True)
class Caller:
    """Tasks and files belong to a tenant; all keys of a tenant see the same ones."""

    tenant: str


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key as the server knows it: by its sha256.

    Plain sha256 is enough: keys are 32 random bytes, so there is nothing to guess that a slow or salted
    hash would protect, and every request pays for it.
    """

    tenant: str
    digest: bytes


def parse_keys(text: str) -> tuple[KeyEntry, ...]:
    """The entries of MEDIARAY_API_KEYS: `tenant:sha256:HEX`, separated by commas.

    Raises ValueError, which never repeats what was given: it may be a key.
    """
    given = [part.strip() for part in text.split(",") if part.strip()]
    entries = tuple(_entry(number, part) for number, part in enumerate(given, start=1))
    if len({entry.digest for entry in entries}) < len(entries):
        raise ValueError("MEDIARAY_API_KEYS: the same key is given twice")
    return entries


def _entry(number: int, text: str) -> KeyEntry:
    match = _ENTRY.fullmatch(text)
    if match is None or match[1] in {".", ".."}:
        raise ValueError(
            f"MEDIARAY_API_KEYS: entry {number} is not TENANT:sha256:HASH (1-64 of A-Z a-z 0-9 . _ - and 64"
            " hexadecimal digits). Keys themselves are not kept here: `mediaray keys new TENANT` makes a key"
            " and prints its entry"
        )
    return KeyEntry(match[1], bytes.fromhex(match[2]))


def tenant_of(headers: Headers, keys: Iterable[KeyEntry]) -> str | None:
    """The tenant whose key the request carries. Takes the same time for every wrong key."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    digest = hashlib.sha256(given.encode()).digest()
    found = [key.tenant for key in keys if hmac.compare_digest(digest, key.digest)]
    return found[0] if found else None


def let_in(scope: Scope, tenant: str) -> None:
    """Remember for `caller` whose request this is."""
    scope[_SCOPE_TENANT] = tenant


def caller(request: Request) -> Caller:
    """The caller of an authenticated request; raises Unauthorized for one that carries no key."""
    known = known_caller(request)
    if known is None:
        raise Unauthorized(KEY_NEEDED)
    return known


def known_caller(request: Request) -> Caller | None:
    """The caller; None for one without a key on an open path."""
    tenant = request.scope.get(_SCOPE_TENANT)
    return None if tenant is None else Caller(tenant)


def source_of(scope: Scope, *, has_keys: bool) -> str:
    """Whose requests are counted together: those of a tenant, or without keys those of an address."""
    if has_keys:
        return f"tenant:{scope.get(_SCOPE_TENANT)}"
    address = (scope.get("client") or ("",))[0]
    return f"address:{address[:64]}"
