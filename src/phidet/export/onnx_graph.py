"""Writes a detector's program as an ONNX graph, node by node: nothing is traced, so nothing is left over.

TensorFlow's "SAME" padding becomes an attribute of the convolution, for which the input size is fixed; the batch size
stays free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from phidet.config import Activation
from phidet.nn.blocks import same_padding
from phidet.nn.program import Conv, Gate, MaxPool, Mean, Operation, Predict, Program, Scale, Sum, Upsample

OPSET = 17
"""ONNX 1.12 of 2022: every runtime in use reads it."""
IR_VERSION = 8
BATCH = "batch"


class Graph:
    """Nodes and constants while a graph is written; values are named by text.

    Args:
        half: keep weights as fp16; they are cast to fp32 where they are used, which runtimes do once, at loading.
    """

    def __init__(self, half: bool = False) -> None:
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._by_content: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """Adds a node with one output and returns the output's name."""
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: npt.ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        """A constant as it is; equal ones are stored once."""
        array = np.ascontiguousarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._by_content:
            name = f"constant_{len(self.constants)}"
            self._by_content[key] = name
            self.constants[name] = numpy_helper.from_array(array, name)
        return self._by_content[key]

    def weight(self, tensor: Tensor) -> str:
        """A weight, fp32 to those who use it."""
        values = tensor.detach().cpu().numpy()
        if not self.half:
            return self.constant(values)
        return self.add("Cast", [self.constant(values.astype(np.float16), np.float16)], to=TensorProto.FLOAT)


def write_program(graph: Graph, program: Program, size_hw: tuple[int, int]) -> tuple[str, str]:
    """Adds the program's operations for images of ``size_hw`` pixels, which come in as the value "images".

    Returns:
        The names of the class logits, (batch, anchors, classes), and of the box deltas, (batch, anchors, 4).
    """
    names, sizes = ["images"], [size_hw]
    for operation in program.operations:
        name, size = _OperationWriter(graph, names, sizes).write(operation)
        names.append(name)
        sizes.append(size)
    return names[program.class_logits], names[program.box_deltas]


class _OperationWriter:
    """Writes one operation, given names and (height, width) of the values so far."""

    def __init__(self, graph: Graph, names: list[str], sizes: list[tuple[int, int]]) -> None:
        self.graph, self.names, self.sizes = graph, names, sizes

    def write(self, operation: Operation) -> tuple[str, tuple[int, int]]:  # noqa: PLR0911 - one per kind
        """The name and the size of the new value."""
        g = self.graph
        if isinstance(operation, Predict):
            return self._predict(operation), (0, 0)
        if isinstance(operation, Sum):
            return self._sum(operation), self.sizes[operation.xs[0]]
        x, size = self.names[operation.x], self.sizes[operation.x]
        if isinstance(operation, Conv):
            return self._conv(operation, x, size)
        if isinstance(operation, MaxPool):
            pads, size = _pads(size, operation.kernel, operation.stride, operation.padding)
            kernel, strides = [operation.kernel] * 2, [operation.stride] * 2
            return g.add("MaxPool", [x], kernel_shape=kernel, strides=strides, pads=pads), size
        if isinstance(operation, Scale):
            return g.add("Mul", [x, g.constant(operation.factor)]), size
        if isinstance(operation, Upsample):
            return self._upsample(x, size, self.sizes[operation.like]), self.sizes[operation.like]
        if isinstance(operation, Mean):
            return g.add("GlobalAveragePool", [x]), (1, 1)
        assert isinstance(operation, Gate)
        return g.add("Mul", [x, g.add("Sigmoid", [self.names[operation.gate]])]), size

    def _conv(self, conv: Conv, x: str, size: tuple[int, int]) -> tuple[str, tuple[int, int]]:
        kernel = conv.weight.shape[-1]
        pads, size = _pads(size, kernel, conv.stride, conv.padding)
        inputs = [x, self.graph.weight(conv.weight)]
        if conv.bias.any():
            inputs.append(self.graph.weight(conv.bias))
        name = self.graph.add(
            "Conv", inputs, kernel_shape=[kernel] * 2, strides=[conv.stride] * 2, pads=pads, group=conv.groups
        )
        return self._activate(name, conv.act), size

    def _activate(self, x: str, act: Activation | None) -> str:
        g = self.graph
        if act == "silu":
            return g.add("Mul", [x, g.add("Sigmoid", [x])])
        if act == "relu6":
            return g.add("Clip", [x, g.constant(0.0), g.constant(6.0)])
        return g.add("Relu", [x]) if act == "relu" else x

    def _upsample(self, x: str, size: tuple[int, int], wanted: tuple[int, int]) -> str:
        g = self.graph
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if wanted[0] % size[0] == wanted[1] % size[1] == 0:
            factors = [1.0, 1.0, wanted[0] / size[0], wanted[1] / size[1]]
            return g.add("Resize", [x, "", g.constant(factors)], **modes)
        batch_and_channels = g.add("Slice", [g.add("Shape", [x]), *(g.constant([n], np.int64) for n in (0, 2))])
        shape = g.add("Concat", [batch_and_channels, g.constant(wanted, np.int64)], axis=0)
        return g.add("Resize", [x, "", "", shape], **modes)

    def _sum(self, operation: Sum) -> str:
        g = self.graph
        terms = [
            self.names[x] if factor == 1.0 else g.add("Mul", [self.names[x], g.constant(factor)])
            for x, factor in zip(operation.xs, operation.factors, strict=True)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = g.add("Add", [total, term])
        return self._activate(total, operation.act)

    def _predict(self, operation: Predict) -> str:
        """All levels side by side before the product: it is the one that makes the large array, in its last order."""
        g = self.graph
        channels = operation.weight.shape[1]
        flat = [g.add("Reshape", [self.names[x], g.constant([0, channels, -1], np.int64)]) for x in operation.xs]
        cells = g.add("Transpose", [g.add("Concat", flat, axis=2)], perm=[0, 2, 1])  # (B, Σ H·W, C)
        product = g.add("MatMul", [cells, g.weight(operation.weight.T)])
        product = g.add("Add", [product, g.weight(operation.bias)])
        return g.add("Reshape", [product, g.constant([0, -1, operation.outputs], np.int64)])


def _pads(size: tuple[int, int], kernel: int, stride: int, padding: int | None) -> tuple[list[int], tuple[int, int]]:
    """ONNX's pads (top, left, bottom, right), and the output's size."""
    if padding is None:
        top, bottom = same_padding(size[0], kernel, stride)
        left, right = same_padding(size[1], kernel, stride)
    else:
        top = bottom = left = right = padding
    height = (size[0] + top + bottom - kernel) // stride + 1
    width = (size[1] + left + right - kernel) // stride + 1
    return [top, left, bottom, right], (height, width)
