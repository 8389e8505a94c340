"""What is told of a network that does not load, or does not fit into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.engine import ModelNotReady, OutOfMemory
from models.onnx_sessions import OnnxSession
from tests.onnx_files import write_chain

LENGTH = 1 << 23  # whose square no address space holds


def nothing() -> None:
    pass


def test_a_network_tells_its_inputs_and_runs_from_a_file_or_from_bytes(tmp_path: Path) -> None:
    path = write_chain(tmp_path / "half.onnx", ("n", 3), [("Mul", 0.5)])
    for model in (path, path.read_bytes()):
        session = OnnxSession(model, device="cpu", threads=1)
        assert (session.inputs, session.shapes) == ({"input": "tensor(float)"}, {"input": ["n", 3]})
        assert session.run({"input": np.full((2, 3), 4, np.float32)}, nothing).tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize("cut", [0, 5, -1], ids=["empty", "its beginning", "all but a byte"])
def test_a_file_that_is_no_network_is_named(tmp_path: Path, cut: int) -> None:
    path = write_chain(tmp_path / "kokoro.onnx", ("n", 3), [("Mul", 0.5)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelNotReady, match=r"^kokoro\.onnx is no ONNX model that runs here"):
        OnnxSession(path, device="cpu", threads=1)
    with pytest.raises(ModelNotReady, match=r"^the network is no ONNX model that runs here"):
        OnnxSession(path.read_bytes(), device="cpu", threads=1)


def test_a_run_without_memory_is_told(tmp_path: Path) -> None:
    """The sum of a column and a row has as many numbers as both lengths multiplied."""
    path = write_chain(tmp_path / "wide.onnx", ("a", "b"), [("Transpose", None), ("Add", "input")])
    session = OnnxSession(path, device="cpu", threads=1)
    with pytest.raises(OutOfMemory, match=r"no memory for a run of wide\.onnx"):
        session.run({"input": np.zeros((LENGTH, 1), np.float32)}, nothing)
