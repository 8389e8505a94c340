"""What indextts.generate_speech accepts, and what it refuses at submit."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from models.audio_formats import AudioFormat
from models.engine import InvalidInput, MediaKind, file_fields
from models.zoo.indextts import MODELS
from models.zoo.indextts_inputs import (
    MAX_TEXT_CHARS,
    NO_TEXT,
    OutputFile,
    SpeechInputs,
    check,
    emotion_source,
    language_of,
    output_file,
)


def inputs_of(**given: Any) -> SpeechInputs:
    return SpeechInputs.model_validate({"text": "Hello.", **given})


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("spk_audio_prompt", "spk_audio_prompt"),
        ("reference_audio", "spk_audio_prompt"),
        ("speaker_audio", "spk_audio_prompt"),
        ("emo_audio_prompt", "emo_audio_prompt"),
        ("emotion_reference", "emo_audio_prompt"),
    ],
)
def test_aliases_are_the_same_input(alias: str, name: str) -> None:
    assert getattr(inputs_of(**{alias: "voices/a.wav"}), name) == "voices/a.wav"
    assert file_fields(SpeechInputs)[name].kind is MediaKind.AUDIO


def test_two_names_for_one_file_must_agree() -> None:
    assert inputs_of(reference_audio="a.wav", speaker_audio="a.wav").spk_audio_prompt == "a.wav"
    assert inputs_of(spk_audio_prompt="", speaker_audio="a.wav").spk_audio_prompt == "a.wav"
    with pytest.raises(ValidationError, match="spk_audio_prompt and reference_audio are one input"):
        inputs_of(spk_audio_prompt="a.wav", reference_audio="b.wav")


@pytest.mark.parametrize("value", [["a.wav"], {"a": 1}, 5])
def test_a_prompt_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="spk_audio_prompt"):
        inputs_of(reference_audio=value)


def test_empty_optional_texts_are_left_out() -> None:
    made = inputs_of(reference_audio="", output_path="", emotion_text="", language="", emotion_reference="")
    assert made == inputs_of()


@pytest.mark.parametrize(
    "wrong",
    [
        {"emotion_vector": [0.1] * 7},
        {"emotion_vector": [0.1] * 7 + [1.3]},
        {"emotion_vector": [0.1] * 7 + [-0.1]},
        {"emotion_vector": [0.1] * 7 + [float("nan")]},
        {"emotion_vector": ["happy"] * 8},
        {"emotion_alpha": 1.5},
        {"max_text_tokens_per_segment": 10},
        {"language": "../en"},
        {"speed": 2},
    ],
    ids=str,
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        inputs_of(**wrong)


@pytest.mark.parametrize(
    ("key", "name", "audio_format"),
    [
        (None, "speech.wav", AudioFormat.WAV),
        ("out/line 1.MP3", "line 1.MP3", AudioFormat.MP3),
        ("声音/第一句.flac", "第一句.flac", AudioFormat.FLAC),
        ("line", "line.wav", AudioFormat.WAV),
    ],
)
def test_output_path_names_the_file_and_its_format(
    key: str | None, name: str, audio_format: AudioFormat
) -> None:
    assert output_file(key) == OutputFile(name, audio_format)


@pytest.mark.parametrize(
    "key",
    [
        "/etc/a.wav",
        "../a.wav",
        "a/../../b.wav",
        "a//b.wav",
        "a\\b.wav",
        "a\n.wav",
        "s3://b/a.wav",
        "out/",
        ".",
        "a.exe",
        ".wav",
        "out/.hidden.wav",
        "a" * 197 + ".wav",
        "folder/" * 150 + "a.wav",
    ],
)
def test_output_path_that_leaves_its_folder_or_is_no_sound_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="output_path"):
        inputs_of(output_path=key)


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_no_text(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check(inputs_of(text=text), {})
    assert str(refused.value) == NO_TEXT == "输入文本不能为空"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("。！？…", "no letter or digit"),
        ("😀😀", "no letter or digit"),
        ("字" * 20_000, "20000 characters; 10000"),
    ],
)
def test_text_that_cannot_be_said(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check(inputs_of(text=text), {})


def test_the_longest_text_is_accepted_and_has_the_time_it_takes() -> None:
    check(inputs_of(text="字" * MAX_TEXT_CHARS), {})
    cpu_s = 0.28 * MAX_TEXT_CHARS  # measured on an idle core of a small machine
    assert MODELS[0].run_timeout_s > 5 * cpu_s


@pytest.mark.parametrize(
    ("text", "given", "language"),
    [
        ("Hello", None, "en"),
        ("你好", None, "zh"),
        ("我用Python", None, "zh"),
        ("I love 北京 very much", None, "en"),
        ("123", None, "en"),
        ("123", "zh-CN", "zh"),
        ("café", "English", "en"),
        ("これはペンです", None, "ja"),
        ("ﾊﾛｰﾜｰﾙﾄﾞ", None, "ja"),
        ("東京都", None, "zh"),
        ("東京都", "Japanese", "ja"),
        ("明日 meeting があります", None, "ja"),
        ("We eat お好み焼き and go home now", None, "en"),
        ("鲜の味是上海的一家日本料理店，每天晚上都有很多客人", None, "zh"),
        ("こんにちは", "en", "en"),
    ],
)
def test_the_language_is_given_or_what_the_script_tells(text: str, given: str | None, language: str) -> None:
    assert language_of(text, given) == language


@pytest.mark.parametrize(
    ("text", "given", "field"),
    [
        ("Привет", None, "text"),
        ("مرحبا", None, "text"),
        ("Bonjour", "fr", "language"),
        ("Hello", "klingon", "language"),
    ],
)
def test_what_the_fixed_voices_cannot_read_is_refused_with_what_they_can(
    text: str, given: str | None, field: str
) -> None:
    with pytest.raises(InvalidInput, match=r"English \(en\), Mandarin \(zh\) and Japanese \(ja\)") as refused:
        language_of(text, given)
    assert refused.value.field == field


def test_of_several_emotions_the_first_counts() -> None:
    vector = [0.0] * 8
    assert emotion_source(inputs_of()) == ""
    assert emotion_source(inputs_of(emotion_reference="a.wav")) == "emo_audio_prompt"
    assert emotion_source(inputs_of(emotion_reference="a.wav", emotion_vector=vector)) == "emotion_vector"
    assert emotion_source(inputs_of(emotion_vector=vector, emotion_text="glad")) == "emotion_text"
