"""Who is calling: the seam between API keys and tenants."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request

from api.errors import Unauthorized

TENANT = "local"


@dataclass(frozen=True, slots=True)
class Caller:
    """Tasks and files belong to a tenant; all keys of this server map to one."""

    tenant: str


_LOCAL = Caller(TENANT)


def parse_keys(text: str) -> tuple[bytes, ...]:
    """The keys of MEDIARAY_API_KEYS, separated by commas."""
    return tuple(key.strip().encode() for key in text.split(",") if key.strip())


def presents_key(headers: Headers, keys: tuple[bytes, ...]) -> bool:
    """True when the request carries one of `keys`. Takes the same time for every wrong key."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    found = [hmac.compare_digest(given.encode(), key) for key in keys]
    return any(found)


def caller(request: Request) -> Caller:
    """The caller of an authenticated request; raises Unauthorized for one that carries no key."""
    if request.scope.get("mediaray.anonymous"):
        raise Unauthorized("a valid API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
    return _LOCAL
