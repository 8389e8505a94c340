"""Reads networks in ncnn's two-file format: a text `.param` graph and a `.bin` of weights.

`.param`: a magic number, "layers blobs", then one layer a line: type, name, input and output counts,
their blob names, and `key=value` parameters. `.bin`: the weights of the layers in that order. A
Convolution's weight starts with a tag that tells its type and is padded to 4 bytes; its bias, and
MemoryData, are raw fp32. Format: github.com/Tencent/ncnn, docs/developer-guide (param and model file).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_PARAM_MAGIC = "7767517"
_TAG_FP16, _TAG_FP32 = 0x01306B47, 0


class NcnnFormatError(ValueError):
    """The two files do not belong together, or hold what this reader does not know."""


@dataclass(frozen=True, slots=True)
class NcnnLayer:
    """One layer of the graph; `weight` and `bias` are fp32, whatever their type in the file."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: dict[int, float] = field(default_factory=dict)
    weight: Tensor | None = None
    bias: Tensor | None = None


def read_ncnn(param: Path, weights: Path) -> list[NcnnLayer]:
    """The layers in file order. Raises NcnnFormatError unless every byte of `weights` is used."""
    reader = _BinReader(weights.read_bytes())
    layers = [_with_weights(_parse_layer(line), reader) for line in _layer_lines(param)]
    if reader.left_bytes:
        raise NcnnFormatError(f"{weights.name}: {reader.left_bytes} bytes are left after the last layer")
    return layers


def _layer_lines(param: Path) -> list[str]:
    magic, counts, *lines = param.read_text("utf-8").splitlines()
    expected = int(counts.split()[0])
    if magic.strip() != _PARAM_MAGIC or len(lines) != expected:
        raise NcnnFormatError(f"{param.name}: not an ncnn graph of {expected} layers")
    return lines


def _parse_layer(line: str) -> NcnnLayer:
    kind, name, num_inputs, num_outputs, *rest = line.split()
    first_output = int(num_inputs)
    first_parameter = first_output + int(num_outputs)
    pairs = (entry.split("=") for entry in rest[first_parameter:])
    return NcnnLayer(
        kind=kind,
        name=name,
        inputs=tuple(rest[:first_output]),
        outputs=tuple(rest[first_output:first_parameter]),
        parameters={int(key): float(value) for key, value in pairs if "," not in value},
    )


def _with_weights(layer: NcnnLayer, reader: _BinReader) -> NcnnLayer:
    if layer.kind == "Convolution":
        weight, bias = _read_convolution(layer, reader)
    elif layer.kind == "MemoryData":
        weight, bias = _read_constant(layer, reader), None
    else:
        return layer
    return NcnnLayer(layer.kind, layer.name, layer.inputs, layer.outputs, layer.parameters, weight, bias)


def _read_convolution(layer: NcnnLayer, reader: _BinReader) -> tuple[Tensor, Tensor | None]:
    """Parameters: 0 output channels, 1 kernel width, 11 its height, 5 has a bias, 6 weight count."""
    parameters = layer.parameters
    out_channels, kernel_w, count = (int(parameters[key]) for key in (0, 1, 6))
    kernel_h = int(parameters.get(11, kernel_w))
    in_channels = count // (out_channels * kernel_h * kernel_w)
    weight = reader.tagged(count).reshape(out_channels, in_channels, kernel_h, kernel_w)
    return weight, reader.raw(out_channels) if parameters.get(5) else None


def _read_constant(layer: NcnnLayer, reader: _BinReader) -> Tensor:
    """Parameters: 0 width, 1 height, 2 channels; a missing one is no axis."""
    sizes = [int(layer.parameters[key]) for key in (2, 1, 0) if layer.parameters.get(key)]
    return reader.raw(math.prod(sizes)).reshape(sizes)


class _BinReader:
    """A cursor over the bytes of a `.bin` file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left_bytes(self) -> int:
        return len(self._data) - self._at

    def raw(self, count: int) -> Tensor:
        """(count,) fp32."""
        return torch.from_numpy(self._take(count, np.dtype("<f4")))

    def tagged(self, count: int) -> Tensor:
        """(count,) fp32 from a block that starts with its type tag and ends on a multiple of 4 bytes."""
        tag = int(self._take(1, np.dtype("<u4"))[0])
        if tag == _TAG_FP32:
            return self.raw(count)
        if tag != _TAG_FP16:
            raise NcnnFormatError(f"weight type {tag:#010x} is not supported")
        values = self._take(count, np.dtype("<f2"))
        self._at += -values.nbytes % 4
        return torch.from_numpy(values.astype(np.float32))

    def _take(self, count: int, dtype: np.dtype[np.generic]) -> np.ndarray:
        if count * dtype.itemsize > self.left_bytes:
            raise NcnnFormatError(f"the weights end at byte {len(self._data)}, more are expected")
        values = np.frombuffer(self._data, dtype, count, self._at).copy()
        self._at += values.nbytes
        return values
