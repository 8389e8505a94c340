"""A server of the operator's that speaks: the OpenAI speech API as vLLM-Omni serves IndexTTS with it.

Fields: vllm-project/vllm-omni, recipes/IndexTeam (2026-08). The answer is the sound itself.
No error repeats what the HTTP library or the server said of the key.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from models.audio_streams import read_audio
from models.disk import disk_errors
from models.engine import Endpoint, EngineError, InvalidInput, PermanentFailure, TransientFailure

SILENCE_TIMEOUT_S = 600.0  # the whole of a segment is computed before the first byte comes
MAX_ANSWER_BYTES = 256 << 20
_CONNECT_TIMEOUT_S = 10.0
_CHECK_S = 0.2
_MAX_REASON_CHARS = 500
_MAX_REASON_BYTES = 64 << 10
_URL_SETTING, _KEY_SETTING, _MODEL_SETTING = (
    f"MEDIARAY_INDEXTTS_{name}" for name in ("URL", "API_KEY", "MODEL")
)


class SpeechServer:
    """Asks `endpoint` for one segment at a time. `silence_timeout_s` is how long it may say nothing."""

    def __init__(self, endpoint: Endpoint, *, silence_timeout_s: float = SILENCE_TIMEOUT_S) -> None:
        self._endpoint = endpoint
        self._url = f"{endpoint.url.rstrip('/')}/audio/speech"
        self._timeout = httpx.Timeout(silence_timeout_s, connect=_CONNECT_TIMEOUT_S)
        self._tls = httpx.create_ssl_context()

    def speak(
        self, text: str, voice: Mapping[str, Any], part: Path, *, rate_hz: int, check: Callable[[], None]
    ) -> np.ndarray:
        """(L,) float32 of what the server makes of `text`; `part` is a file to be used on the way.

        `voice` has the fields of the API that say how it should sound. What `check` raises ends the request
        within 0.2 s. Raises TransientFailure, PermanentFailure and InvalidInput, never with the key.
        """
        body = {"model": self._endpoint.model, "input": text, "response_format": "wav", **voice}
        with disk_errors():
            asyncio.run(self._stopped_by(check, self._fetch(body, part)))
            return self._sound(part, rate_hz, check)

    @staticmethod
    async def _stopped_by(check: Callable[[], None], work: Any) -> None:
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                check()
                await asyncio.wait({task}, timeout=_CHECK_S)
        finally:
            task.cancel()
        await task

    async def _fetch(self, body: Mapping[str, Any], part: Path) -> None:
        key = self._endpoint.api_key
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            async with (
                httpx.AsyncClient(timeout=self._timeout, verify=self._tls) as client,
                client.stream("POST", self._url, json=body, headers=headers) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise self._refusal(response.status_code, await _beginning(response.aiter_raw()))
                await _save(response.aiter_raw(), part)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            text = f"the speech server of {_URL_SETTING} does not answer: {type(error).__name__}"
            raise TransientFailure(text) from None  # the library's words may repeat the key

    def _refusal(self, status: int, answer: bytes) -> EngineError:
        """What an answer other than 200 means."""
        told = self._without_key(_reason(answer))[:_MAX_REASON_CHARS] or "no reason given"
        if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in {408, 409, 425, 429}:
            return TransientFailure(f"the speech server of {_URL_SETTING} answered {status}: {told}")
        if status in {400, 413, 422}:
            return InvalidInput(f"the speech server refuses the request: {told}")
        if status in {401, 403}:
            return PermanentFailure(f"the speech server refuses the key: {_KEY_SETTING} ({status}: {told})")
        return PermanentFailure(
            f"the speech server answered {status}: {told}; see {_URL_SETTING} and {_MODEL_SETTING}"
        )

    def _without_key(self, text: str) -> str:
        key = self._endpoint.api_key
        return text.replace(key, "***") if key else text

    @staticmethod
    def _sound(part: Path, rate_hz: int, check: Callable[[], None]) -> np.ndarray:
        try:
            samples = read_audio(part, rate_hz=rate_hz, channels=1, check=check)[0]
        except InvalidInput as error:
            raise PermanentFailure(
                f"the speech server of {_URL_SETTING} answered what is no sound"
            ) from error
        if not len(samples):
            raise PermanentFailure(f"the speech server of {_URL_SETTING} answered no sound")
        return samples


def data_url(wav: Path) -> str:
    """A WAV file as the API takes reference recordings."""
    return "data:audio/wav;base64," + base64.b64encode(wav.read_bytes()).decode("ascii")


async def _save(chunks: AsyncIterator[bytes], part: Path) -> None:
    written = 0
    with part.open("wb") as file:
        async for chunk in chunks:
            written += len(chunk)
            if written > MAX_ANSWER_BYTES:
                raise PermanentFailure(f"the speech server answered more than {MAX_ANSWER_BYTES} bytes")
            file.write(chunk)


async def _beginning(chunks: AsyncIterator[bytes]) -> bytes:
    read = b""
    async for chunk in chunks:
        read += chunk
        if len(read) > _MAX_REASON_BYTES:
            break
    return read


def _reason(answer: bytes) -> str:
    """The message of an error answer: of OpenAI's and FastAPI's forms, else its text."""
    text = answer.decode("utf-8", "replace").strip()
    try:
        told = json.loads(text)
    except ValueError:
        told = text
    for name in ("error", "message", "detail"):
        if isinstance(told, dict) and name in told:
            told = told[name]
    return str(told)
