"""The transformer and its heads as ONNX nodes, from arrays; the computations are :mod:`transformer`'s.

What all images of a batch share keeps a batch of one until the images are attended to: runtimes then compute it once,
when they load the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from phidet.architectures.detr.config import DetrConfig
from phidet.architectures.graph_layers import LayerWriter
from phidet.architectures.program import GraphWriter, Value
from phidet.architectures.weights import Array, Weights

EPSILON = 1e-5
"""Of layer norms and group norms, PyTorch's default."""


class Layers(LayerWriter):
    """Adds the layers of encoder and decoder to a graph; values are (B, N, C) by name.

    Args:
        graph: to add to.
        config: of the network.
        attended: (B, 1, 1, N), what is added to the logits of feature cells: 0, or −∞ for padding.
    """

    def __init__(self, graph: GraphWriter, config: DetrConfig, attended: str) -> None:
        super().__init__(graph)
        size = config.transformer
        self.width, self.count, self.pre_norm = size.width, size.heads, size.pre_norm
        self.attended = attended

    def norm(self, x: str, norm: Weights) -> str:
        return self.layer_norm(x, norm["weight"], norm["bias"], EPSILON)

    def plus(self, x: str, positions: str | None) -> str:
        return x if positions is None else self.add("Add", x, positions)

    def self_attention(self, part: Weights, queries: str, values: str, attended: str | None) -> str:
        """Queries and keys, which are the same, in one product."""
        weight, bias = self._projections(part)
        both = self.linear(queries, weight[: 2 * self.width], bias[: 2 * self.width])
        q, k = self.g.add_many("Split", [self.heads(both, 0, 2 * self.count)], 2, axis=1)
        v = self._projected(values, weight[2 * self.width :], bias[2 * self.width :])
        return self._attend(part, (q, k, v), attended)

    def cross_attention(self, part: Weights, queries: str, keys: str, values: str) -> str:
        rows = zip(*(np.split(array, 3) for array in self._projections(part)), strict=True)
        q, k, v = (self._projected(x, *row) for x, row in zip((queries, keys, values), rows, strict=True))
        return self._attend(part, (q, k, v), self.attended)

    def feed_forward(self, x: str, part: Weights) -> str:
        first, second = part.part("linear1"), part.part("linear2")
        inside = self.add("Relu", self.linear(x, first["weight"], first["bias"]))
        return self.linear(inside, second["weight"], second["bias"])

    def encoder_layer(self, layer: Weights, x: str, positions: str | None) -> str:
        attention, norm1, norm2 = layer.part("self_attention"), layer.part("norm1"), layer.part("norm2")
        y = self.norm(x, norm1) if self.pre_norm else x
        seen = self.self_attention(attention, self.plus(y, positions), y, self.attended)
        x = self.add("Add", x, seen)
        if self.pre_norm:
            return self.add("Add", x, self.feed_forward(self.norm(x, norm2), layer.part("feed_forward")))
        x = self.norm(x, norm1)
        return self.norm(self.add("Add", x, self.feed_forward(x, layer.part("feed_forward"))), norm2)

    def decoder_layer(self, layer: Weights, x: str, queries: str | None, keys: str, memory: str) -> str:
        attentions = layer.part("self_attention"), layer.part("cross_attention")
        norms = [layer.part(f"norm{i}") for i in (1, 2, 3)]
        forward = layer.part("feed_forward")
        if self.pre_norm:
            y = self.norm(x, norms[0])
            x = self.add("Add", x, self.self_attention(attentions[0], self.plus(y, queries), y, None))
            y = self.plus(self.norm(x, norms[1]), queries)
            x = self.add("Add", x, self.cross_attention(attentions[1], y, keys, memory))
            return self.add("Add", x, self.feed_forward(self.norm(x, norms[2]), forward))
        seen = self.self_attention(attentions[0], self.plus(x, queries), x, None)
        x = self.norm(self.add("Add", x, seen), norms[0])
        seen = self.cross_attention(attentions[1], self.plus(x, queries), keys, memory)
        x = self.norm(self.add("Add", x, seen), norms[1])
        return self.norm(self.add("Add", x, self.feed_forward(x, forward)), norms[2])

    def _projections(self, part: Weights) -> tuple[Array, Array]:
        """Of queries, keys and values, (3 · width, width) and (3 · width,); queries by the root of a head's width."""
        factors = np.ones(3 * self.width)
        factors[: self.width] = (self.width / self.count) ** -0.5
        weight, bias = (part[f"in_proj_{kind}"].astype(np.float64) for kind in ("weight", "bias"))
        return weight * factors[:, None], bias * factors

    def _projected(self, x: str, weight: Array, bias: Array) -> str:
        return self.heads(self.linear(x, weight, bias), 0, self.count)

    def _attend(self, part: Weights, query_key_value: tuple[str, str, str], attended: str | None) -> str:
        q, k, v = query_key_value
        logits = self.add("MatMul", q, self.transpose(k, 0, 1, 3, 2))
        if attended is not None:
            logits = self.add("Add", logits, attended)
        read = self.add("MatMul", self.g.add("Softmax", [logits], axis=-1), v)  # (B, heads, N, C / heads)
        flat = self.reshape(self.transpose(read, 0, 2, 1, 3), [0, 0, self.width])
        return self.linear(flat, part["out_proj.weight"], part["out_proj.bias"])


