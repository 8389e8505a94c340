"""faster_whisper.transcribe_audio: speech to text with times, streamed, by Whisper (arXiv 2212.04356).

Both engines are faster-whisper 1.2.1 on CTranslate2; they differ in where the model comes from. Spans of at
most 30 s, cut where Silero VAD hears nobody, are decoded by beam search, each without the text of the one
before: measured on samples/conversation.wav that is faster and makes no more mistakes than conditioning on
it, and the same input always gives the same text, because nothing is sampled.

Memory beyond the model, whatever the length of the file: one window of 300 s of sound (19 MB), what the VAD
and the features make of it, and one batch of spans; segments are written to disk as they come.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.audio_streams import decode_audio, of_field, stated_length_s
from models.disk import disk_errors
from models.engine import (
    Engine,
    EngineKind,
    EngineSpec,
    InputFile,
    InvalidInput,
    MediaKind,
    ModelSpec,
    Resources,
    Result,
    RunContext,
)
from models.media import MediaInfo
from models.speech_windows import RATE_HZ, quiet_spans, speech_spans, spoken_s, windows
from models.transcript_writer import HeardSegment, HeardWord, TranscriptWriter, placed
from models.whisper_models import LoadedModel, LoadedModels, OneAtATime, knows, told
from models.whisper_sizes import (
    BASE_FILES,
    FOLDER,
    LANGUAGES,
    InstalledSizes,
    ModelSize,
    WheelBase,
    WhisperSource,
    Wish,
    can_translate,
    canonical,
    speaks,
)

WINDOW_S = 300.0
_SEARCH_S = 30.0  # the end of a window is cut in its last so many seconds
_SPAN_S = 30.0  # what the network sees at once
_BATCH = {"cpu": 1, "cuda": 12}  # spans at a time; on a CPU more measured no faster, and take memory
_SEEK_HZ = 100  # faster-whisper counts in frames of the spectrum
_MAX_PROMPT_CHARS = 2000  # the model sees the last 223 tokens
_NO_SPEECH_PROB, _MIN_LOGPROB = 0.6, -1.0  # of openai/whisper: above the one and below the other is silence
_MAX_COMPRESSION = 2.4  # of openai/whisper: text that packs better is a loop
_UNHEARD_S = 1.0  # of speech after the last word: less are the ends of words, which come out early
_SURE_LOGPROB = -0.7  # of what was passed over at first: speech had -0.33 and -0.37, music -0.83 and less
_NGRAM = 4  # what is decoded again after a loop may not repeat so many tokens
_SIMPLIFIED_PROMPT = "以下是普通话的句子。"  # without it Whisper writes Mandarin in traditional characters

Item = TypeVar("Item")


class SpeechTask(StrEnum):
    """What to write: the language that is heard, or English."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


class TranscribeInputs(BaseModel):
    """What to listen to, and how."""

    model_config = ConfigDict(extra="forbid")

    audio_path: Annotated[str, InputFile(MediaKind.AUDIO)] = Field(
        min_length=1, description="Audio, or video with sound: an object key, s3:// or http(s) URL."
    )
    language: str | None = Field(
        None, description="The language that is spoken, as an ISO 639 code such as en or zh; null: detected."
    )
    model_size: ModelSize | None = Field(None, description="The Whisper model; null: the best installed.")
    task: SpeechTask = Field(SpeechTask.TRANSCRIBE, description="translate writes English.")
    word_timestamps: bool = Field(True, description="Also give the time of each word.")
    vad_filter: bool = Field(True, description="Leave out what holds no speech before recognition.")
    initial_prompt: str | None = Field(
        None,
        max_length=_MAX_PROMPT_CHARS,
        description="Text in the style and with the names to expect; the model sees its last 223 tokens. "
        "For zh the default is a sentence that asks for simplified characters.",
    )


