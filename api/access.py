"""Who may call, under which host names, and how often: read from the settings once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from api.callers import KeyEntry, parse_keys
from api.dialects import Dialect
from api.hosts import parse_hosts
from api.rate_limits import RateLimits
from cluster.settings import Settings


@dataclass(frozen=True, slots=True)
class Access:
    """No keys: every caller is the local tenant."""

    keys: tuple[KeyEntry, ...]
    hosts: Mapping[str, Dialect]
    limits: RateLimits


def access_of(settings: Settings) -> Access:
    """Raises ValueError with a text for the operator; servers ask before they start anything."""
    keys = parse_keys(settings.api_keys)
    if settings.api_keys and not keys:
        raise ValueError("MEDIARAY_API_KEYS holds no key: leave it empty, or `mediaray keys new TENANT`")
    return Access(keys, parse_hosts(settings.hosts), RateLimits.of(settings, has_keys=bool(keys)))
