"""Writes a detector's program as an ONNX graph, node by node: nothing is traced, so nothing is left over.

TensorFlow's "SAME" padding becomes an attribute of the convolution, for which the input size is fixed; the batch size
stays free.

ONNX Runtime keeps maps in blocks of 16 channels as long as every operation on the way can do so. Four choices keep it
there (its optimised graph shows a ``ReorderOutput`` where the blocks end): a map times a number is a depthwise
convolution, which it fuses with the addition that follows; a gate is enlarged to the size of its map before they are
multiplied; a resized map's shape is written down, because shape inference loses its batch; and the predictors are one
product behind the blocks. Besides, what an expansion makes of a large map goes to memory and back three times before
it is small again, so expansion and depthwise convolution are done a few channels at a time, which fit a cache.

OpenVINO, and ONNX Runtime in int8, keep channels last instead, where a gate is multiplied without resizing and
turning maps into rows costs nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from phidet.architectures.config import Activation
from phidet.architectures.padding import same_padding
from phidet.architectures.program import (
    Beside,
    Columns,
    Conv,
    Gate,
    MaxPool,
    Mean,
    Operation,
    Own,
    Predict,
    Program,
    Scale,
    Sum,
    Transposed,
    Upsample,
    Value,
    inputs_of,
)

if TYPE_CHECKING:
    from phidet.architectures.program import Constant

OPSET = 17
"""ONNX 1.12 of 2022: every runtime in use reads it."""
IR_VERSION = 8
BATCH = "batch"
BLOCK = 16
"""Channels that ONNX Runtime keeps together on CPUs with AVX-512; 8 with AVX2."""
SMALL = 768
"""Weights of fewer values keep fp32 in files in fp16: they are few bytes, and two thirds of the casts, which a runtime
does one by one when it loads the file."""
OWN = "own_"
"""Begins the names of nodes that an architecture writes by itself."""
CACHE_BYTES = 6 << 20
"""Size that reliably stays in the last-level cache between two operations."""


class Graph:
    """Nodes and constants while a graph is written; values are named by text.

    Args:
        half: keep large weights as fp16; they are cast to fp32 where they are used, which runtimes do once, at loading.
        channels_last: write what runs best with channels last, instead of in blocks.
        varying: images of any size; the sizes of values then are those of the usual image, and only say what is fast.
    """

    def __init__(self, half: bool = False, channels_last: bool = False, varying: bool = False) -> None:
        self.half = half
        self.channels_last = channels_last
        self.varying = varying
        self.prefix = ""  # of the names of nodes
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.shapes: list[onnx.ValueInfoProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._by_content: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._casts: dict[str, str] = {}

    def add(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """Adds a node with one output and returns the output's name."""
        return self._node(kind, inputs, 1, name, attributes)[0]

    def add_many(self, kind: str, inputs: Sequence[str], count: int, name: str = "", **attributes: Any) -> list[str]:
        """Adds a node with ``count`` outputs and returns their names, of which the first may be chosen."""
        return self._node(kind, inputs, count, name, attributes)

    def _node(
        self, kind: str, inputs: Sequence[str], count: int, name: str, attributes: Mapping[str, Any]
    ) -> list[str]:
        name = name or f"{self.prefix}{kind.lower()}_{len(self.nodes)}"
        outputs = [name, *(f"{name}_{i}" for i in range(1, count))]
        node = helper.make_node(kind, list(inputs), outputs, name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        return outputs

    def constant(self, values: npt.ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        """A constant; equal ones are stored once."""
        array = np.array(values, dtype, order="C")
        # Keyed by the content: many layers share shapes, factors and all-zero biases.
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._by_content:
            name = f"constant_{len(self.constants)}"
            self._by_content[key] = name
            self.constants[name] = numpy_helper.from_array(array, name)
        return self._by_content[key]

    def weight(self, tensor: Constant) -> str:
        """A weight, fp32 to those who use it."""
        values = tensor if isinstance(tensor, np.ndarray) else tensor.detach().cpu().numpy()
        if not self.halves(tensor):
            return self.constant(values)
        stored = self.constant(values.astype(np.float16), np.float16)
        # Heads share their weights among levels: one cast for all of them.
        if stored not in self._casts:
            self._casts[stored] = self.add("Cast", [stored], to=TensorProto.FLOAT)
        return self._casts[stored]

    def halves(self, tensor: Constant) -> bool:
        """Whether a weight is kept as fp16."""
        return self.half and math.prod(tensor.shape) >= SMALL


def floats(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """An input or output in fp32; sizes that are open are names."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def write_program(graph: Graph, program: Program, size_hw: tuple[int, int]) -> None:
    """Adds the program's operations. In comes "images", of ``size_hw`` pixels; out go the program's outputs."""
    sides: Sequence[int | str] = ("height", "width") if graph.varying else size_hw
    graph.inputs.append(floats("images", [BATCH, 3, *sides]))
    values = [Value("images", 3, size_hw)]
    results = {number: name for name, number in program.outputs.items()}
    # An expansion can be written in parts only if nothing else reads its map.
    readers = Counter(x for operation in program.operations for x in inputs_of(operation))
    expansion: Conv | None = None
    for number, operation in enumerate(program.operations, start=1):
        if expansion is not None:
            assert isinstance(operation, Conv)
            values.append(_in_parts(graph, values[expansion.x], expansion, operation))
            expansion = None
            continue
        reader = program.operations[number] if number < len(program.operations) else None
        if not graph.channels_last and readers[number] == 1 and _expands(operation, reader, values):
            expansion = operation
            values.append(values[operation.x])  # never read: the next operation makes it, in parts
        else:
            value = _write(graph, values, operation, results.get(number, ""))
            name = results.get(number, value.name)
            # Only predictors take the name of an output themselves.
            if value.name != name:
                value = value._replace(name=graph.add("Identity", [value.name], name))
            values.append(value)


def _expands(operation: Operation, reader: Operation | None, values: list[Value]) -> TypeGuard[Conv]:
    """Whether ``operation`` makes a map, larger than a cache, that only a depthwise convolution reads."""
    if not (isinstance(operation, Conv) and isinstance(reader, Conv) and reader.groups == len(reader.weight)):
        return False
    height, width = values[operation.x].size_hw
    pointwise = operation.groups == 1 and operation.weight.shape[-1] == operation.stride == 1
    return pointwise and reader.groups > BLOCK and 4 * len(operation.weight) * height * width > CACHE_BYTES


def _in_parts(g: Graph, x: Value, expansion: Conv, depthwise: Conv) -> Value:
    channels, blocks = len(expansion.weight), CACHE_BYTES // (4 * BLOCK * x.size_hw[0] * x.size_hw[1])
    # Whole blocks of channels, as many as fit the cache together; at least one.
    step = BLOCK * max(1, blocks)
    parts = []
    for begin in range(0, channels, step):
        part = slice(begin, min(begin + step, channels))
        expanded = _conv(g, x, expansion._replace(weight=expansion.weight[part], bias=expansion.bias[part]))
        weight, bias = depthwise.weight[part], depthwise.bias[part]
        parts.append(_conv(g, expanded, depthwise._replace(weight=weight, bias=bias, groups=len(weight))))
    return Value(g.add("Concat", [part.name for part in parts], axis=1), channels, parts[0].size_hw)


# One branch for each kind of operation.
def _write(g: Graph, values: list[Value], operation: Operation, name: str) -> Value:  # noqa: C901, PLR0911, PLR0912
    if isinstance(operation, Predict):
        return _predict(g, [values[x] for x in operation.xs], operation, name)
    if isinstance(operation, Sum):
        terms = [_scaled(g, values[x], factor) for x, factor in zip(operation.xs, operation.factors, strict=True)]
        total = terms[0].name
        for term in terms[1:]:
            total = g.add("Add", [total, term.name])
        return terms[0]._replace(name=_activate(g, total, operation.act))
    if isinstance(operation, Own):
        g.prefix = OWN
        written = operation.module.write(g, [values[x] for x in operation.xs])
        g.prefix = ""
        return written
    if isinstance(operation, Beside):
        maps = [values[x] for x in operation.xs]
        beside = g.add("Concat", [x.name for x in maps], axis=1)
        return Value(beside, sum(x.channels for x in maps), maps[0].size_hw)
    x = values[operation.x]
    if isinstance(operation, Transposed):
        return _transposed(g, x, operation, values[operation.like].size_hw)
    if isinstance(operation, Columns):
        ends = (g.constant([n], np.int64) for n in (operation.start, operation.stop, -1))
        return Value(g.add("Slice", [x.name, *ends], name), operation.stop - operation.start, x.size_hw)
    if isinstance(operation, Conv):
        return _conv(g, x, operation)
    if isinstance(operation, MaxPool):
        padding, size = _pads(g, x.size_hw, operation.kernel, operation.stride, operation.padding)
        kernel, strides = [operation.kernel] * 2, [operation.stride] * 2
        return Value(g.add("MaxPool", [x.name], kernel_shape=kernel, strides=strides, **padding), x.channels, size)
    if isinstance(operation, Scale):
        return _scaled(g, x, operation.factor)
    if isinstance(operation, Upsample):
        return _resized(g, x, values[operation.like].size_hw)
    if isinstance(operation, Mean):
        return Value(g.add("GlobalAveragePool", [x.name]), x.channels, (1, 1))
    assert isinstance(operation, Gate)
    gate = values[operation.gate]
    gate = gate._replace(name=g.add("Sigmoid", [gate.name]))
    if not g.channels_last and not g.varying:
        gate = _resized(g, gate, x.size_hw)
    return x._replace(name=g.add("Mul", [x.name, gate.name]))


def _conv(g: Graph, x: Value, conv: Conv) -> Value:
    kernel = conv.weight.shape[-1]
    reach = (kernel - 1) * conv.dilation + 1
    padding, size = _pads(g, x.size_hw, reach, conv.stride, conv.padding)
    if conv.dilation != 1:
        padding["dilations"] = [conv.dilation] * 2
    inputs = [x.name, g.weight(conv.weight)]
    # ONNX Runtime's quantizer takes a bias inside a convolution only beside a weight without a cast. Outside, runtimes
    # fuse it again when they load the file.
    bias_inside = not g.halves(conv.weight)
    if conv.bias.any() and bias_inside:
        inputs.append(g.weight(conv.bias))
    strides, group = [conv.stride] * 2, conv.groups
    name = g.add("Conv", inputs, kernel_shape=[kernel] * 2, strides=strides, group=group, **padding)
    if conv.bias.any() and not bias_inside:
        name = g.add("Add", [name, g.weight(conv.bias[:, None, None])])
    return Value(_activate(g, name, conv.act), len(conv.weight), size)


def _transposed(g: Graph, x: Value, conv: Transposed, size_hw: tuple[int, int]) -> Value:
    assert not g.varying
    # Of the 2n + 1 pixels along a side the last ones are cut off.
    cut = [2 * old + 1 - new for old, new in zip(x.size_hw, size_hw, strict=True)]
    inputs = [x.name, g.weight(conv.weight.swapaxes(0, 1))]
    if conv.bias.any():
        inputs.append(g.constant(conv.bias))
    name = g.add("ConvTranspose", inputs, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, *cut])
    return Value(_activate(g, name, conv.act), len(conv.weight), size_hw)


def _activate(g: Graph, x: str, act: Activation | None) -> str:
    if act == "silu":
        return g.add("Mul", [x, g.add("Sigmoid", [x])])
    if act == "relu6":
        return g.add("Clip", [x, g.constant(0.0), g.constant(6.0)])
    return g.add("Relu", [x]) if act == "relu" else x


def _scaled(g: Graph, x: Value, factor: float) -> Value:
    if factor == 1.0:
        return x
    # A depthwise convolution keeps the blocked layout, but only where channels fill whole blocks.
    if x.channels % BLOCK:
        return x._replace(name=g.add("Mul", [x.name, g.constant(factor)]))
    factors = g.constant(np.full((x.channels, 1, 1, 1), factor))
    return x._replace(name=g.add("Conv", [x.name, factors], kernel_shape=[1, 1], group=x.channels))


def _resized(g: Graph, x: Value, wanted: tuple[int, int]) -> Value:
    """Nearest neighbour by floor of the index."""
    assert not g.varying
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if wanted[0] % x.size_hw[0] == wanted[1] % x.size_hw[1] == 0:
        factors = [1.0, 1.0, wanted[0] / x.size_hw[0], wanted[1] / x.size_hw[1]]
        name = g.add("Resize", [x.name, "", g.constant(factors)], **modes)
    else:
        # Factors that are not whole could round to another size, so the size itself is given, after batch and channels.
        kept = g.add("Slice", [g.add("Shape", [x.name]), *(g.constant([n], np.int64) for n in (0, 2))])
        shape = g.add("Concat", [kept, g.constant(wanted, np.int64)], axis=0)
        name = g.add("Resize", [x.name, "", "", shape], **modes)
    g.shapes.append(floats(name, [BATCH, x.channels, *wanted]))
    return Value(name, x.channels, wanted)


def _predict(g: Graph, xs: list[Value], operation: Predict, name: str) -> Value:
    """All levels side by side, then one product: it makes the largest array of all, and makes it once."""
    outputs, channels = operation.weight.shape
    cells = sum(x.size_hw[0] * x.size_hw[1] for x in xs)
    if g.channels_last:
        rows = [g.add("Transpose", [x.name], perm=[0, 2, 3, 1]) for x in xs]
        flat = [g.add("Reshape", [row, g.constant([0, -1, channels], np.int64)]) for row in rows]
        product = g.add("MatMul", [g.add("Concat", flat, axis=1), g.weight(operation.weight.T)])
        return Value(g.add("Add", [product, g.weight(operation.bias)], name), outputs, (cells, 1))
    flat = [g.add("Reshape", [x.name, g.constant([0, channels, -1], np.int64)]) for x in xs]
    side_by_side = g.add("Concat", flat, axis=2)  # (B, C, cells)
    # The bias is a weight of a channel of ones: adding it afterwards would go over the largest array again.
    with_ones = g.add("Pad", [side_by_side, g.constant([0, 0, 0, 0, 1, 0], np.int64), g.constant(1.0)])
    weight = np.concatenate([np.asarray(operation.weight), np.asarray(operation.bias)[:, None]], 1).T
    name = g.add("MatMul", [g.add("Transpose", [with_ones], perm=[0, 2, 1]), g.weight(weight)], name)
    return Value(name, outputs, (cells, 1))


def _pads(
    g: Graph, size: tuple[int, int], kernel: int, stride: int, padding: int | None
) -> tuple[dict[str, Any], tuple[int, int]]:
    """ONNX's attribute, of pads (top, left, bottom, right) where they are known, and the output's size."""
    # TensorFlow's "SAME": the total depends on the size, and the odd pixel goes below and to the right.
    if padding is None:
        top, bottom = same_padding(size[0], kernel, stride)
        left, right = same_padding(size[1], kernel, stride)
    else:
        top = bottom = left = right = padding
    height = (size[0] + top + bottom - kernel) // stride + 1
    width = (size[1] + left + right - kernel) // stride + 1
    # Where sizes vary, what "SAME" is can only be said by its name.
    same = padding is None and g.varying
    return {"auto_pad": "SAME_UPPER"} if same else {"pads": [top, left, bottom, right]}, (height, width)