def check(inputs: TranscribeInputs, _probes: Mapping[str, MediaInfo]) -> None:
    """The language must be known, and known to the size asked for. Raises InvalidInput."""
    if inputs.language is None:
        return
    if inputs.language not in LANGUAGES:
        known = ", ".join(sorted(LANGUAGES))
        raise InvalidInput(f"language {inputs.language!r} is not known; known are {known}", field="language")
    if inputs.model_size is not None and not speaks(inputs.model_size, inputs.language):
        text = f"model_size {inputs.model_size} knows English only, not {inputs.language}"
        raise InvalidInput(text, field="model_size")


class WhisperEngine(Engine):
    """Writes `transcribe_data_{id}.json`; a sound without speech has no segments and no language."""

    def __init__(self, source: Callable[[Resources], WhisperSource]) -> None:
        self._make_source = source

    def load(self, resources: Resources) -> None:
        self._source = self._make_source(resources)
        self._models = LoadedModels(self._source, resources.device.partition(":")[0], resources.threads)
        self._models.get(self._source.choose(Wish()))

    def run(self, inputs: TranscribeInputs, context: RunContext) -> Result:
        check(inputs, {})
        started_s = time.monotonic()
        is_translation = inputs.task is SpeechTask.TRANSLATE
        size = self._source.choose(Wish(inputs.model_size, inputs.language, is_translation))
        listener = _Listener(self._models.get(size, context.check), inputs, self._models.device)
        path = context.output_dir / f"transcribe_data_{context.task_id.replace('-', '')[:8]}.json"
        with disk_errors(), TranscriptWriter(path, context.scratch_dir) as writer:
            duration_s = _transcribe(listener, Path(inputs.audio_path), writer, context)
            facts = {
                "audio_duration": round(duration_s, 3),
                "language": listener.language if writer.num_segments else None,
                "model_name": str(size),
                "device": self._models.device,
            }
            metadata = (
                facts | listener.metadata | inputs.model_dump(mode="json", exclude={"audio_path", "language"})
            )
            statistics = writer.finish(metadata)
        return Result(
            {
                "segments_file": path,
                "segments_count": writer.num_segments,
                **facts,
                "transcribe_duration": round(time.monotonic() - started_s, 3),
                "statistics": statistics,
                "notes": _notes(inputs, size, writer.num_segments),
            }
        )


def _transcribe(listener: _Listener, path: Path, writer: TranscriptWriter, context: RunContext) -> float:
    """Write the segments of all windows; returns the length of the sound in seconds. Raises InvalidInput."""
    with of_field("audio_path"):
        total_s = stated_length_s(path)
    done_s = 0.0
    context.report(0.0, total_s or None, stage="transcribe", unit="s")
    blocks = _blocks(path, context.check)
    for start, samples in windows(blocks, window_s=WINDOW_S, search_s=_SEARCH_S):
        offset_s, end_s = start / RATE_HZ, (start + len(samples)) / RATE_HZ
        for segment in _watched(listener.heard(samples), listener.turns, context.check):
            writer.add(placed(segment, offset_s=offset_s, after_s=writer.end_s, until_s=end_s))
            done_s = max(done_s, writer.end_s)
            context.report(done_s, _total_s(total_s, done_s), stage="transcribe", unit="s")
        done_s = end_s
        context.report(done_s, _total_s(total_s, done_s), stage="transcribe", unit="s")
    return done_s


def _total_s(stated_s: float, done_s: float) -> float | None:
    """A container may state less than it holds."""
    return max(stated_s, done_s) if stated_s else None


def _blocks(path: Path, check: Callable[[], None]) -> Iterator[np.ndarray]:
    """Blocks of (1, L) samples at RATE_HZ."""
    with of_field("audio_path"):
        yield from decode_audio(path, rate_hz=RATE_HZ, channels=1, block_s=_SPAN_S, check=check)


def _watched(steps: Iterator[Item], turns: OneAtATime, check: Callable[[], None]) -> Iterator[Item]:
    """The items of `steps`, each made in a turn of its own.

    One step of the network takes seconds and cannot be stopped: when `check` raises, it goes on to its end,
    and only the next step of whoever uses the model waits for it.
    """
    while (item := turns.run(lambda: next(steps, None), check)) is not None:
        yield item