class EncoderPart(NamedTuple):
    """The projected map, positions and :class:`ImageCells` → the memory, (B, N, C)."""

    weights: Weights
    config: DetrConfig

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        projected, places, attended = inputs
        config = self.config
        layers = Layers(graph, config, attended.name)
        x = layers.cells(projected)
        positions: str | None = places.name
        if config.form == "demo":  # adds positions once
            x = layers.add("Add", layers.add("Mul", x, graph.constant(config.feature_scale)), places.name)
            positions = None
        count = config.transformer.encoder_layers
        for i in range(count):
            x = layers.encoder_layer(self.weights.part("layers", i), x, positions)
        if config.form == "demo" or (layers.pre_norm and count):
            x = layers.norm(x, self.weights.part("norm"))
        return projected._replace(name=x)


class DecoderPart(NamedTuple):
    """The memory, positions and :class:`ImageCells` → what the last layer knows of each object, (B, Q, C)."""

    weights: Weights
    config: DetrConfig

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        memory, places, attended = inputs
        config = self.config
        layers = Layers(graph, config, attended.name)
        table = self.weights["queries.weight"][None]
        queries: str | None = graph.weight(table)
        keys = memory.name
        if config.form == "demo":  # whose queries are what the decoder starts with
            x, queries = str(queries), None
        else:
            x = graph.constant(np.zeros(table.shape))
            keys = layers.add("Add", keys, places.name)
        decoder = self.weights.part("decoder")
        for i in range(config.transformer.decoder_layers):
            x = layers.decoder_layer(decoder.part("layers", i), x, queries, keys, memory.name)
        return Value(layers.norm(x, decoder.part("norm")), memory.channels, (config.queries, 1))


class LinearPart(NamedTuple):
    """A linear layer."""

    weights: Weights

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        (x,) = inputs
        weight = self.weights["weight"]
        name = LayerWriter(graph).linear(x.name, weight, self.weights["bias"])
        return Value(name, len(weight), x.size_hw)


class BoxLayers(NamedTuple):
    """Boxes of queries: three linear layers, or the demo's one, and a sigmoid."""

    weights: Weights
    demo: bool

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        (x,) = inputs
        writer, name = LayerWriter(graph), x.name
        parts = [self.weights] if self.demo else [self.weights.part("layers", i) for i in range(3)]
        for i, part in enumerate(parts):
            name = writer.linear(writer.add("Relu", name) if i else name, part["weight"], part["bias"])
        return Value(writer.add("Sigmoid", name), 4, x.size_hw)
