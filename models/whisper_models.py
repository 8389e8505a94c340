"""Whisper models in memory: opened by faster-whisper from a folder, kept and shared by attempts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from models.engine import ModelNotReady, OutOfMemory
from models.whisper_sizes import WhisperSource

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

_COMPUTE_TYPES = {"cpu": "int8", "cuda": "float16"}
_MAX_LOADED = 2  # models of different sizes that stay in memory
_CHECK_PERIOD_S = 0.2

Found = TypeVar("Found")


class OneAtATime:
    """Runs work that cannot be stopped, on a thread of its own, and one piece of it at any moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def run(self, work: Callable[[], Found], check: Callable[[], None]) -> Found:
        """What `work` returns or raises. `check` is called all the while, and before, while others work.

        What it raises is passed on at once. The work goes on then, and whoever comes next waits for its end.
        """
        while not self._lock.acquire(timeout=_CHECK_PERIOD_S):
            check()
        with ExitStack() as unless_begun:
            unless_begun.callback(self._lock.release)
            worker = ThreadPoolExecutor(1, thread_name_prefix="whisper")
            running = worker.submit(self._ended, work)
            unless_begun.pop_all()
        worker.shutdown(wait=False)
        while not wait((running,), _CHECK_PERIOD_S).done:
            check()
        return running.result()

    def _ended(self, work: Callable[[], Found]) -> Found:
        try:
            return work()
        finally:
            self._lock.release()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, and the turns in which all attempts use it, also those that ended but for their last step."""

    model: WhisperModel
    turns: OneAtATime


class LoadedModels:
    """Models in memory by size: the last that were used stay. Safe to use from several threads."""

    def __init__(self, source: WhisperSource, device: str, threads: int) -> None:
        self.device = device
        self._source = source
        self._threads = threads
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._turns = OneAtATime()

    def get(self, size: str, check: Callable[[], None] = lambda: None) -> LoadedModel:
        """`check` may raise while a model is opened, which is then kept for those who ask next.

        Raises ModelNotReady for files that are no Whisper model, or a device that does not work.
        """
        return self._turns.run(lambda: self._kept(size), check)

    def _kept(self, size: str) -> LoadedModel:
        if size not in self._models:
            while len(self._models) >= _MAX_LOADED:
                self._models.popitem(last=False)
            self._models[size] = LoadedModel(self._opened(size), OneAtATime())
        self._models.move_to_end(size)
        return self._models[size]

    def _opened(self, size: str) -> WhisperModel:
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