class _Listener:
    """One task's recognition. The language is that of the first window in which something is said."""

    def __init__(self, loaded: LoadedModel, inputs: TranscribeInputs, device: str) -> None:
        self._model = loaded.model
        self.turns = loaded.turns
        self._inputs = inputs
        self._batch = _BATCH[device]
        self.language = inputs.language
        self._probability = 1.0
        if self.language is not None and not knows(loaded.model, self.language):
            text = f"language {self.language} is not known to the Whisper model that is installed"
            raise InvalidInput(f"{text}; large-v3 and later know all", field="language")

    @property
    def metadata(self) -> dict[str, Any]:
        return {"language_probability": round(self._probability, 4) if self.language else None}

    def heard(self, samples: np.ndarray) -> Iterator[HeardSegment]:
        """The segments of a window, (L,); times count from its start. Raises OutOfMemory."""
        if self._inputs.vad_filter:
            samples, spans = speech_spans(samples, span_s=_SPAN_S)
        else:
            spans = quiet_spans(samples, span_s=_SPAN_S)
        with told():
            for first in range(0, len(spans), self._batch):
                yield from self._decoded(samples, spans[first : first + self._batch])

    def _decoded(self, samples: np.ndarray, spans: list[tuple[int, int]]) -> list[HeardSegment]:
        """The segments of spans that go through the network together."""
        segments, info = self._transcribed(samples, spans, self.language)
        if self.language is None and _prompt(self._inputs, info.language) != self._inputs.initial_prompt:
            segments, info = self._transcribed(samples, spans, info.language)
        by_span = _by_span(segments, spans).items()
        said = (
            item for span, found in by_span for item in self._to_its_end(samples, span, found, info.language)
        )
        kept = [_heard_in(samples, _segment(item)) for item in said if not _is_silence(item)]
        if kept and self.language is None:
            self.language, self._probability = info.language, info.language_probability
        return kept

    def _to_its_end(
        self, samples: np.ndarray, span: tuple[int, int], found: list[Any], language: str
    ) -> Iterator[Any]:
        """The segments of a span; if the network stops while somebody speaks on, it hears the rest too."""
        segments = self._without_loop(samples, span, found, language)
        while segments:
            yield from segments
            rest = (max(round(segments[-1].end * RATE_HZ), span[0]), span[1])
            if rest[0] == span[0] or spoken_s(samples[slice(*rest)]) < _UNHEARD_S:
                return
            again, _ = self._transcribed(samples, [rest], language)
            span, segments = rest, list(again)
            if _is_loop(segments) or any(segment.avg_logprob < _SURE_LOGPROB for segment in segments):
                return

    def _without_loop(
        self, samples: np.ndarray, span: tuple[int, int], found: list[Any], language: str
    ) -> list[Any]:
        """What was found in a span, made anew where the network said the same again and again."""
        if not _is_loop(found):
            return found
        again, _ = self._transcribed(samples, [span], language, no_repeat_ngram_size=_NGRAM)
        return [] if found[0].no_speech_prob > _NO_SPEECH_PROB else list(again)

    def _transcribed(
        self, samples: np.ndarray, spans: list[tuple[int, int]], language: str | None, **options: Any
    ) -> tuple[Iterable[Any], Any]:
        """faster-whisper's segments, which are made as they are asked for, and its TranscriptionInfo."""
        from faster_whisper import BatchedInferencePipeline

        # A pipeline keeps the time of the last word between calls, so each call has its own.
        return BatchedInferencePipeline(self._model).transcribe(
            samples,
            language=language,
            task=str(self._inputs.task),
            initial_prompt=_prompt(self._inputs, language),
            word_timestamps=self._inputs.word_timestamps,
            without_timestamps=False,
            clip_timestamps=[{"start": start / RATE_HZ, "end": stop / RATE_HZ} for start, stop in spans],
            batch_size=self._batch,
            **options,
        )


