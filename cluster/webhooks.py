"""Standard Webhooks 1.0: when a callback is tried, which answers end it, and how it is signed. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from standardwebhooks import Webhook

from cluster.delivery import Delivery, DeliveryStatus, DeliveryTry
from cluster.task import Task

SCHEDULE_S = (0.0, 5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 43_200.0)
"""Seconds to wait before each try: ten tries within about a day."""
MAX_RETRY_AFTER_S = 21_600.0
REMEMBERED_TRIES = 20
_JITTER = 0.2
_PASSING_4XX = frozenset({408, 429})
_SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix that marks secrets, not one of them
_MIN_SECRET_BYTES, _MAX_SECRET_BYTES = 24, 64


def after_try(delivery: Delivery, tried: DeliveryTry, message: str, now: float) -> Delivery:
    """The delivery after one more try: sent, failed for good, or due again."""
    num_tries = delivery.num_tries + 1
    status = verdict(tried)
    wait_s = next_wait_s(num_tries - delivery.round_start, tried.retry_after_s, f"{message}:{num_tries}")
    if wait_s is None and status is DeliveryStatus.PENDING:
        status = DeliveryStatus.FAILED
    return replace(
        delivery,
        status=status,
        due_at=now + wait_s if wait_s is not None and status is DeliveryStatus.PENDING else None,
        num_tries=num_tries,
        tries=(*delivery.tries, tried)[-REMEMBERED_TRIES:],
    )


def verdict(tried: DeliveryTry) -> DeliveryStatus:
    """What one try means by itself; PENDING: try again while the schedule lasts."""
    code = tried.status_code
    if code is None:
        return DeliveryStatus.FAILED if tried.is_refused else DeliveryStatus.PENDING
    if 200 <= code < 300:
        return DeliveryStatus.SENT
    return DeliveryStatus.PENDING if code >= 500 or code in _PASSING_4XX else DeliveryStatus.FAILED


def next_wait_s(num_tries: int, retry_after_s: float | None, seed: str) -> float | None:
    """Seconds from the `num_tries`-th try to the next; None when the schedule is over.

    `seed` makes the jitter, which only lengthens the wait; a receiver's Retry-After can, too.
    """
    if num_tries >= len(SCHEDULE_S):
        return None
    spread = zlib.crc32(seed.encode()) / 2**32
    wait_s = SCHEDULE_S[num_tries] * (1 + _JITTER * spread)
    return max(wait_s, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))


def retry_after_s(text: str | None, now: float) -> float | None:
    """The header Retry-After, seconds or a date, as seconds from `now`; None where it says nothing."""
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def message_id(task: Task, number: int) -> str:
    """The `webhook-id` of a task's delivery: the same for every try of it and for no other message.

    Not made of the caller's own letters: a full stop in it would blur what is signed. A task id that is used
    again, once the first task's record is gone, gives other messages.
    """
    named = hashlib.sha256(f"{task.id}\n{task.created_at!r}\n{number}".encode())
    return f"msg_{named.hexdigest()[:32]}"


class Signer:
    """Signs messages with every secret given, so that receivers can change theirs one after another."""

    def __init__(self, secrets: str) -> None:
        self._keys = [Webhook(secret) for secret in secrets.split()]

    def headers(self, message: str, at: float, body: bytes) -> Mapping[str, str]:
        """The `webhook-*` headers of one try at `at`; without a secret there is no signature."""
        headers = {"webhook-id": message, "webhook-timestamp": str(int(at))}
        if self._keys:
            when, text = datetime.fromtimestamp(int(at), UTC), body.decode()
            signatures = [key.sign(message, when, text) for key in self._keys]
            headers["webhook-signature"] = " ".join(signatures)
        return headers


def check_secrets(text: str) -> None:
    """Raises ValueError, without quoting it, for a MEDIARAY_CALLBACK_SECRET against the standard."""
    if not all(map(_is_secret, text.split())):
        raise ValueError(
            "MEDIARAY_CALLBACK_SECRET: each secret is whsec_ and the base64 of"
            f" {_MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES} random bytes; several are separated by spaces"
        )


def _is_secret(text: str) -> bool:
    if not text.startswith(_SECRET_PREFIX):
        return False
    encoded = text.removeprefix(_SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return _MIN_SECRET_BYTES <= len(key) <= _MAX_SECRET_BYTES
