"""Reads networks in TensorFlow Lite's format (.tflite) into torch: the operators of small camera networks.

The format is a flatbuffer; the numbers of its fields, operators and types below are those of the public
schema, version 3 (github.com/tensorflow/tensorflow, tensorflow/lite/schema/schema.fbs). Tensors keep the
format's layout (B, H, W, C); convolutions see them as channels-last views of (B, C, H, W), without a copy.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flatbuffers import number_types
from flatbuffers.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

_IDENTIFIER = b"TFL3"
_UINT8, _INT8 = number_types.Uint8Flags, number_types.Int8Flags
_INT32, _UINT32 = number_types.Int32Flags, number_types.Uint32Flags

# Numbers of fields, by table of the schema.
_MODEL_OPERATOR_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_CODE_DEPRECATED, _CODE = 0, 3
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME, _TENSOR_SPARSITY = 0, 1, 2, 3, 6
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS, _OPERATOR_OPTIONS = 0, 1, 2, 4
_BUFFER_DATA = 0

_DTYPES: Mapping[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 2: np.dtype("<i4")}
_PADDING_SAME = 0
_EMPTY_TABLE = struct.pack("<HHi", 4, 4, 4)  # its list of fields (only the two sizes), then where that is
_UNREADABLE = (struct.error, IndexError, KeyError, TypeError, ValueError, RuntimeError)  # bytes out of place


class TfliteFormatError(ValueError):
    """The file is no whole .tflite network, or holds what this reader does not know."""


class TfliteNetwork(nn.Module):
    """A graph of one input; its outputs by the names in the file."""

    def __init__(self, graph: _Graph) -> None:
        super().__init__()
        self.input_shape = graph.tensors[graph.input].shape
        self._input = graph.input
        self._outputs = {graph.tensors[number].name: number for number in graph.outputs}
        self._wires: list[tuple[tuple[int, ...], int]] = []
        self._operators = nn.ModuleList()
        for node in graph.nodes:
            self._operators.append(_OPERATORS[node.operator](node))
            self._wires.append((node.activations, node.output))

    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        """`x`: (1, H, W, C) float32 of `input_shape`."""
        values = {self._input: x}
        for operator, (reads, writes) in zip(self._operators, self._wires, strict=True):
            values[writes] = operator(*(values[number] for number in reads))
        return {name: values[number] for name, number in self._outputs.items()}


def load_tflite(path: Path) -> TfliteNetwork:
    """The network in fp32, ready to run. Raises TfliteFormatError, which names the file."""
    data = path.read_bytes()
    if data[4:8] != _IDENTIFIER:
        raise TfliteFormatError(f"{path.name} is not a .tflite network")
    try:
        return TfliteNetwork(_read_graph(data)).eval()
    except TfliteFormatError as error:
        raise TfliteFormatError(f"{path.name}: {error}") from error
    except _UNREADABLE as error:
        raise TfliteFormatError(f"{path.name} cannot be read: {error}") from error


class _Record:
    """One table of the flatbuffer; its fields by their number in the schema."""

    def __init__(self, data: bytes, at: int) -> None:
        self._table = Table(data, at)

    def has(self, field: int) -> bool:
        return bool(self._table.Offset(4 + 2 * field))

    def number(self, field: int, flags: Any, default: int = 0) -> int:
        return int(self._table.GetSlot(4 + 2 * field, default, flags))

    def array(self, field: int, flags: Any) -> np.ndarray:
        """(N,) of the numpy type of `flags`; empty where the field is not given."""
        offset = self._table.Offset(4 + 2 * field)
        if not offset:
            return np.zeros(0, flags.py_type)
        return np.asarray(self._table.GetVectorAsNumpy(flags, offset))

    def text(self, field: int) -> str:
        return self.array(field, _UINT8).tobytes().decode()

    def record(self, field: int) -> _Record:
        """A field that is a table; where it is not given, a table of defaults."""
        offset = self._table.Offset(4 + 2 * field)
        if not offset:
            return _Record(_EMPTY_TABLE, 4)
        return _Record(self._table.Bytes, self._table.Indirect(self._table.Pos + offset))

    def records(self, field: int) -> list[_Record]:
        offset = self._table.Offset(4 + 2 * field)
        start, count = self._table.Vector(offset), self._table.VectorLen(offset)
        places = range(start, start + 4 * count, 4)
        return [_Record(self._table.Bytes, self._table.Indirect(place)) for place in places]


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    name: str
    shape: tuple[int, ...]
    constant: Tensor | None


@dataclass(frozen=True, slots=True)
class _Node:
    """One operator: which values it reads and writes; `constants` are its other inputs, in order."""

    operator: str
    activations: tuple[int, ...]
    constants: tuple[Tensor, ...]
    output: int
    output_shape: tuple[int, ...]
    options: _Record


@dataclass(frozen=True, slots=True)
class _Graph:
    tensors: list[_TensorInfo]
    nodes: list[_Node]
    input: int
    outputs: tuple[int, ...]


def _read_graph(data: bytes) -> _Graph:
    model = _Record(data, struct.unpack_from("<I", data)[0])
    graphs = model.records(_MODEL_SUBGRAPHS)
    inputs = graphs[0].array(_GRAPH_INPUTS, _INT32)
    if len(graphs) != 1 or len(inputs) != 1:
        raise TfliteFormatError(
            f"{len(graphs)} graphs, the first of {len(inputs)} inputs; one of one is known"
        )
    buffers = [buffer.array(_BUFFER_DATA, _UINT8) for buffer in model.records(_MODEL_BUFFERS)]
    tensors = [_read_tensor(record, buffers) for record in graphs[0].records(_GRAPH_TENSORS)]
    names = [_operator_name(record) for record in model.records(_MODEL_OPERATOR_CODES)]
    return _Graph(
        tensors,
        _read_nodes(graphs[0], names, tensors),
        int(inputs[0]),
        tuple(graphs[0].array(_GRAPH_OUTPUTS, _INT32).tolist()),
    )


def _read_tensor(record: _Record, buffers: list[np.ndarray]) -> _TensorInfo:
    name, shape = record.text(_TENSOR_NAME), tuple(record.array(_TENSOR_SHAPE, _INT32).tolist())
    raw = buffers[record.number(_TENSOR_BUFFER, _UINT32)]
    if not raw.size:
        return _TensorInfo(name, shape, None)
    if record.has(_TENSOR_SPARSITY):
        raise TfliteFormatError(f"tensor {name} is sparse, which is not supported")
    kind = record.number(_TENSOR_TYPE, _INT8)
    if kind not in _DTYPES:
        raise TfliteFormatError(f"tensor {name} is of type {kind}, which is not supported")
    values = np.frombuffer(raw.tobytes(), _DTYPES[kind]).reshape(shape)
    return _TensorInfo(name, shape, torch.from_numpy(values.copy()))


def _operator_name(record: _Record) -> str:
    """The operator's name, or its number. The first field held all numbers when there were fewer than 128."""
    code = max(record.number(_CODE_DEPRECATED, _INT8), record.number(_CODE, _INT32))
    return _OPERATOR_NAMES.get(code, f"number {code}")


