"""Layers of attention networks as ONNX nodes, from tensors or arrays.

Values are named by text and of shape (B, N, C) unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from phidet.architectures.program import GraphWriter, Value

if TYPE_CHECKING:
    from phidet.architectures.program import Constant


class LayerWriter:
    """Adds layers to a graph."""

    def __init__(self, graph: GraphWriter) -> None:
        self.g = graph

    def add(self, kind: str, *inputs: str) -> str:
        """A node without attributes."""
        return self.g.add(kind, inputs)

    def transpose(self, x: str, *axes: int) -> str:
        return self.g.add("Transpose", [x], perm=axes)

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """0 keeps a side, and one may be −1."""
        return self.add("Reshape", x, self.g.constant(shape, np.int64))

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self.add("Unsqueeze", x, self.g.constant(axes, np.int64))

    def cells(self, x: Value) -> str:
        """(B, C, H, W) → (B, H · W, C)."""
        return self.transpose(self.reshape(x.name, [0, x.channels, -1]), 0, 2, 1)

    def linear(self, x: str, weight: Constant, bias: Constant) -> str:
        return self.add("Add", self.add("MatMul", x, self.g.weight(weight.T)), self.g.weight(bias))

    def layer_norm(self, x: str, weight: Constant, bias: Constant, epsilon: float) -> str:
        weights = self.g.weight(weight), self.g.weight(bias)
        return self.g.add("LayerNormalization", [x, *weights], axis=-1, epsilon=epsilon)

    def heads(self, x: str, rows: int, heads: int) -> str:
        """(B, N, C) → (B, heads, N, C / heads); ``rows`` is N, or 0 where it is open."""
        return self.transpose(self.reshape(x, [0, rows, heads, -1]), 0, 2, 1, 3)