def _prompt(inputs: TranscribeInputs, language: str | None) -> str | None:
    """The caller's prompt, else what makes Mandarin simplified."""
    if inputs.initial_prompt or language != "zh" or inputs.task is SpeechTask.TRANSLATE:
        return inputs.initial_prompt
    return _SIMPLIFIED_PROMPT


def _by_span(segments: Iterable[Any], spans: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[Any]]:
    """The segments of each span, which faster-whisper tells apart by the hundredth at which a span begins.

    It cuts its own floats down to whole samples and hundredths and so may be one of each early: a segment
    is of the span that begins nearest to it, and every segment is of one.
    """
    by_span: dict[tuple[int, int], list[Any]] = {span: [] for span in spans}
    for segment in segments:
        at = segment.seek * RATE_HZ // _SEEK_HZ
        by_span[min(spans, key=lambda span: abs(span[0] - at))].append(segment)
    return by_span


def _is_loop(segments: list[Any]) -> bool:
    """Whether the network said the same again and again."""
    text = "".join(segment.text for segment in segments).encode()
    return bool(text) and len(text) / len(zlib.compress(text)) > _MAX_COMPRESSION


def _is_silence(segment: Any) -> bool:
    """What openai/whisper and faster-whisper's own sequential decoding leave out."""
    is_doubted = segment.no_speech_prob > _NO_SPEECH_PROB and segment.avg_logprob <= _MIN_LOGPROB
    return is_doubted or not segment.text.strip()


def _heard_in(samples: np.ndarray, segment: HeardSegment) -> HeardSegment:
    """The segment without the zeros around it, which stand for silence; unchanged where it lies in them."""
    first, last = (round(time_s * RATE_HZ) for time_s in (segment.start_s, segment.end_s))
    sounding = np.flatnonzero(samples[first:last])
    if not len(sounding):
        return segment
    start_s, end_s = ((first + int(at)) / RATE_HZ for at in (sounding[0], sounding[-1] + 1))
    return placed(segment, offset_s=0.0, after_s=start_s, until_s=end_s)


def _segment(segment: Any) -> HeardSegment:
    words = (
        HeardWord(float(word.start), float(word.end), word.word, float(word.probability))
        for word in segment.words or ()
    )
    return HeardSegment(
        float(segment.start),
        float(segment.end),
        segment.text.strip(),
        float(segment.avg_logprob),
        float(segment.no_speech_prob),
        tuple(words),
    )


def _notes(inputs: TranscribeInputs, size: str, num_segments: int) -> list[str]:
    """What a caller may not expect of the result, in words."""
    asked = inputs.model_size
    said = {
        f"model_size {asked} was asked for; Whisper {size}, which ships with the server, stood in": (
            asked is not None and canonical(asked) != size
        ),
        f"Whisper {size} was not trained to translate": (
            inputs.task is SpeechTask.TRANSLATE and not can_translate(size)
        ),
        "no speech was found": not num_segments,
    }
    return [text for text, applies in said.items() if applies]


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="faster_whisper.transcribe_audio",
        title="Speech to text with times",
        inputs=TranscribeInputs,
        engines=(
            EngineSpec(
                name="faster-whisper",
                kind=EngineKind.FULL,
                make=lambda: WhisperEngine(InstalledSizes),
                version="faster-whisper 1.2.1",
                folders=(FOLDER,),
                gpu_memory_bytes=10 << 30,
                licence="MIT",
            ),
            EngineSpec(
                name="whisper-base",
                kind=EngineKind.EMBEDDED,
                make=lambda: WhisperEngine(WheelBase),
                version="Whisper base, faster-whisper 1.2.1",
                weights=BASE_FILES,
                licence="MIT",
            ),
        ),
        check=check,
        run_timeout_s=24 * 3600.0,
    ),
)
