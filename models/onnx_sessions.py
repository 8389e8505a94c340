"""ONNX networks whose run can be stopped between any two of their layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import onnxruntime

_CHECK_S = 0.1
_PROVIDERS = {
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "cpu": ("CPUExecutionProvider",),
}


class OnnxSession:
    """One network. `run` may be called from several threads."""

    def __init__(self, model: Path | bytes, *, device: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        available = onnxruntime.get_available_providers()
        providers = [name for name in _PROVIDERS[device.partition(":")[0]] if name in available]
        source = model if isinstance(model, bytes) else str(model)
        self._session = onnxruntime.InferenceSession(source, options, providers=providers)
        self.inputs: Mapping[str, str] = {given.name: given.type for given in self._session.get_inputs()}
        """Type, such as `tensor(float)`, by name, in the order of the network."""

    def run(self, feeds: Mapping[str, np.ndarray], check: Callable[[], None]) -> np.ndarray:
        """The first output. What `check`, called every 0.1 s, raises ends the run before it is passed on."""
        options = onnxruntime.RunOptions()
        with ThreadPoolExecutor(1, thread_name_prefix="onnx") as pool:
            run = pool.submit(self._session.run, None, dict(feeds), options)
            try:
                while wait([run], timeout=_CHECK_S).not_done:
                    check()
            finally:
                options.terminate = True
        return run.result()[0]