def _read_nodes(graph: _Record, names: list[str], tensors: list[_TensorInfo]) -> list[_Node]:
    """The operators that compute; float16 constants are widened here, once."""
    nodes = []
    for record in graph.records(_GRAPH_OPERATORS):
        node = _read_node(record, names, tensors)
        if node.operator == "DEQUANTIZE" and node.constants:
            tensors[node.output] = _TensorInfo("", node.output_shape, node.constants[0].float())
        elif node.operator in _OPERATORS:
            nodes.append(node)
        else:
            raise TfliteFormatError(f"operator {node.operator} is not supported")
    return nodes


def _read_node(record: _Record, names: list[str], tensors: list[_TensorInfo]) -> _Node:
    inputs = record.array(_OPERATOR_INPUTS, _INT32).tolist()
    (output,) = record.array(_OPERATOR_OUTPUTS, _INT32).tolist()
    constants = {number: tensors[number].constant for number in inputs}
    return _Node(
        operator=names[record.number(_OPERATOR_CODE, _UINT32)],
        activations=tuple(number for number in inputs if constants[number] is None),
        constants=tuple(constant for constant in constants.values() if constant is not None),
        output=output,
        output_shape=tensors[output].shape,
        options=record.record(_OPERATOR_OPTIONS),
    )


class _Convolution(nn.Module):
    """Weight (O, I / groups, kH, kW) and bias (O,)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, window: _Window, groups: int) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self._window, self._groups = window, groups

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, I) to (B, H', W', O)."""
        channels_first, padding = self._window.padded(x.permute(0, 3, 1, 2), 0.0)  # (B, I, H, W)
        stride = self._window.stride
        out = F.conv2d(channels_first, self.weight, self.bias, stride, padding, groups=self._groups)
        return out.permute(0, 2, 3, 1)


class _Mixing(nn.Module):
    """A convolution of 1x1: weight (O, I) and bias (O,)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, I) to (B, H, W, O): a matrix product, as the layout lies."""
        return F.linear(x, self.weight, self.bias)


class _Prelu(nn.Module):
    slope: Tensor

    def __init__(self, node: _Node) -> None:
        super().__init__()
        (slope,) = node.constants
        if slope.shape[:-1].numel() != 1:
            raise TfliteFormatError(f"PRELU of a slope by {tuple(slope.shape)} is not supported")
        self.register_buffer("slope", slope.flatten())

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x.permute(0, 3, 1, 2), self.slope).permute(0, 2, 3, 1)


