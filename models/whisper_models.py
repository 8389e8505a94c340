"""Whisper models in memory: opened by faster-whisper from a folder, kept while they are used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.engine import ModelNotReady, OutOfMemory
from models.whisper_sizes import WhisperSource

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

_COMPUTE_TYPES = {"cpu": "int8", "cuda": "float16"}
_MAX_LOADED = 2  # models of different sizes that stay in memory


class LoadedModels:
    """Models in memory by size: the last that were used stay. Safe to use from several threads."""

    def __init__(self, source: WhisperSource, device: str, threads: int) -> None:
        self.device = device
        self._source = source
        self._threads = threads
        self._models: OrderedDict[str, WhisperModel] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, size: str) -> WhisperModel:
        """Raises ModelNotReady for files that are no Whisper model, or a device that does not work."""
        with self._lock:
            if size not in self._models:
                while len(self._models) >= _MAX_LOADED:
                    self._models.popitem(last=False)
                self._models[size] = self._loaded(size)
            self._models.move_to_end(size)
            return self._models[size]

    def _loaded(self, size: str) -> WhisperModel:
        with self._source.folder(size) as folder, told(size):
            return _open_model(folder, self.device, self._threads)


def _open_model(folder: Path, device: str, threads: int) -> WhisperModel:
    from faster_whisper import WhisperModel  # noqa: PLC0415 - CTranslate2 loads with it
    from faster_whisper.feature_extractor import FeatureExtractor  # noqa: PLC0415 - as above

    model = WhisperModel(
        str(folder),
        device=device,
        compute_type=_COMPUTE_TYPES[device],
        cpu_threads=threads,
        local_files_only=True,
    )
    # preprocessor_config.json is often missing, and only tells what the model says itself
    model.feature_extractor = FeatureExtractor(feature_size=model.model.n_mels)
    if device != "cpu":
        model.encode(np.zeros((model.model.n_mels, model.feature_extractor.nb_max_frames), np.float32))
    return model


@contextmanager
def told(loading: str = "") -> Iterator[None]:
    """The failures of CTranslate2, which are all RuntimeError, in the words of `models.errors`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip()
        if "out of memory" in reason.lower():
            raise OutOfMemory(reason) from error
        if not loading:
            raise
        raise ModelNotReady(f"Whisper {loading} cannot be loaded: {reason}") from error


def knows(model: WhisperModel, language: str) -> bool:
    """Whether the model was trained with a language."""
    if not model.model.is_multilingual:
        return language == "en"
    return model.hf_tokenizer.token_to_id(f"<|{language}|>") is not None
