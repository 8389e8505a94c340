"""MDX-Net (Kim et al., arXiv 2111.12203): ONNX models that turn the spectrum of a mix into that of one stem.

Models and their table lie as audio-separator (nomadkaraoke/python-audio-separator, MIT) keeps them: `*.onnx`
beside `mdx_model_data.json`, which has the parameters of a model by the MD5 of the last 10,000 * 1024 bytes
of its file, or of the whole file where it is shorter (`Separator.get_model_hash` there). Hop, silenced bins
and compensation are those of its MDXSeparator.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.errors import InvalidInput, ModelNotReady
from models.memory_errors import memory_errors
from models.onnx_sessions import OnnxSession

TABLE_NAME = "mdx_model_data.json"
_HASHED_BYTES = 10_000 * 1024
_HOP = 1024
_SILENCED_BINS = 3  # the models are trained without the lowest
_MAX_LOADED = 2  # models kept in memory
_STEMS = {"Vocals": True, "Instrumental": False}
_PREFERRED = ("Kim_Vocal_2.onnx", "UVR-MDX-NET-Voc_FT.onnx", "UVR-MDX-NET-Inst_HQ_5.onnx")


@dataclass(frozen=True, slots=True)
class Parameters:
    """How the spectrum of a model is made, and what it finds; `compensate` scales its output."""

    fft_size: int
    num_bins: int
    num_frames: int
    compensate: float
    finds_vocals: bool

    @property
    def window_samples(self) -> int:
        """What a centred transform of num_frames frames sees."""
        return (self.num_frames - 1) * _HOP

    @property
    def margin(self) -> int:
        """Samples at the borders of a window that fewer frames see."""
        return self.fft_size // 2


class Mdx:
    """Estimates the vocals of one window. May be called from several threads."""

    def __init__(self, session: OnnxSession, parameters: Parameters, device: str) -> None:
        self.name = session.name
        self.parameters = parameters
        self._session = session
        (self._input,) = session.inputs
        self._device = torch.device(device)
        self._hann = torch.hann_window(parameters.fft_size, device=self._device)

    def vocals(self, mix: np.ndarray, check: Callable[[], None]) -> np.ndarray:
        """The vocals in (2, L) samples of 44.1 kHz, L up to window_samples.

        `check` is called while the network runs and may raise to stop it. Raises OutOfMemory.
        """
        with memory_errors(f"a window of {self.name}"):
            stem = self._stem(mix, check)
        return stem if self.parameters.finds_vocals else mix - stem

    def _stem(self, mix: np.ndarray, check: Callable[[], None]) -> np.ndarray:
        parameters, num_samples = self.parameters, mix.shape[1]
        padded = np.pad(mix, ((0, 0), (0, parameters.window_samples - num_samples)))
        spectrum = self._transform(torch.from_numpy(padded).to(self._device))
        found = self._session.run({self._input: spectrum.cpu().numpy()}, check)
        samples = self._inverse(torch.from_numpy(found).to(self._device))[:, :num_samples]
        return samples.cpu().numpy() * np.float32(parameters.compensate)

    def _transform(self, samples: torch.Tensor) -> torch.Tensor:
        """(2, L) samples to (1, 4, F, T): real and imaginary parts of left, then of right."""
        spectrum = torch.stft(
            samples,
            self.parameters.fft_size,
            _HOP,
            window=self._hann,
            pad_mode="constant",
            return_complex=True,
        )[:, : self.parameters.num_bins]  # (2, F, T)
        parts = torch.view_as_real(spectrum).permute(0, 3, 1, 2)  # (2, 2, F, T)
        stacked = parts.reshape(1, 4, *spectrum.shape[1:])
        stacked[:, :, :_SILENCED_BINS] = 0
        return stacked

    def _inverse(self, stacked: torch.Tensor) -> torch.Tensor:
        """(1, 4, F, T) to (2, window_samples); the bins that the model does not know are silent."""
        num_bins, num_frames = stacked.shape[2:]
        parts = stacked.reshape(2, 2, num_bins, num_frames).permute(0, 2, 3, 1).contiguous()
        missing = self.parameters.fft_size // 2 + 1 - num_bins
        spectrum = torch.nn.functional.pad(torch.view_as_complex(parts), (0, 0, 0, missing))
        length = self.parameters.window_samples
        return torch.istft(spectrum, self.parameters.fft_size, _HOP, window=self._hann, length=length)


class MdxModels:
    """The models in a folder; those used last stay loaded. May be called from several threads."""

    def __init__(self, folder: Path, *, device: str, threads: int) -> None:
        self._folder = folder
        self._device = device
        self._threads = threads
        self._lock = threading.Lock()
        self._loaded: dict[str, Mdx] = {}  # the one used last is at the end

    def get(self, name: str | None) -> Mdx:
        """The model of this file name, with or without suffix; without a name the preferred one there is.

        Raises InvalidInput for a name that is not there or that separates something else, ModelNotReady for
        a file that does not load.
        """
        path = self._default() if name is None else self._named(name)
        with self._lock:
            model = self._loaded.pop(path.name, None) or self._load(path)
            self._loaded[path.name] = model
            for forgotten in list(self._loaded)[:-_MAX_LOADED]:
                del self._loaded[forgotten]
            return model

    def _installed(self) -> list[Path]:
        return sorted(self._folder.glob("*.onnx"), key=lambda path: (_rank(path.name), path.name))

    def _named(self, name: str) -> Path:
        """Only what a listing of the folder shows is opened, never a path made of the caller's text."""
        installed = self._installed()
        found = [path for path in installed if name in {path.name, path.stem}]
        if not found:
            names = ", ".join(path.name for path in installed)
            raise InvalidInput(
                f"model_name: {name!r} is not installed; there are {names}", field="model_name"
            )
        try:
            parameters_of(found[0])
        except ModelNotReady as error:
            raise InvalidInput(f"model_name: {error}", field="model_name") from error
        return found[0]

    def _default(self) -> Path:
        problems = []
        for path in self._installed():
            try:
                parameters_of(path)
            except ModelNotReady as error:
                problems.append(str(error))
            else:
                return path
        raise ModelNotReady("; ".join(problems) or f"there is no *.onnx in {self._folder.name}")

    def _load(self, path: Path) -> Mdx:
        parameters = parameters_of(path)
        session = OnnxSession(path, device=self._device, threads=self._threads)
        wanted = [1, 4, parameters.num_bins, parameters.num_frames]
        shapes = list(session.shapes.values())
        if len(shapes) != 1 or not _takes(shapes[0], wanted):
            told = ", ".join(map(str, shapes))
            raise ModelNotReady(f"{path.name} takes {told}, but {TABLE_NAME} says {wanted}")
        return Mdx(session, parameters, self._device)


