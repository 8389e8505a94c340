"""Standard Webhooks: signatures by the specification's vector, and the policy of tries as a table."""

from __future__ import annotations

import base64
import json
import time

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from cluster.delivery import Delivery, DeliveryStatus, DeliveryTry
from cluster.settings import Settings
from cluster.webhooks import (
    MAX_RETRY_AFTER_S,
    REMEMBERED_TRIES,
    SCHEDULE_S,
    Signer,
    after_try,
    next_wait_s,
    retry_after_s,
    verdict,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(bytes(range(32))).decode()
BODY = b'{"test": 2432232314}'
NOW = 1_800_000_000.0
SENT, FAILED, PENDING = DeliveryStatus.SENT, DeliveryStatus.FAILED, DeliveryStatus.PENDING


def test_signature_is_the_vector_of_the_reference_library() -> None:
    assert Signer(SECRET).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.9, BODY) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_receivers_with_either_secret_of_a_rotation_accept_and_others_do_not() -> None:
    body = json.dumps({"text": "任务"}, ensure_ascii=False).encode()
    headers = dict(Signer(f"{SECRET} {OTHER}").headers("msg_1", time.time(), body))
    assert Webhook(SECRET).verify(body, headers) == Webhook(OTHER).verify(body, headers) == {"text": "任务"}
    with pytest.raises(WebhookVerificationError):
        Webhook(bytes(32)).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)


def test_without_a_secret_nothing_is_signed() -> None:
    assert set(Signer("").headers("msg_1", NOW, BODY)) == {"webhook-id", "webhook-timestamp"}


@pytest.mark.parametrize(
    "text",
    [
        "a secret!", OTHER.removeprefix("whsec_"), "whsec_", "whsec_!!!!", f"{OTHER} x", SECRET[:-2],
        "whsec_" + base64.b64encode(bytes(65)).decode(),
    ],
    ids=["word", "no prefix", "empty", "no base64", "second one bad", "too short", "too long"],
)  # fmt: skip
def test_bad_secrets_are_refused_at_start_and_not_quoted(text: str) -> None:
    with pytest.raises(ValidationError, match="MEDIARAY_CALLBACK_SECRET") as refusal:
        Settings(callback_secret=text)
    assert text not in str(refusal.value).replace("whsec_ and", "")


def test_good_secrets_are_taken() -> None:
    secrets = f"{OTHER}  {OTHER.rstrip('=')}"
    signed = Signer(Settings(callback_secret=secrets).callback_secret).headers("msg_1", NOW, BODY)
    first, second = signed["webhook-signature"].split()
    assert first == second


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        (DeliveryTry(NOW, 0.1, 200), SENT),
        (DeliveryTry(NOW, 0.1, 204), SENT),
        (DeliveryTry(NOW, 0.1, 299), SENT),
        (DeliveryTry(NOW, 0.1, 301), FAILED),
        (DeliveryTry(NOW, 0.1, 307), FAILED),
        (DeliveryTry(NOW, 0.1, 400), FAILED),
        (DeliveryTry(NOW, 0.1, 404), FAILED),
        (DeliveryTry(NOW, 0.1, 408), PENDING),
        (DeliveryTry(NOW, 0.1, 410), FAILED),
        (DeliveryTry(NOW, 0.1, 429), PENDING),
        (DeliveryTry(NOW, 0.1, 500), PENDING),
        (DeliveryTry(NOW, 0.1, 503), PENDING),
        (DeliveryTry(NOW, 0.1, error="did not answer in time"), PENDING),
        (DeliveryTry(NOW, 0.1, error="not a public address", is_refused=True), FAILED),
    ],
    ids=lambda value: str(value.status_code or value.error) if isinstance(value, DeliveryTry) else value,
)
def test_what_an_answer_means(tried: DeliveryTry, expected: DeliveryStatus) -> None:
    assert verdict(tried) is expected


def test_the_schedule_begins_at_once_grows_and_ends_after_about_a_day() -> None:
    delivery = Delivery(1, "http://a/", "r", NOW, due_at=NOW)
    now, waits = NOW, []
    while delivery.status is PENDING:
        assert delivery.due_at is not None
        waits.append(delivery.due_at - now)
        now = delivery.due_at
        delivery = after_try(delivery, DeliveryTry(now, 0.1, 500), "msg_1", now)
    assert (len(waits), delivery.status, delivery.due_at) == (10, FAILED, None)
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert all(plain <= wait <= 1.2 * plain for plain, wait in zip(SCHEDULE_S, waits, strict=True))
    assert 20 * 3600 < now - NOW < 30 * 3600
    assert [tried.at for tried in delivery.tries][:2] == [NOW, NOW + waits[1]]


def test_a_replayed_delivery_has_the_whole_schedule_again_and_keeps_its_last_tries() -> None:
    again = Delivery(1, "http://a/", "r", NOW, due_at=NOW, num_tries=35, round_start=35)
    for _ in range(9):
        again = after_try(again, DeliveryTry(NOW, 0.1, 500), "msg_1", NOW)
    assert (again.status, again.num_tries) == (PENDING, 44)
    tries = tuple(DeliveryTry(NOW, 0.1, 500) for _ in range(REMEMBERED_TRIES))
    full = Delivery(1, "http://a/", "r", NOW, due_at=NOW, tries=tries)
    assert len(after_try(full, DeliveryTry(NOW, 0.1, 200), "msg_1", NOW).tries) == REMEMBERED_TRIES


def test_jitter_spreads_messages_that_failed_together() -> None:
    waits = {next_wait_s(3, None, f"msg_{number}") for number in range(100)}
    assert len(waits) == 100
    assert max(waits) - min(waits) > 0.15 * SCHEDULE_S[3]


@pytest.mark.parametrize(
    ("asked_s", "wait_s"),
    [(1.0, SCHEDULE_S[2]), (300.0, 300.0), (1e9, MAX_RETRY_AFTER_S)],
    ids=["shorter than the schedule", "longer", "out of bounds"],
)
def test_retry_after_can_only_lengthen_the_wait_within_bounds(asked_s: float, wait_s: float) -> None:
    found = next_wait_s(2, asked_s, "seed")
    assert found is not None
    assert wait_s <= found <= 1.2 * wait_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None), ("120", 120.0), (" 7 ", 7.0), ("-5", None), ("soon", None), ("1e3", None), ("٣", None),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0), ("Fri, 15 Jan 2021 08:00:00 GMT", 0.0), ("", None),
        ("9" * 400, 999_999_999_999.0),
    ],
    ids=str,
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text, NOW) == seconds
