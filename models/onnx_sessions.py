"""ONNX networks whose run can be stopped between any two of their layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    RuntimeException,
)
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as OperatorMissing

from models.errors import ModelNotReady, OutOfMemory

_CHECK_S = 0.1
_PROVIDERS = {
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "cpu": ("CPUExecutionProvider",),
}
_BAD_MODEL = (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, OperatorMissing)
_NO_MEMORY = (Fail, RuntimeException)  # which of them depends on the layer that finds none
_NO_MEMORY_TEXTS = ("Failed to allocate memory", "out of memory", "bad_alloc")


class OnnxSession:
    """One network, from a file or from its bytes. `run` may be called from several threads.

    Raises ModelNotReady, which names the file, for what is no ONNX model, and OutOfMemory.
    """

    def __init__(self, model: Path | bytes, *, device: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        available = onnxruntime.get_available_providers()
        providers = [name for name in _PROVIDERS[device.partition(":")[0]] if name in available]
        source, self.name = (model, "the network") if isinstance(model, bytes) else (str(model), model.name)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=providers)
        except (*_BAD_MODEL, RuntimeException) as error:
            if _lacks_memory(error):
                raise OutOfMemory(f"no memory for {self.name}") from error
            raise ModelNotReady(f"{self.name} is no ONNX model that runs here: {error}") from error
        inputs = self._session.get_inputs()
        self.inputs: Mapping[str, str] = {given.name: given.type for given in inputs}
        """Type, such as `tensor(float)`, by name, in the order of the network."""
        self.shapes: Mapping[str, list[int | str]] = {given.name: given.shape for given in inputs}
        """Sizes by name of the input; a str stands for any."""

    def run(self, feeds: Mapping[str, np.ndarray], check: Callable[[], None]) -> np.ndarray:
        """The first output. What `check`, called every 0.1 s, raises ends the run before it is passed on.

        Raises OutOfMemory.
        """
        options = onnxruntime.RunOptions()
        with ThreadPoolExecutor(1, thread_name_prefix="onnx") as pool:
            run = pool.submit(self._session.run, None, dict(feeds), options)
            try:
                while wait([run], timeout=_CHECK_S).not_done:
                    check()
            finally:
                options.terminate = True
        try:
            return run.result()[0]
        except _NO_MEMORY as error:
            if _lacks_memory(error):
                raise OutOfMemory(f"no memory for a run of {self.name}") from error
            raise


def _lacks_memory(error: Exception) -> bool:
    return any(text in str(error) for text in _NO_MEMORY_TEXTS)
