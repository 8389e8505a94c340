"""How the engines of indextts.generate_speech speak: one of fixed voices, or a server that clones one."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.audio_formats import AudioFormat
from models.audio_streams import AudioWriter, transcode
from models.disk import disk_errors
from models.engine import Engine, InvalidInput, Resources, Result, RunContext
from models.text_segments import (
    CHINESE,
    ENGLISH,
    JAPANESE,
    Reading,
    Script,
    reading_of,
    scripts_of,
    segments,
)
from models.voice_weights import CAMPPLUS
from models.zoo.indextts_inputs import (
    MAX_SEGMENT_TOKENS,
    OutputFile,
    SpeechInputs,
    check,
    emotion_source,
    has_letters_of,
    language_of,
    output_file,
    parameters,
)
from models.zoo.indextts_weights import (
    KOKORO_FOLDER,
    KOKORO_NETWORK,
    KOKORO_PARTS,
    KOKORO_STYLES,
    KOKORO_VOICES,
    PIPER_CONFIG,
    PIPER_MODEL,
)

if TYPE_CHECKING:
    from models.phonemes import Phonemizer
    from models.voice_prints import VoicePrints
    from models.voices import Voice

NO_PROMPT = "缺少必需参数: spk_audio_prompt (说话人参考音频)"
INDEXTTS_RATE_HZ = 22_050
_INDEXTTS_PROMPT_S = 15.0  # the model hears no more of a recording
_KOKORO_TOKENS = 60  # about 15 s: the network hurries when it has more to say, and takes memory by length
_PRINT_RATE_HZ, _PRINT_PROMPT_S = 16_000, 30.0
_NAMED_UNREAD = 20
_KOKORO_LANGUAGES = {
    "a": ENGLISH,
    "b": ENGLISH,
    "j": JAPANESE,
    "z": CHINESE,
}  # by the first letter of a voice


@dataclass(frozen=True, slots=True)
class Speaker:
    """How an engine says the segments of one task: `say` gives (L,) float32. `info` goes into the result.

    `max_tokens` bounds a segment below what the caller allows.
    """

    rate_hz: int
    say: Callable[[str], np.ndarray]
    info: Mapping[str, Any]
    max_tokens: int = MAX_SEGMENT_TOKENS


class SpeechEngine(Engine):
    """Says segment after segment into one file; memory holds one segment."""

    def run(self, inputs: SpeechInputs, context: RunContext) -> Result:
        begin_s = time.monotonic()
        check(inputs, {})
        speaker = self._speaker(inputs, context)
        output = output_file(inputs.output_path)
        path = context.output_dir / output.name
        with disk_errors():
            num_samples = _spoken(inputs, speaker, _lossless(output, context), context)
            if _lossless(output, context) != path:
                transcode(context, _lossless(output, context), path, output.audio_format, "output_path")
        duration_s = num_samples / speaker.rate_hz
        return Result(
            {
                "audio_path": path,
                "output_path": path,
                "duration": round(duration_s, 3),
                "sample_rate": speaker.rate_hz,
                "text_length": len(inputs.text),
                "processing_time": round(time.monotonic() - begin_s, 3),
                "model_info": dict(speaker.info),
                "parameters": parameters(inputs),
            }
        )

    @abstractmethod
    def _speaker(self, inputs: SpeechInputs, context: RunContext) -> Speaker:
        """Who says this task's text. Raises InvalidInput for what the engine cannot say."""


def _lossless(output: OutputFile, context: RunContext) -> Path:
    """Where the sound is first written: the result itself where its format is written as it comes."""
    if output.audio_format in {AudioFormat.WAV, AudioFormat.FLAC}:
        return context.output_dir / output.name
    return context.scratch_dir / "speech.wav"


def _spoken(inputs: SpeechInputs, speaker: Speaker, path: Path, context: RunContext) -> int:
    """Writes all segments to `path`; the number of samples."""
    total, num_samples, pause_s = len(inputs.text), 0, 0.0
    audio_format = AudioFormat(path.suffix.lower().removeprefix("."))
    context.report(0, total, stage="speak", unit="characters")
    with AudioWriter(path, audio_format, rate_hz=speaker.rate_hz, channels=1) as writer:
        for segment in segments(inputs.text, min(inputs.max_text_tokens_per_segment, speaker.max_tokens)):
            said = speaker.say(segment.text)
            if len(said):
                pause = np.zeros(round(pause_s * speaker.rate_hz) if num_samples else 0, np.float32)
                block = np.concatenate([pause, said])[None]  # (1, L)
                writer.write(block)
                num_samples += block.shape[1]
                pause_s = segment.pause_s
            context.report(segment.end, total, stage="speak", unit="characters")
    if not num_samples:
        raise InvalidInput("nothing in text could be spoken", field="text")
    context.report(total, total, stage="speak", unit="characters")
    return num_samples


