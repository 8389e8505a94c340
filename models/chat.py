"""A chat server with an OpenAI-compatible API: one question, one answer, and what its failures mean.

The call runs on an event loop of its own, so that a cancel or the deadline of a task closes the connection
at once. Nothing of an answer is trusted; who asks checks it. It is read up to 4 MiB and never unpacked, and
no redirect is followed, as that would hand subtitles and key to another server. The key is in no message.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
import openai
from pydantic import BaseModel, ValidationError

from models.errors import ModelNotReady, PermanentFailure, TransientFailure

Message = dict[str, str]

MAX_ANSWER_BYTES = 4 << 20
_CHECK_EVERY_S = 0.1
_SETTING_OF_STATUS = {
    **dict.fromkeys(
        (301, 302, 303, 307, 308),
        "the chat server redirects to another address, which is not followed: set MEDIARAY_CHAT_URL to it",
    ),
    401: "MEDIARAY_CHAT_API_KEY is refused by the chat server",
    403: "MEDIARAY_CHAT_API_KEY may not use the chat server or its model MEDIARAY_CHAT_MODEL",
    404: "the chat server knows no such path or model: check MEDIARAY_CHAT_URL (it ends with /v1 on most"
    " servers) and MEDIARAY_CHAT_MODEL",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, and how often to ask again where a failure may pass.

    A server that restarts has 21 s for it. The answers to earlier questions are lost with the attempt.
    """

    connect_s: float = 5.0
    answer_s: float = 180.0
    tries: int = 4
    pause_s: float = 3.0
    max_retry_after_s: float = 120.0


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    """The part of a completion that is read."""

    choices: list[_Choice]


class Chat:
    """Asks one server. Safe to use from several threads: every question has a connection of its own."""

    def __init__(self, url: str, model: str, api_key: str, patience: Patience | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ModelNotReady("MEDIARAY_CHAT_URL is no http(s) URL")
        self.model = model
        self._url = url
        self._api_key = api_key
        self._patience = patience or Patience()
        self._refused: set[str] = set()

    def ask(self, messages: Sequence[Message], *, seed: int, check: Callable[[], None]) -> str:
        """The text of the answer; empty where the server answers with something else than a chat server does.

        `check` is called ten times a second and may raise to stop. Raises TransientFailure for a server that
        is down, slow or busy, PermanentFailure for one that refuses the key, the model or the request.
        """
        return asyncio.run(_watched(self._tried(messages, seed), check))

    async def _tried(self, messages: Sequence[Message], seed: int) -> str:
        for number in range(1, self._patience.tries + 1):
            waits_s = self._patience.pause_s * 2 ** (number - 1)
            try:
                return await self._once(messages, seed)
            except (openai.APITimeoutError, TimeoutError):
                problem = f"did not answer in {self._patience.answer_s:g} s"
            except openai.APIStatusError as error:
                if error.status_code < 500 and error.status_code not in {408, 409, 425, 429}:
                    raise self._refusal(error) from None  # the server's words may repeat the key
                waits_s = self._asked_wait_s(error, waits_s)
                problem = f"answers with status {error.status_code}"
            except openai.APIConnectionError:
                problem = "cannot be reached"
            if number < self._patience.tries:
                await asyncio.sleep(waits_s)
        raise TransientFailure(f"the chat server of MEDIARAY_CHAT_URL {problem}; is it running?")

    async def _once(self, messages: Sequence[Message], seed: int) -> str:
        """One answer; what the server says it does not take is left out for good."""
        options = {"temperature": 0, "seed": seed, "response_format": {"type": "json_object"}}
        given = {name: value for name, value in options.items() if name not in self._refused}
        try:
            return await self._call(list(messages), given)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            named = {name for name in given if name in str(error)}
            if not named:
                raise
            self._refused |= named
        return await self._once(messages, seed)

    async def _call(self, messages: list[Message], options: dict[str, Any]) -> str:
        async with asyncio.timeout(self._patience.answer_s), self._client() as client:
            request: Any = {"model": self.model, "messages": messages, **options}
            if not self._api_key:
                request["extra_headers"] = {"Authorization": openai.Omit()}
            raw = await client.chat.completions.with_raw_response.create(**request)
        try:
            completion = _Completion.model_validate_json(raw.http_response.content)
        except ValidationError:
            return ""
        return (completion.choices[0].message.content or "") if completion.choices else ""

    def _client(self) -> openai.AsyncOpenAI:
        seconds = openai.Timeout(self._patience.answer_s, connect=self._patience.connect_s)
        return openai.AsyncOpenAI(
            base_url=self._url,
            api_key=self._api_key or "none",
            timeout=seconds,
            max_retries=0,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, event_hooks={"response": [_bound]}
            ),
        )

    def _asked_wait_s(self, error: openai.APIStatusError, otherwise_s: float) -> float:
        """Seconds until the next try; raises TransientFailure where the server asks for too many."""
        asked_s = _retry_after_s(error.response.headers.get("retry-after", ""))
        if asked_s is None:
            return otherwise_s
        if asked_s > self._patience.max_retry_after_s:
            text = f"the chat server of MEDIARAY_CHAT_URL is busy and asks to come back in {asked_s:.0f} s"
            raise TransientFailure(text) from None  # the server's words may repeat the key
        return asked_s

    def _refusal(self, error: openai.APIStatusError) -> PermanentFailure:
        told = _SETTING_OF_STATUS.get(error.status_code)
        if told is None:
            said = error.message.replace(self._api_key, "…") if self._api_key else error.message
            told = f"the chat server of MEDIARAY_CHAT_URL refuses the request: {said[:300]}"
        return PermanentFailure(told)


class _Bounded(httpx2.AsyncByteStream):
    """A body as it comes; raises PermanentFailure once it is longer than any answer."""

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        num_bytes = 0
        async for chunk in self._body:
            num_bytes += len(chunk)
            if num_bytes > MAX_ANSWER_BYTES:
                raise PermanentFailure(
                    f"the chat server of MEDIARAY_CHAT_URL answers more than {MAX_ANSWER_BYTES} bytes"
                )
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


async def _bound(response: httpx2.Response) -> None:
    """Puts the bound on the body of any answer, before it is read; a packed one would not be bound by it."""
    if response.headers.get("content-encoding", "").strip().lower() not in {"", "identity"}:
        raise PermanentFailure(
            "the chat server of MEDIARAY_CHAT_URL packs its answers although Accept-Encoding is identity"
        )
    response.stream = _Bounded(cast("httpx2.AsyncByteStream", response.stream))  # an async client's


async def _watched(answer: Coroutine[Any, Any, str], check: Callable[[], None]) -> str:
    """The answer, unless `check` raises first; the connection is closed then."""
    task = asyncio.create_task(answer)
    try:
        while not (await asyncio.wait({task}, timeout=_CHECK_EVERY_S))[0]:
            check()
        return task.result()
    finally:
        task.cancel()


def _retry_after_s(text: str) -> float | None:
    """Seconds of a Retry-After header, which may be a date; None where it is absent or unreadable."""
    if re.fullmatch(r"\s*[0-9]+\s*", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