class _Function(nn.Module):
    """An operator without weights."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._function(*inputs)


@dataclass(frozen=True, slots=True)
class _Window:
    """How a window of `size` (height, width) moves over a picture."""

    size: tuple[int, int]
    stride: tuple[int, int]
    is_same: bool

    def padded(self, x: Tensor, value: float) -> tuple[Tensor, tuple[int, int]]:
        """(B, C, H, W) with the padding that is not the same on both sides, and the padding that is."""
        if not self.is_same:
            return x, (0, 0)
        top, bottom = _same_padding(x.shape[2], self.size[0], self.stride[0])
        left, right = _same_padding(x.shape[3], self.size[1], self.stride[1])
        if (top, left) == (bottom, right) and value == 0:
            return x, (top, left)
        return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    """Before and after, so that ceil(length / stride) windows fit; the odd one comes after."""
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def _convolution(node: _Node) -> nn.Module:
    """Options: padding, stride_w, stride_h, activation, dilation_w, dilation_h. Weight: (O, kH, kW, I)."""
    weight, bias = node.constants
    _refuse_others(node, activation=3, dilations=(4, 5))
    if weight.shape[1:3].numel() == 1 and _stride(node) == (1, 1):
        return _Mixing(weight[:, 0, 0], bias)
    return _Convolution(weight.permute(0, 3, 1, 2), bias, _window(node, weight), groups=1)


def _depthwise_convolution(node: _Node) -> nn.Module:
    """Options: as `_convolution`, but the multiplier before the activation. Weight: (1, kH, kW, C)."""
    weight, bias = node.constants
    _refuse_others(node, activation=4, dilations=(5, 6))
    if node.options.number(3, _INT32) != 1:
        raise TfliteFormatError(f"{node.operator} with a depth multiplier is not supported")
    return _Convolution(weight.permute(3, 0, 1, 2), bias, _window(node, weight), groups=weight.shape[3])


def _window(node: _Node, weight: Tensor) -> _Window:
    return _Window((weight.shape[1], weight.shape[2]), _stride(node), _is_same(node))


def _max_pool(node: _Node) -> nn.Module:
    """Options: padding, stride_w, stride_h, width, height, activation."""
    _refuse_others(node, activation=5)
    size = node.options.number(4, _INT32), node.options.number(3, _INT32)
    window = _Window(size, _stride(node), _is_same(node))

    def pool(x: Tensor) -> Tensor:
        channels_first, _ = window.padded(x.permute(0, 3, 1, 2), -torch.inf)
        return F.max_pool2d(channels_first, window.size, window.stride).permute(0, 2, 3, 1)

    return _Function(pool)


def _stride(node: _Node) -> tuple[int, int]:
    return node.options.number(2, _INT32), node.options.number(1, _INT32)


def _is_same(node: _Node) -> bool:
    return node.options.number(0, _INT8) == _PADDING_SAME


def _add(node: _Node) -> nn.Module:
    """Options: activation."""
    _refuse_others(node, activation=0)
    return _Function(torch.add)


def _pad(node: _Node) -> nn.Module:
    """Constant: (axes, 2) zeros before and after."""
    pairs = node.constants[0].tolist()
    amounts = [amount for pair in reversed(pairs) for amount in pair]
    return _Function(lambda x: F.pad(x, amounts))


def _reshape(node: _Node) -> nn.Module:
    return _Function(lambda x: x.reshape(node.output_shape))


def _concatenation(node: _Node) -> nn.Module:
    """Options: axis, activation."""
    _refuse_others(node, activation=1)
    axis = node.options.number(0, _INT32)
    return _Function(lambda *parts: torch.cat(parts, axis))


def _refuse_others(node: _Node, activation: int, dilations: tuple[int, ...] = ()) -> None:
    """The two options, by their number, that no network here uses."""
    if node.options.number(activation, _INT8):
        raise TfliteFormatError(f"{node.operator} with an activation inside is not supported")
    if any(node.options.number(field, _INT32, 1) != 1 for field in dilations):
        raise TfliteFormatError(f"{node.operator} with dilation is not supported")


_OPERATOR_NAMES = {  # those that MediaPipe's face networks use, also where not supported
    0: "ADD",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    17: "MAX_POOL_2D",
    19: "RELU",
    22: "RESHAPE",
    23: "RESIZE_BILINEAR",
    34: "PAD",
    54: "PRELU",
}
_OPERATORS: Mapping[str, Callable[[_Node], nn.Module]] = {
    "ADD": _add,
    "CONCATENATION": _concatenation,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise_convolution,
    "MAX_POOL_2D": _max_pool,
    "PAD": _pad,
    "PRELU": _Prelu,
    "RELU": lambda _node: nn.ReLU(),
    "RESHAPE": _reshape,
}
