from __future__ import annotations

import email.utils
import gzip
import socket
import threading
import time
import traceback

import pytest

from models.chat import MAX_ANSWER_BYTES, Chat, Patience
from models.engine import Cancelled, ModelNotReady, PermanentFailure, TransientFailure
from tests.chat_server import chat_server, completion

KEY = "sk-very-secret-key"
QUICK = Patience(connect_s=1, answer_s=5, tries=3, pause_s=0.01, max_retry_after_s=2)
HELLO = [{"role": "user", "content": "hello"}]


def never() -> None:
    """Nobody cancels."""


def ask(url, *, key=KEY, patience=QUICK, check=never, seed=0):
    return Chat(url, "small", key, patience).ask(HELLO, seed=seed, check=check)


def in_turn(*replies):
    """Replies one after another, the last one for ever."""
    left = list(replies)
    return lambda _request: left.pop(0) if len(left) > 1 else left[0]


def test_a_question_names_model_key_and_seed():
    with chat_server(lambda _: completion("fine")) as server:
        assert ask(server.url, seed=7) == "fine"
    (request,), (headers,) = server.requests, server.headers
    assert (request["model"], request["messages"], request["seed"]) == ("small", HELLO, 7)
    assert (request["temperature"], request["response_format"]) == (0, {"type": "json_object"})
    assert headers["authorization"] == f"Bearer {KEY}"


def test_without_a_key_none_is_sent():
    with chat_server(lambda _: completion("fine")) as server:
        ask(server.url, key="")
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_what_may_pass_is_tried_again(status):
    with chat_server(in_turn((status, {}, b"{}"), completion("fine"))) as server:
        assert ask(server.url) == "fine"
    assert len(server.requests) == 2


def test_what_does_not_pass_ends_as_transient_and_names_the_setting():
    with chat_server(lambda _: (503, {}, b"busy")) as server, pytest.raises(TransientFailure) as caught:
        ask(server.url)
    assert "MEDIARAY_CHAT_URL" in str(caught.value)
    assert "503" in str(caught.value)
    assert len(server.requests) == QUICK.tries


def test_a_server_that_is_down_is_transient():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TransientFailure, match="MEDIARAY_CHAT_URL cannot be reached"):
        ask(f"http://127.0.0.1:{port}/v1")


def test_a_slow_server_is_given_up_in_bounds():
    with chat_server(lambda _: completion("late")) as server:
        server.hold = threading.Event()
        started_s = time.monotonic()
        with pytest.raises(TransientFailure, match=r"did not answer in 0\.3 s"):
            ask(server.url, patience=Patience(connect_s=1, answer_s=0.3, tries=2, pause_s=0.01))
        assert time.monotonic() - started_s < 5
    assert len(server.requests) == 2


def test_a_question_that_was_not_answered_in_time_is_asked_again():
    is_over = threading.Event()

    def reply(_request):
        if len(server.requests) == 1:
            is_over.wait()
        return completion("fine")

    with chat_server(reply) as server:
        try:
            assert ask(server.url, patience=Patience(answer_s=2, pause_s=0.01)) == "fine"
        finally:
            is_over.set()
    assert len(server.requests) == 2


def test_a_cancel_ends_the_wait_for_the_next_try():
    checks = iter(range(10))

    def check():
        if server.asked.is_set() and next(checks) == 9:  # by then the answer has long come
            raise Cancelled

    reply = 503, {"Retry-After": "100"}, b"{}"
    with chat_server(lambda _: reply) as server, pytest.raises(Cancelled):
        ask(server.url, patience=Patience(), check=check)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "setting"),
    [
        (401, "MEDIARAY_CHAT_API_KEY"),
        (403, "MEDIARAY_CHAT_API_KEY"),
        (404, "MEDIARAY_CHAT_MODEL"),
        (400, "MEDIARAY_CHAT_URL"),
    ],
)
def test_a_refusal_is_permanent_names_the_setting_and_never_the_key(status, setting):
    said = f'{{"error": {{"message": "no access for {KEY}"}}}}'.encode()
    with chat_server(lambda _: (status, {}, said)) as server, pytest.raises(PermanentFailure) as caught:
        ask(server.url)
    assert setting in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert len(server.requests) == 1


