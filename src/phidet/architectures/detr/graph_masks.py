"""The masks of queries as ONNX nodes, from arrays; the computations are :mod:`mask_head`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from phidet.architectures.detr.config import MASK_GROUPS, MASK_HEADS
from phidet.architectures.detr.graph import EPSILON
from phidet.architectures.graph_layers import LayerWriter
from phidet.architectures.program import GraphWriter, Value
from phidet.architectures.weights import Array, Weights


class MaskPart(NamedTuple):
    """What is known of objects, memory, :class:`ImageCells`, projected map, maps of strides 16, 8 and 4 → mask logits.

    (B, Q, H / 4, W / 4).
    """

    weights: Weights
    queries: int

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        known, memory, attended, projected, *lateral = inputs
        writer = _Masks(graph, self.queries)
        maps = writer.attention(self.weights.part("mask_attention"), (known, memory, attended), projected)
        return Value(*writer.head(self.weights.part("mask_head"), maps, projected, lateral))


class _Masks(LayerWriter):
    def __init__(self, graph: GraphWriter, queries: int) -> None:
        super().__init__(graph)
        self.queries = queries

    def attention(self, part: Weights, values: tuple[Value, Value, Value], cells: Value) -> str:
        """How much each object attends to each feature cell, by head: (B · Q, 8, h, w)."""
        known, memory, attended = values
        query, key = part.part("query"), part.part("key")
        root = (known.channels / MASK_HEADS) ** -0.5
        weight, bias = (query[kind].astype(np.float64) * root for kind in ("weight", "bias"))
        q = self.heads(self.linear(known.name, weight, bias), 0, MASK_HEADS)
        k = self.heads(self.linear(memory.name, key["weight"], key["bias"]), 0, MASK_HEADS)
        logits = self.add("Add", self.add("MatMul", q, self.transpose(k, 0, 1, 3, 2)), attended.name)
        # One softmax over heads and cells together, as in the official code.
        together = self.reshape(self.transpose(logits, 0, 2, 1, 3), [0, self.queries, -1])  # (B, Q, 8 · N)
        shape = self._beside_sides([-1, MASK_HEADS], cells.name)
        return self.add("Reshape", self.g.add("Softmax", [together], axis=-1), shape)

    def head(
        self, part: Weights, maps: str, projected: Value, lateral: Sequence[Value]
    ) -> tuple[str, int, tuple[int, int]]:
        """Upwards through the backbone's maps: name, queries and size of (B, Q, H / 4, W / 4)."""
        layers, norms, beside = part.part("layers"), part.part("norms"), part.part("lateral")
        first, channels = layers.part(0), projected.channels
        # What all objects of an image share goes through the first layer once: a convolution is linear.
        weight = first["weight"]
        shared = self._conv(projected.name, weight[:, :channels], first["bias"])
        own = self._conv(maps, weight[:, channels:], None)
        x = self._norm(self._added(own, shared, len(weight)), norms.part(0))
        x = self._norm(self._conv(x, layers.part(1)["weight"], layers.part(1)["bias"]), norms.part(1))
        for i, features in enumerate(lateral):
            adapter, layer = beside.part(i), layers.part(i + 2)
            extra = self._conv(features.name, adapter["weight"], adapter["bias"])
            if features.size_hw != projected.size_hw:  # dilated, the first one has the size already
                x = self._enlarged(x, extra, len(adapter["weight"]))
            x = self._added(x, extra, len(adapter["weight"]))
            x = self._norm(self._conv(x, layer["weight"], layer["bias"]), norms.part(i + 2))
        predict = part.part("predict")
        logits = self._conv(x, predict["weight"], predict["bias"])  # (B · Q, 1, H / 4, W / 4)
        shape = self._beside_sides([-1, self.queries], logits)
        return self.add("Reshape", logits, shape), self.queries, lateral[-1].size_hw

    def _conv(self, x: str, weight: Array, bias: Array | None) -> str:
        kernel = weight.shape[-1]
        name = self.g.add("Conv", [x, self.g.weight(weight)], kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)
        return name if bias is None else self.add("Add", name, self.g.weight(bias[:, None, None]))

    def _norm(self, x: str, part: Weights) -> str:
        """A group norm and a rectifier. Groups are rows of an instance norm, which every runtime has."""
        shape = self.add("Shape", x)
        ones, zeros = (self.g.constant(np.full(MASK_GROUPS, value)) for value in (1.0, 0.0))
        rows = self.reshape(x, [0, MASK_GROUPS, -1])
        rows = self.g.add("InstanceNormalization", [rows, ones, zeros], epsilon=EPSILON)
        whole = self.add("Reshape", rows, shape)
        weight, bias = (self.g.weight(part[kind][:, None, None]) for kind in ("weight", "bias"))
        return self.add("Relu", self.add("Add", self.add("Mul", whole, weight), bias))

    def _added(self, x: str, beside: str, channels: int) -> str:
        """(B · Q, C, h, w) plus (B, C, h, w), the same for all objects of an image."""
        each = self.add("Reshape", x, self._beside_sides([-1, self.queries, channels], x))
        total = self.add("Add", each, self.unsqueeze(beside, 1))
        return self.add("Reshape", total, self._beside_sides([-1, channels], x))

    def _enlarged(self, x: str, like: str, channels: int) -> str:
        """Nearest neighbour by floor of the index, as the official code does, to height and width of ``like``."""
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        begin, end = (self.g.constant([number], np.int64) for number in (0, 1))
        batch = self.add("Slice", self.add("Shape", x), begin, end)
        size = self.g.add("Concat", [batch, self.g.constant([channels], np.int64), self._sides(like)], axis=0)
        return self.g.add("Resize", [x, "", "", size], **modes)

    def _beside_sides(self, shape: Sequence[int], like: str) -> str:
        """``shape``, and behind it height and width of ``like``."""
        return self.g.add("Concat", [self.g.constant(shape, np.int64), self._sides(like)], axis=0)

    def _sides(self, x: str) -> str:
        begin, end = (self.g.constant([number], np.int64) for number in (2, 4))
        return self.add("Slice", self.add("Shape", x), begin, end)
