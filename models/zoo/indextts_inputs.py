"""What indextts.generate_speech takes: text, whose voice, which emotion, and what is refused at submit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models import text_segments
from models.audio_formats import AudioFormat
from models.engine import InputFile, InvalidInput, MediaKind
from models.text_segments import CHINESE, ENGLISH, JAPANESE, Script, is_speakable, other_letters, scripts_of

if TYPE_CHECKING:
    from models.media import MediaInfo

MAX_TEXT_CHARS = 10_000
NO_TEXT = "输入文本不能为空"
NUM_EMOTIONS = 8
MAX_SEGMENT_TOKENS = 600

_MAX_KEY_BYTES, _MAX_NAME_BYTES = 1024, 200  # S3 takes keys of 1024 bytes; file systems, names of 255
_LANGUAGES = {
    **dict.fromkeys(("en", "en-us", "en-gb", "eng", "english"), ENGLISH),
    **dict.fromkeys(("zh", "zh-cn", "zh-hans", "zh-tw", "cmn", "chinese", "mandarin"), CHINESE),
    **dict.fromkeys(("ja", "ja-jp", "jpn", "japanese"), JAPANESE),
}
_WRITTEN_IN = {ENGLISH: (Script.LATIN,), CHINESE: (Script.HAN,), JAPANESE: (Script.KANA, Script.HAN)}
_ALIASES = {
    "spk_audio_prompt": ("reference_audio", "speaker_audio"),
    "emo_audio_prompt": ("emotion_reference",),
}
_OPTIONAL_TEXTS = frozenset({*_ALIASES, "output_path", "emotion_text", "language"})
_Emotion = Annotated[float, Field(ge=0, le=1.2, allow_inf_nan=False)]


class SpeechInputs(BaseModel):
    """What to say, in whose voice, and how."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(description=f"What to say: at most {MAX_TEXT_CHARS} characters.")
    spk_audio_prompt: Annotated[str | None, InputFile(MediaKind.AUDIO)] = Field(
        None,
        description="A recording of the voice to speak with (1 s or more; also as reference_audio or"
        " speaker_audio). IndexTTS needs it and clones the voice; other engines take the nearest of theirs.",
    )
    output_path: str | None = Field(
        None,
        description="An object key whose last part names the sound and says its format: wav (also without a"
        f" suffix), {', '.join(list(AudioFormat)[1:])}. The file itself is stored below the key of the task;"
        " the result's output_path is where.",
    )
    emo_audio_prompt: Annotated[str | None, InputFile(MediaKind.AUDIO)] = Field(
        None,
        description="A recording of the emotion to speak with (also as emotion_reference); IndexTTS only.",
    )
    emotion_alpha: float = Field(
        1.0, ge=0, le=1, allow_inf_nan=False, description="How much of the emotion; IndexTTS only."
    )
    emotion_vector: list[_Emotion] | None = Field(
        None,
        min_length=NUM_EMOTIONS,
        max_length=NUM_EMOTIONS,
        description="Happy, angry, sad, afraid, disgusted, melancholic, surprised, calm: 0 to 1.2 each;"
        " stands before emo_audio_prompt. IndexTTS only.",
    )
    emotion_text: str | None = Field(
        None,
        max_length=1000,
        description="The emotion in words; stands before emotion_vector. IndexTTS only.",
    )
    language: str | None = Field(
        None,
        pattern=r"^[A-Za-z]+(-[A-Za-z0-9]+)*$",
        max_length=20,
        description="Language of the text, else what the script tells. en, zh and ja; IndexTTS knows more.",
    )
    max_text_tokens_per_segment: int = Field(
        120,
        ge=20,
        le=MAX_SEGMENT_TOKENS,
        description="How much is spoken in one go at most: a Chinese character, a kana or four Latin letters"
        " are one. Kokoro takes at most 60.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_name_each(cls, given: Any) -> Any:
        """Puts aliases under their name; two that say different things are refused."""
        if not isinstance(given, Mapping):
            return given
        found = {
            name: None if value == "" and name in _OPTIONAL_TEXTS else value for name, value in given.items()
        }
        for name, aliases in _ALIASES.items():
            names = [key for key in (name, *aliases) if key in found]
            values = [value for key in names if (value := found.pop(key)) is not None and value != ""]
            if any(value != values[0] for value in values):
                raise ValueError(f"{' and '.join(names)} are one input, and say different things")
            if values:
                found[name] = values[0]
        return found

    @field_validator("output_path")
    @classmethod
    def _named(cls, key: str | None) -> str | None:
        if key is not None:
            output_file(key)
        return key


@dataclass(frozen=True, slots=True)
class OutputFile:
    """What the sound is named, and its format."""

    name: str
    audio_format: AudioFormat


def output_file(key: str | None) -> OutputFile:
    """What a caller's output_path asks for. Raises ValueError."""
    name = PurePosixPath(key or "speech.wav").name
    parts = (key or name).split("/")
    is_strange = "\\" in (key or "") or not (key or name).isprintable() or name.startswith(".")
    is_long = len(name.encode()) > _MAX_NAME_BYTES or len((key or "").encode()) > _MAX_KEY_BYTES
    if is_strange or is_long or any(part in {"", ".", ".."} for part in parts):
        raise ValueError("not a valid object key (a relative path such as speech/line1.wav)")
    suffix = PurePosixPath(name).suffix.lower().removeprefix(".")
    if not suffix:
        return OutputFile(f"{name}.wav", AudioFormat.WAV)
    if suffix not in set(AudioFormat):
        raise ValueError(f"a sound can be {', '.join(AudioFormat)}, not {suffix}")
    return OutputFile(name, AudioFormat(suffix))


def check(inputs: SpeechInputs, _probes: Mapping[str, MediaInfo]) -> None:
    """Refuse what no engine can say. That an engine needs a prompt is known when one has been chosen."""
    if not inputs.text.strip():
        raise InvalidInput(NO_TEXT)
    if len(inputs.text) > MAX_TEXT_CHARS:
        text = f"text has {len(inputs.text)} characters; {MAX_TEXT_CHARS} are accepted: send it in parts"
        raise InvalidInput(text, field="text")
    if not is_speakable(inputs.text):
        raise InvalidInput("text has no letter or digit that could be spoken", field="text")


def language_of(text: str, given: str | None) -> str:
    """The language, en, zh or ja: what is given, else what most of the text is written in.

    Raises InvalidInput for a language or script that Kokoro and Piper cannot read here.
    """
    scripts = scripts_of(text)
    known = "this engine reads English (en), Mandarin (zh) and Japanese (ja)"
    if given is not None and given.lower() not in _LANGUAGES:
        raise InvalidInput(f"language: {given} is not known; {known}", field="language")
    if Script.OTHER in scripts:
        raise InvalidInput(
            f"text has letters that cannot be read: {other_letters(text)}; {known}", field="text"
        )
    return text_segments.language_of(text) if given is None else _LANGUAGES[given.lower()]


def has_letters_of(text: str, language: str) -> bool:
    """Whether some of the text is written in a script of `language`; a text of digits alone is."""
    scripts = scripts_of(text)
    return not scripts or any(script in scripts for script in _WRITTEN_IN[language])


def emotion_source(inputs: SpeechInputs) -> str:
    """The input that says the emotion, of several the one that stands first; "" when none does."""
    sources = ("emotion_text", "emotion_vector", "emo_audio_prompt")
    return next((name for name in sources if getattr(inputs, name) is not None), "")


def parameters(inputs: SpeechInputs) -> dict[str, Any]:
    """The inputs as a result repeats them: without the text, and without what was a file."""
    return inputs.model_dump(exclude={"text", *_ALIASES})