def test_retry_after_is_respected():
    with chat_server(in_turn((429, {"Retry-After": "1"}, b"{}"), completion("fine"))) as server:
        started_s = time.monotonic()
        assert ask(server.url) == "fine"
    assert time.monotonic() - started_s >= 1


@pytest.mark.parametrize(
    "wait",
    ["\u00b2", "-1", "soon", "Mon, 01 Jan 0001 00:00:00 -0000", "9" * 30 + " GMT"],
    ids=["superscript", "negative", "word", "first year", "digits"],
)
def test_a_retry_after_that_cannot_be_read_is_passed_over(wait):
    replies = in_turn((429, {"Retry-After": wait}, b"{}"), completion("fine"))
    with chat_server(replies) as server:
        assert ask(server.url) == "fine"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status):
    with chat_server(lambda _: completion("fine")) as other:
        elsewhere = {"Location": f"{other.url}/chat/completions"}
        with (
            chat_server(lambda _: (status, elsewhere, b"")) as server,
            pytest.raises(PermanentFailure, match=r"redirects to another address.* MEDIARAY_CHAT_URL"),
        ):
            ask(server.url)
    assert other.requests == []


@pytest.mark.parametrize("status", [200, 400, 503])
def test_an_answer_without_end_is_given_up(status):
    body = completion("x" * MAX_ANSWER_BYTES)[2]
    with (
        chat_server(lambda _: (status, {}, body)) as server,
        pytest.raises(PermanentFailure, match="MEDIARAY_CHAT_URL answers more than 4194304 bytes"),
    ):
        ask(server.url)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_is_never_unpacked(status):
    body = gzip.compress(completion("x" * MAX_ANSWER_BYTES)[2])
    with (
        chat_server(lambda _: (status, {"Content-Encoding": "gzip"}, body)) as server,
        pytest.raises(PermanentFailure, match="MEDIARAY_CHAT_URL packs its answers"),
    ):
        ask(server.url)
    assert server.headers[0]["accept-encoding"] == "identity"


def test_a_long_answer_below_the_bound_is_read_whole():
    with chat_server(lambda _: completion("x" * 4_000_000)) as server:
        assert len(ask(server.url)) == 4_000_000


@pytest.mark.parametrize(
    "wait", ["360000", email.utils.formatdate(time.time() + 360_000, usegmt=True)], ids=["seconds", "date"]
)
def test_a_longer_retry_after_than_allowed_is_left_to_the_queue(wait):
    with (
        chat_server(lambda _: (429, {"Retry-After": wait}, b"{}")) as server,
        pytest.raises(TransientFailure, match=r"busy and asks to come back in 3\d{5} s"),
    ):
        ask(server.url)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        (200, {"Content-Type": "text/html"}, b"<html>hello</html>"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"answer": 42}'),
        completion(None),
    ],
    ids=["html", "no choice", "other json", "no content"],
)
def test_what_is_no_completion_is_an_empty_answer(reply):
    with chat_server(lambda _: reply) as server:
        assert ask(server.url) == ""


def test_parameters_that_a_server_refuses_are_left_out_from_then_on():
    def reply(request):
        for name in ("seed", "temperature"):
            if name in request:
                return 400, {}, f'{{"error": {{"message": "Unsupported value: {name}"}}}}'.encode()
        return completion("fine")

    with chat_server(reply) as server:
        chat = Chat(server.url, "small", KEY, QUICK)
        assert [chat.ask(HELLO, seed=0, check=never) for _ in range(2)] == ["fine", "fine"]
    assert len(server.requests) == 4
    assert "response_format" in server.requests[-1]


def test_a_cancel_during_the_answer_closes_the_connection_within_a_second():
    cancelled = threading.Event()

    def check():
        if cancelled.is_set():
            raise Cancelled

    with chat_server(lambda _: completion("late")) as server:
        server.hold = threading.Event()
        waiter = threading.Thread(target=lambda: (server.asked.wait(), cancelled.set()))
        waiter.start()
        with pytest.raises(Cancelled):
            ask(server.url, check=check)
        waiter.join()
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 1


@pytest.mark.parametrize("url", ["chat.example.org/v1", "ftp://host/v1", "http://", "file:///etc/passwd"])
def test_what_is_no_web_url_is_said_before_anything_is_asked(url):
    with pytest.raises(ModelNotReady, match="MEDIARAY_CHAT_URL"):
        Chat(url, "small", KEY)