class IndexTTSEngine(SpeechEngine):
    """Asks the operator's IndexTTS server, a segment at a time."""

    def load(self, resources: Resources) -> None:
        from models.speech_server import SpeechServer

        endpoint = resources.endpoints["indextts"]
        self._model = endpoint.model
        self._server = SpeechServer(endpoint)

    def _speaker(self, inputs: SpeechInputs, context: RunContext) -> Speaker:
        if inputs.spk_audio_prompt is None:
            raise InvalidInput(NO_PROMPT, field="spk_audio_prompt")
        voice = {
            "ref_audio": _recording(inputs.spk_audio_prompt, "spk_audio_prompt", context),
            "extra_params": self._extra(inputs, context),
        }
        part = context.scratch_dir / "answer.wav"

        def say(text: str) -> np.ndarray:
            return self._server.speak(text, voice, part, rate_hz=INDEXTTS_RATE_HZ, check=context.check)

        info = {"model_name": self._model, "is_cloned": True, "language": inputs.language, "notes": []}
        return Speaker(INDEXTTS_RATE_HZ, say, {**info, "emotion_source": emotion_source(inputs)})

    @staticmethod
    def _extra(inputs: SpeechInputs, context: RunContext) -> dict[str, Any]:
        """The fields beyond the speech API; of several emotions the one that stands first."""
        source = emotion_source(inputs)
        emotion: dict[str, Any] = {}
        if source == "emotion_text":
            emotion = {"use_emo_text": True, "emo_text": inputs.emotion_text}
        elif source == "emotion_vector":
            emotion = {"emo_vector": inputs.emotion_vector}
        elif inputs.emo_audio_prompt is not None:
            emotion = {"emo_audio": _recording(inputs.emo_audio_prompt, source, context)}
        strength = {"emo_alpha": inputs.emotion_alpha} if emotion else {}
        return {**emotion, **strength, **({"lang": inputs.language.lower()} if inputs.language else {})}


def _recording(path: str, field: str, context: RunContext) -> str:
    """The beginning of a recording, as the server takes it."""
    from models.speech_server import data_url
    from models.voice_prompts import read_prompt

    rate_hz = INDEXTTS_RATE_HZ
    samples = read_prompt(Path(path), field, rate_hz=rate_hz, max_s=_INDEXTTS_PROMPT_S, check=context.check)
    wav = context.scratch_dir / f"{field}.wav"
    with disk_errors(), AudioWriter(wav, AudioFormat.WAV, rate_hz=rate_hz, channels=1) as writer:
        writer.write(samples[None])
    return data_url(wav)


class FixedVoicesEngine(SpeechEngine):
    """Speaks with one of the voices it has. `_defaults` names the one for each language."""

    _resources: Resources
    _model_name: str
    _voices: tuple[Voice, ...]
    _defaults: Mapping[str, str]

    def _speaker(self, inputs: SpeechInputs, context: RunContext) -> Speaker:
        language = language_of(inputs.text, inputs.language)
        voice, similarity = self._chosen(inputs, language, context)
        reading = reading_of(inputs.text, language)

        def say(text: str) -> np.ndarray:
            return voice.speak(text, reading, context.check)

        info = {
            "model_name": self._model_name,
            "voice": voice.name,
            "similarity": None if similarity is None else round(similarity, 3),
            "is_cloned": False,
            "language": language,
            "notes": _notes(inputs, voice.name, language, reading),
        }
        return Speaker(voice.rate_hz, say, info, _KOKORO_TOKENS)

    def _chosen(self, inputs: SpeechInputs, language: str, context: RunContext) -> tuple[Voice, float | None]:
        from models.voice_prompts import read_prompt

        able = [voice for voice in self._voices if self._reads(voice, language, inputs.text)]
        if not able:
            raise InvalidInput(f"language: this engine has no voice for {language}", field="language")
        if inputs.spk_audio_prompt is None:
            return next((voice for voice in able if voice.name == self._defaults[language]), able[0]), None
        prompt = read_prompt(
            Path(inputs.spk_audio_prompt),
            "spk_audio_prompt",
            rate_hz=_PRINT_RATE_HZ,
            max_s=_PRINT_PROMPT_S,
            check=context.check,
        )
        return self._prints.nearest(prompt, able, context.check)

    @cached_property
    def _prints(self) -> VoicePrints:
        """Loaded (with torch) for the first prompt."""
        import torch

        from models.voice_prints import VoicePrints

        torch.set_num_threads(self._resources.threads)
        return VoicePrints(self._resources.weights[CAMPPLUS.path], self._resources.device)

    @staticmethod
    def _reads(voice: Voice, language: str, text: str) -> bool:
        """Whether a voice can say all of a text: a Piper voice leaves out what is not in its language."""
        is_mixed = language == ENGLISH and bool({Script.HAN, Script.KANA} & scripts_of(text).keys())
        return language in voice.languages and (voice.reads_all_scripts or not is_mixed)