def _takes(shape: Sequence[int | str], sizes: Sequence[int]) -> bool:
    """Whether an input of this shape, in which a str stands for any size, takes arrays of these sizes."""
    return len(shape) == len(sizes) and all(
        size == given or not isinstance(given, int) for given, size in zip(shape, sizes, strict=True)
    )


def parameters_of(model: Path) -> Parameters:
    """What the table beside a model says of it; raises ModelNotReady with what is wrong."""
    stat = model.stat()
    digest = _digest(model, stat.st_mtime_ns)
    entry = _table(model.with_name(TABLE_NAME)).get(digest)
    if entry is None:
        raise ModelNotReady(f"{TABLE_NAME} does not know {model.name} (MD5 {digest}): install a newer table")
    try:
        parameters = Parameters(
            fft_size=int(entry["mdx_n_fft_scale_set"]),
            num_bins=int(entry["mdx_dim_f_set"]),
            num_frames=2 ** int(entry["mdx_dim_t_set"]),
            compensate=float(entry["compensate"]),
            finds_vocals=_STEMS[entry["primary_stem"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        text = (
            f"{model.name} is no MDX-Net model of vocals or instruments: its entry in {TABLE_NAME} is {entry}"
        )
        raise ModelNotReady(text) from error
    if (
        not parameters.num_bins <= parameters.fft_size // 2 + 1
        or parameters.window_samples < 4 * parameters.margin
    ):
        raise ModelNotReady(f"{TABLE_NAME} has impossible sizes for {model.name}: {entry}")
    return parameters


def _table(path: Path) -> Mapping[str, Any]:
    try:
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelNotReady(
            f"{TABLE_NAME} is missing: put it beside the models in {path.parent.name}"
        ) from error
    except ValueError as error:
        raise ModelNotReady(f"{TABLE_NAME} is no JSON: {error}") from error
    if not isinstance(table, dict):
        raise ModelNotReady(f"{TABLE_NAME} is no table of models by MD5")
    return table


@lru_cache(maxsize=256)
def _digest(path: Path, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _HASHED_BYTES))
        return hashlib.md5(file.read(), usedforsecurity=False).hexdigest()


def _rank(name: str) -> int:
    return _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED)
