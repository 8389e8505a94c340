"""Small ONNX files, written field by field: the onnx package is not needed to make a chain of operators."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

_FLOAT = 1
_OPSET = 13


def write_chain(
    path: Path,
    shape: Sequence[int | str],
    nodes: Sequence[tuple[str, float | str | None]],
    *,
    remark: bytes = b"",
) -> Path:
    """A network whose float input passes the operators in turn; their second operand is a scalar, a value
    such as `input` by name, or none.

    A str in `shape` is a dimension of any length. `remark` stands at the start of the file.
    """
    graph, value = b"", "input"
    for index, (operator, operand) in enumerate(nodes):
        inputs, after = [value], f"v{index}" if index + 1 < len(nodes) else "output"
        if isinstance(operand, str):
            inputs.append(operand)
        elif operand is not None:
            inputs.append(f"c{index}")
            graph += _field(5, _scalar(f"c{index}", operand))
        named = b"".join(_field(1, name.encode()) for name in inputs)
        graph += _field(1, named + _field(2, after.encode()) + _field(4, operator.encode()))
        value = after
    graph += _field(2, b"chain") + _field(11, _value("input", shape)) + _field(12, _value("output", shape))
    path.write_bytes(_field(6, remark) + _number(1, 8) + _field(7, graph) + _field(8, _number(2, _OPSET)))
    return path


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    sizes = [_number(1, size) if isinstance(size, int) else _field(2, size.encode()) for size in shape]
    tensor = _number(1, _FLOAT) + _field(2, b"".join(_field(1, size) for size in sizes))
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _scalar(name: str, value: float) -> bytes:
    return _number(2, _FLOAT) + _field(8, name.encode()) + _field(9, struct.pack("<f", value))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