def _notes(inputs: SpeechInputs, voice: str, language: str, reading: Reading) -> list[str]:
    """What a caller may not expect of the result, in words."""
    from models.phonemes import unread_in_mandarin

    unread = unread_in_mandarin(inputs.text) if reading.han is Script.HAN else ""
    said = {
        f"no voice was cloned: {voice} is the voice of this engine nearest to the prompt": (
            inputs.spk_audio_prompt is not None
        ),
        f"{emotion_source(inputs)} is ignored: this engine has no emotions": bool(emotion_source(inputs)),
        f"text has no letters of language {language}: it is read in the language of those it has": (
            not has_letters_of(inputs.text, language)
        ),
        f"left out, since their reading is not known: {unread[:_NAMED_UNREAD]}": bool(unread),
    }
    return [text for text, applies in said.items() if applies]


class EmbeddedEngine(FixedVoicesEngine):
    """Kokoro int8 with five voices of Japanese speakers, and Piper's joe for English."""

    def load(self, resources: Resources) -> None:
        from models.networks.kokoro import Kokoro, load_styles
        from models.onnx_sessions import OnnxSession
        from models.piper_voice import Piper
        from models.voices import KokoroVoice, PiperVoice

        options: dict[str, Any] = {"device": resources.device, "threads": resources.threads}
        weights = resources.weights
        joined = b"".join(weights[part.path].read_bytes() for part in KOKORO_PARTS)
        network = Kokoro(OnnxSession(joined, **options), load_styles(weights[KOKORO_VOICES.path]))
        reader = _reader()
        piper = Piper(weights[PIPER_MODEL.path], weights[PIPER_CONFIG.path], **options)
        joe = PiperVoice("joe", piper, reader)
        languages = (ENGLISH, CHINESE, JAPANESE)
        self._voices = (joe, *(KokoroVoice(name, languages, network, reader) for name in network.styles))
        self._defaults = {ENGLISH: "joe", CHINESE: "jf_alpha", JAPANESE: "jf_alpha"}
        self._model_name = "Kokoro-82M int8 and Piper en_US-joe-medium"
        self._resources = resources


class KokoroEngine(FixedVoicesEngine):
    """Kokoro with all its voices, whose first letter tells their language."""

    def load(self, resources: Resources) -> None:
        from models.networks.kokoro import Kokoro, load_styles
        from models.onnx_sessions import OnnxSession
        from models.voices import KokoroVoice

        folder = resources.weights[KOKORO_FOLDER.path]
        styles = load_styles(folder / KOKORO_STYLES)
        session = OnnxSession(folder / KOKORO_NETWORK, device=resources.device, threads=resources.threads)
        network, reader = Kokoro(session, styles), _reader()
        self._voices = tuple(
            KokoroVoice(name, (_KOKORO_LANGUAGES[name[0]],), network, reader)
            for name in sorted(styles)
            if name[:1] in _KOKORO_LANGUAGES
        )
        self._defaults = {ENGLISH: "af_heart", CHINESE: "zf_xiaobei", JAPANESE: "jf_alpha"}
        self._model_name = "Kokoro-82M"
        self._resources = resources


def _reader() -> Phonemizer:
    from models.espeak import Espeak
    from models.phonemes import Phonemizer

    return Phonemizer(Espeak())
