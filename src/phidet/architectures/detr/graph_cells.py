"""Feature cells as ONNX nodes: which of them are image, and their positions; as :mod:`positions` computes them.

A row or a column is image by itself, so that everything is computed along the sides and joined at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from phidet.architectures.detr.config import LEARNED_CELLS, TEMPERATURE
from phidet.architectures.graph_layers import LayerWriter
from phidet.architectures.prepared import INPUT_NAMES
from phidet.architectures.program import GraphWriter, Value
from phidet.architectures.weights import Weights

IMAGES, VALID_HW = INPUT_NAMES
_FLOAT = 1
"""ONNX's number of fp32."""


class Sides(LayerWriter):
    """The two sides of a map of feature cells, 0 for its rows and 1 for its columns."""

    def __init__(self, graph: GraphWriter, cells: Value) -> None:
        super().__init__(graph)
        self.shape, self.image_shape = self.add("Shape", cells.name), self.add("Shape", IMAGES)

    def number(self, shape: str, index: int) -> str:
        """One of the sizes in ``shape``, a scalar."""
        return self.g.add("Gather", [shape, self.g.constant(index, np.int64)], axis=0)

    def counted(self, side: int) -> str:
        """0, 1, 2, … of the cells along a side, (n,) in fp32."""
        start, step = (self.g.constant(number, np.int64) for number in (0, 1))
        return self._float(self.add("Range", start, self.number(self.shape, 2 + side), step))

    def inside(self, side: int) -> str:
        """Which cells along a side are image, (B, n) bool: those whose nearest pixel is."""
        pixels, cells = (self._float(self.number(shape, 2 + side)) for shape in (self.image_shape, self.shape))
        # The pixel that PyTorch's interpolation of a mask takes, in float32 as there.
        nearest = self.add("Floor", self.add("Mul", self.counted(side), self.add("Div", pixels, cells)))
        valid = self.g.add("Gather", [VALID_HW, self.g.constant([side], np.int64)], axis=1)
        return self.add("Less", nearest, self._float(valid))

    def repeated(self, x: str, side: int) -> str:
        """(…, 1, …), where that is a side of a map (B, h, w, C), repeated along it."""
        one = self.g.constant([1], np.int64)
        count = self.unsqueeze(self.number(self.shape, 2 + side), 0)
        shape = [one, one, one, one]
        shape[1 + side] = count
        return self.add("Expand", x, self.g.add("Concat", shape, axis=0))

    def joined(self, parts: Sequence[str], channels: int) -> str:
        """Maps (B, h, w, C / 2) beside each other as (B, h · w, C)."""
        return self.reshape(self.g.add("Concat", parts, axis=3), [0, -1, channels])

    def _float(self, x: str) -> str:
        return self.g.add("Cast", [x], to=_FLOAT)


class ImageCells(NamedTuple):
    """A map → what is added to logits of attention to its cells, (B, 1, 1, N): 0, or −∞ for padding."""

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        (cells,) = inputs
        sides = Sides(graph, cells)
        rows, columns = (sides.unsqueeze(sides.inside(side), 2 - side) for side in (0, 1))
        both = sides.reshape(sides.add("And", rows, columns), [0, 1, 1, -1])
        bias = sides.add("Where", both, graph.constant(0.0), graph.constant(-math.inf))
        return Value(bias, 1, cells.size_hw)


class SinePart(NamedTuple):
    """A map → the sine positions of its cells, (B, N, 2 · features)."""

    features: int

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        (cells,) = inputs
        sides = Sides(graph, cells)
        parts = [sides.repeated(self._along(sides, side), 1 - side) for side in (0, 1)]
        return cells._replace(name=sides.joined(parts, 2 * self.features))

    def _along(self, sides: Sides, side: int) -> str:
        """(B, h, 1, features) of rows, or (B, 1, w, features) of columns."""
        constant = sides.g.constant
        inside = sides.g.add("Cast", [sides.inside(side)], to=_FLOAT)
        total = sides.g.add("ReduceSum", [inside, constant([1], np.int64)], keepdims=1)  # (B, 1)
        # Counting goes on along the padding at the end of a side, but stays as it is there. (Beside the image, in the
        # same rows, PyTorch has 0; nothing attends to padding, so that makes no difference to any answer.)
        count = sides.add("Min", sides.add("Add", sides.counted(side), constant(1.0)), total)
        share = sides.add("Div", count, sides.add("Add", total, constant(1e-6)))
        turned = sides.add("Mul", share, constant(2 * math.pi))
        # A wavelength for each pair of channels, its sine and its cosine.
        wavelengths = TEMPERATURE ** (2 * np.arange(self.features // 2) / self.features)
        angles = sides.add("Div", sides.unsqueeze(turned, 2), constant(wavelengths))  # (B, n, features / 2)
        waves = [sides.unsqueeze(sides.add(kind, angles), 3) for kind in ("Sin", "Cos")]
        pairs = sides.reshape(sides.g.add("Concat", waves, axis=3), [0, 0, self.features])
        return sides.unsqueeze(pairs, 2 - side)


class LearnedPart(NamedTuple):
    """A map → the learned positions of its cells, (1, N, C); runtimes fail where there are more than 50 a side."""

    weights: Weights

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        (cells,) = inputs
        sides = Sides(graph, cells)
        parts = [self._along(sides, side) for side in (1, 0)]  # the column's first
        return cells._replace(name=sides.joined(parts, cells.channels))

    def _along(self, sides: Sides, side: int) -> str:
        table = self.weights["columns" if side else "rows"]
        assert len(table) == LEARNED_CELLS
        count = sides.unsqueeze(sides.number(sides.shape, 2 + side), 0)
        start, axis = (sides.g.constant([number], np.int64) for number in (0, 0))
        some = sides.add("Slice", sides.g.weight(table), start, count, axis)
        return sides.repeated(sides.unsqueeze(some, 0, 2 - side), 1 - side)
