"""The IndexTTS engine against a real server on this machine: what it sends, and what every answer means."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import threading
import traceback
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.audio_formats import AudioFormat
from models.audio_streams import AudioWriter, read_audio
from models.engine import (
    Cancelled,
    Endpoint,
    EngineError,
    EngineKind,
    InvalidInput,
    ModelNotReady,
    PermanentFailure,
    Resources,
    TransientFailure,
)
from models.site import Site, ready_engine
from models.speech_server import SpeechServer
from models.zoo.indextts import MODELS
from models.zoo.indextts_engines import INDEXTTS_RATE_HZ, NO_PROMPT, IndexTTSEngine
from models.zoo.indextts_inputs import SpeechInputs
from tests.run_context import LocalRunContext
from tests.web_server import Request, WebServer, web_server

KEY = "sk-a-very-secret-key"
SPEECH = "/v1/audio/speech"


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as started:
        yield started


def tone(length_s: float, rate_hz: int = 22_050) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 220 * np.arange(round(length_s * rate_hz)) / rate_hz).astype(np.float32)


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    path = tmp_path / "prompt.flac"
    with AudioWriter(path, AudioFormat.FLAC, rate_hz=22_050, channels=1) as writer:
        writer.write(tone(20)[None])
    return path


def wav(length_s: float, rate_hz: int = 22_050) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes((tone(length_s, rate_hz) * 32767).astype("<i2").tobytes())
    return content.getvalue()


def engine_at(url: str, *, silence_timeout_s: float = 60.0) -> IndexTTSEngine:
    engine = IndexTTSEngine()
    endpoint = Endpoint(url, "IndexTTS2", KEY)
    engine.load(Resources(endpoints={"indextts": endpoint}))
    engine._server = SpeechServer(endpoint, silence_timeout_s=silence_timeout_s)
    return engine


def inputs_of(prompt: Path | None, **given: Any) -> SpeechInputs:
    return SpeechInputs.model_validate(
        {"text": "Hello there.", "spk_audio_prompt": prompt and str(prompt), **given}
    )


def error_of(engine: IndexTTSEngine, prompt: Path | None, tmp_path: Path) -> EngineError:
    with pytest.raises(EngineError) as failed:
        engine.run(inputs_of(prompt), LocalRunContext(tmp_path))
    assert KEY not in str(failed.value)
    return failed.value


def test_a_cloned_voice_speaks_segment_after_segment(server: WebServer, prompt: Path, tmp_path: Path) -> None:
    server.serve(SPEECH, body=wav(1.0))
    text = "第一句话说的是天气很好。第二句话说的是花开了。"
    inputs = inputs_of(prompt, text=text, max_text_tokens_per_segment=20, language="zh", emotion_alpha=0.6)
    context = LocalRunContext(tmp_path)
    result = engine_at(server.url("/v1/")).run(inputs, context).values
    bodies = [json.loads(request.body) for request in server.seen]
    assert [body.pop("input") for body in bodies] == ["第一句话说的是天气很好。", "第二句话说的是花开了。"]
    assert bodies[0] == bodies[1]
    assert {key: bodies[0][key] for key in ("model", "response_format", "extra_params")} == {
        "model": "IndexTTS2",
        "response_format": "wav",
        "extra_params": {"lang": "zh"},
    }
    assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    assert result["duration"] == pytest.approx(2.3, abs=0.01)
    assert result["sample_rate"] == INDEXTTS_RATE_HZ
    assert result["model_info"] == {
        **{"model_name": "IndexTTS2", "is_cloned": True, "language": "zh", "notes": []},
        "emotion_source": "",
    }
    assert [report.done for report in context.reports] == [0, 12, 23, 23]


def test_the_prompt_travels_as_its_first_fifteen_seconds(
    server: WebServer, prompt: Path, tmp_path: Path
) -> None:
    server.serve(SPEECH, body=wav(0.5))
    engine_at(server.url("/v1")).run(inputs_of(prompt), LocalRunContext(tmp_path))
    kind, _, content = json.loads(server.seen[0].body)["ref_audio"].partition(",")
    assert kind == "data:audio/wav;base64"
    sent = tmp_path / "sent.wav"
    sent.write_bytes(base64.b64decode(content))
    assert read_audio(sent, rate_hz=22_050, channels=1).shape == (1, 15 * 22_050)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"emotion_text": "glad"}, {"use_emo_text": True, "emo_text": "glad"}),
        ({"emotion_vector": [0.5] + [0] * 7}, {"emo_vector": [0.5] + [0.0] * 7}),
        (
            {"emotion_vector": [0.5] + [0] * 7, "emotion_text": "sad"},
            {"use_emo_text": True, "emo_text": "sad"},
        ),
    ],
    ids=["text", "vector", "both"],
)
def test_emotions_are_sent(
    server: WebServer, prompt: Path, tmp_path: Path, given: dict[str, Any], sent: dict[str, Any]
) -> None:
    server.serve(SPEECH, body=wav(0.5))
    engine_at(server.url("/v1")).run(inputs_of(prompt, emotion_alpha=0.7, **given), LocalRunContext(tmp_path))
    assert json.loads(server.seen[0].body)["extra_params"] == {**sent, "emo_alpha": 0.7}


def test_an_emotion_prompt_is_sent(server: WebServer, prompt: Path, tmp_path: Path) -> None:
    server.serve(SPEECH, body=wav(0.5))
    inputs = inputs_of(prompt, emotion_reference=str(prompt))
    engine_at(server.url("/v1")).run(inputs, LocalRunContext(tmp_path))
    body = json.loads(server.seen[0].body)
    assert body["extra_params"] == {"emo_audio": body["ref_audio"], "emo_alpha": 1.0}


def test_without_a_prompt_nothing_can_be_cloned(tmp_path: Path) -> None:
    refused = error_of(engine_at("http://127.0.0.1:9/v1"), None, tmp_path)
    assert isinstance(refused, InvalidInput)
    assert str(refused) == NO_PROMPT == "缺少必需参数: spk_audio_prompt (说话人参考音频)"


@pytest.mark.parametrize(("length_s", "level", "words"), [(0.01, 1, "0.01 s of sound"), (2, 0, "silent")])
def test_a_prompt_without_a_voice_is_refused(
    tmp_path: Path, length_s: float, level: float, words: str
) -> None:
    path = tmp_path / "prompt.wav"
    with AudioWriter(path, AudioFormat.WAV, rate_hz=22_050, channels=1) as writer:
        writer.write(level * tone(length_s)[None])
    refused = error_of(engine_at("http://127.0.0.1:9/v1"), path, tmp_path)
    assert isinstance(refused, InvalidInput)
    assert words in str(refused)


def test_a_server_that_is_down_is_tried_again_later(server: WebServer, prompt: Path, tmp_path: Path) -> None:
    error = error_of(engine_at("http://127.0.0.1:9/v1"), prompt, tmp_path)
    assert isinstance(error, TransientFailure)
    assert "MEDIARAY_INDEXTTS_URL does not answer" in str(error)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, b'{"error": {"message": "text too long"}}', InvalidInput, "text too long"),
        (422, b'{"detail": "no such field"}', InvalidInput, "no such field"),
        (
            401,
            f"key {KEY} unknown".encode(),
            PermanentFailure,
            r"MEDIARAY_INDEXTTS_API_KEY \(401: key \*\*\*",
        ),
        (404, b'{"message": "no model"}', PermanentFailure, "404: no model; see MEDIARAY_INDEXTTS_URL"),
        (302, b"", PermanentFailure, "302: no reason given"),
        (429, b"busy", TransientFailure, "429: busy"),
        (500, b"x" * 100_000, TransientFailure, "500: x{500}$"),
        (503, b'{"error": null}', TransientFailure, "503"),
        (200, b"<html>hello</html>", PermanentFailure, "answered what is no sound"),
        (200, b"", PermanentFailure, "answered what is no sound"),
        (200, wav(0), PermanentFailure, "answered"),
    ],
    ids=lambda value: value if isinstance(value, int) else "",
)
def test_every_answer_has_a_meaning(
    server: WebServer, prompt: Path, status: int, body: bytes, kind: type, words: str
) -> None:
    server.serve(SPEECH, status, body)
    error = error_of(engine_at(server.url("/v1")), prompt, prompt.parent)
    assert type(error) is kind
    assert re.search(words, str(error))


def test_a_key_that_no_header_can_carry_is_in_no_error(server: WebServer, tmp_path: Path) -> None:
    speaker = SpeechServer(Endpoint(server.url("/v1"), "m", f"{KEY}\n"))
    with pytest.raises(TransientFailure, match="LocalProtocolError") as caught:
        speaker.speak("Hello.", {}, tmp_path / "part", rate_hz=16_000, check=lambda: None)
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("num_before", [485, 490, 495])
def test_a_key_at_the_cut_of_a_reason_is_masked_whole(
    server: WebServer, prompt: Path, tmp_path: Path, num_before: int
) -> None:
    server.serve(SPEECH, 401, f"{'x' * num_before}{KEY}".encode())
    error = error_of(engine_at(server.url("/v1")), prompt, tmp_path)
    assert KEY[:4] not in str(error)


def test_sound_that_is_packed_although_it_was_not_asked_for_is_not_unpacked(
    server: WebServer, prompt: Path, tmp_path: Path
) -> None:
    server.serve(SPEECH, body=gzip.compress(wav(0.5)), Content_Encoding="gzip")
    error = error_of(engine_at(server.url("/v1")), prompt, tmp_path)
    assert server.seen[0].headers["Accept-Encoding"] == "identity"
    assert isinstance(error, PermanentFailure)


def test_a_slow_server_does_not_hold_a_cancelled_task(
    server: WebServer, prompt: Path, tmp_path: Path
) -> None:
    context = LocalRunContext(tmp_path)
    asked = threading.Event()

    def hang(request: Request) -> None:
        asked.set()
        context.cancel()
        request.wait_for_the_end()

    server.answers[SPEECH] = hang
    with pytest.raises(Cancelled):
        engine_at(server.url("/v1")).run(inputs_of(prompt), context)
    assert asked.is_set()


def test_a_server_that_falls_silent_is_given_up(server: WebServer, prompt: Path, tmp_path: Path) -> None:
    def half(request: Request) -> None:
        request.head(200)
        request.wfile.write(wav(1.0)[:2000])
        request.wait_for_the_end()

    server.answers[SPEECH] = half
    error = error_of(engine_at(server.url("/v1"), silence_timeout_s=0.3), prompt, tmp_path)
    assert isinstance(error, TransientFailure)
    assert "does not answer: ReadTimeout" in str(error)


def test_an_answer_without_end_is_cut(
    server: WebServer, prompt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.speech_server.MAX_ANSWER_BYTES", 10_000)
    server.serve(SPEECH, body=wav(1.0))
    error = error_of(engine_at(server.url("/v1")), prompt, tmp_path)
    assert isinstance(error, PermanentFailure)
    assert "more than 10000 bytes" in str(error)


def test_a_site_with_a_server_uses_it_and_one_without_says_how(tmp_path: Path) -> None:
    site = Site(endpoints={"indextts": Endpoint("http://127.0.0.1:9/v1")})
    assert ready_engine(MODELS[0], site).name == "indextts"
    assert ready_engine(MODELS[0], Site()).kind is EngineKind.EMBEDDED
    only_full = [engine for engine in MODELS[0].engines if engine.name == "indextts"]
    with pytest.raises(ModelNotReady, match="MEDIARAY_INDEXTTS_URL"):
        ready_engine(replace(MODELS[0], engines=tuple(only_full)), Site())
