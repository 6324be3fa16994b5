"""The attention layers as ONNX nodes.

Written by hand, as sizes are known and only the batch is free: PyTorch's exporters leave hundreds of nodes that compute
shapes, which take longer than the attention does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from phidet.architectures.graph_layers import LayerWriter
from phidet.architectures.program import Value
from phidet.architectures.setdet.attention import (
    EncoderLayer,
    FeedForward,
    SampledAttention,
    SelfAttention,
    sine_positions,
)
from phidet.architectures.setdet.boxes import LARGEST_LOGIT, BoxHead, cell_boxes, to_logits
from phidet.architectures.setdet.decoder import DecoderLayer, SetDecoder


class Writer(LayerWriter):
    """Adds layers to a graph; values are (B, N, C) by name."""

    def layers(self, x: str, sequence: nn.Sequential) -> str:
        """Linear layers and rectifiers in a row."""
        for layer in sequence:
            x = self.linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else self.add("Relu", x)
        return x

    def norm(self, x: str, layer: nn.LayerNorm) -> str:
        return self.layer_norm(x, layer.weight, layer.bias, layer.eps)

    def encoder_layer(self, layer: EncoderLayer, x: str, size_hw: tuple[int, int]) -> str:
        """Positions are constants here, and so is what the product makes of them."""
        attention, cells = layer.attention, size_hw[0] * size_hw[1]
        query_key, value = scaled_query_key(attention), attention.value
        width = value.out_features
        # What the positions add to queries and keys does not depend on the image, so it is one constant beside the
        # bias.
        positions = sine_positions(size_hw, width, query_key.weight)
        rest = torch.cat((query_key(positions), value.bias.expand(cells, -1)), 1)  # (N, 3 · width)
        product = self.add("MatMul", x, self.g.weight(torch.cat((query_key.weight, value.weight)).T))
        heads = self.heads(self.add("Add", product, self.g.weight(rest)), cells, 3 * attention.heads)
        q, k, v = self.g.add_many("Split", [heads], 3, axis=1)
        x = self.norm(self.add("Add", x, self.attend((q, k, v), attention, cells)), layer.attention_norm)
        return self.feed_forward(x, layer.feed_forward, layer.feed_forward_norm)

    def attend(self, query_key_value: tuple[str, str, str], attention: SelfAttention, rows: int) -> str:
        q, k, v = query_key_value
        scores = self.add("MatMul", q, self.transpose(k, 0, 1, 3, 2))
        read = self.add("MatMul", self.g.add("Softmax", [scores], axis=-1), v)
        flat = self.reshape(self.transpose(read, 0, 2, 1, 3), [0, rows, attention.value.out_features])
        return self.linear(flat, attention.out.weight, attention.out.bias)

    def feed_forward(self, x: str, layers: FeedForward, norm: nn.LayerNorm) -> str:
        return self.norm(self.add("Add", x, self.layers(x, layers)), norm)

    def decoder(self, decoder: SetDecoder, maps: list[Value], cells: list[Value]) -> Value:
        """Maps, and what the decoder's first layer makes of their cells → (B, Q, C + 4), class logits and boxes."""
        config, sizes = decoder.config, [x.size_hw for x in maps]
        queries = min(config.queries, sum(height * width for height, width in sizes))
        flat = [self.reshape(x.name, [0, config.width, -1]) for x in cells]
        rows = self.transpose(self.g.add("Concat", flat, axis=2), 0, 2, 1)  # (B, N, width)
        rows = self.norm(rows, decoder.cell_norm)
        logits = self.linear(rows, decoder.cell_class.weight, decoder.cell_class.bias)
        scores = self.g.add("ReduceMax", [logits], axes=[2], keepdims=0)
        best = self.g.add_many("TopK", [scores, self.g.constant([queries], np.int64)], 2, axis=1)[1]  # (B, Q)
        # GatherND with a batch dimension: each image has its own best cells.
        index = self.add("Unsqueeze", best, self.g.constant([2], np.int64))
        x = self.g.add("GatherND", [rows, index], batch_dims=1)
        start = to_logits(cell_boxes(sizes, decoder.cell.weight))
        starts = self.g.add("Gather", [self.g.constant(start.numpy()), best], axis=0)
        box_logits = self.moved(starts, x, decoder.cell_box)
        levels = [  # (B · heads, width / heads, H, W)
            self.reshape(value.name, [-1, config.width // config.heads, *value.size_hw]) for value in maps
        ]
        for layer, head in zip(decoder.layers, decoder.boxes, strict=True):
            assert isinstance(layer, DecoderLayer)
            assert isinstance(head, BoxHead)
            boxes = self.add("Sigmoid", box_logits)
            x = self.decoder_layer(layer, x, (self.layers(boxes, decoder.position), boxes), levels, queries)
            box_logits = self.moved(box_logits, x, head)
        last = decoder.classes[-1]
        assert isinstance(last, nn.Linear)
        answers = self.linear(x, last.weight, last.bias), self.add("Sigmoid", box_logits)
        return Value(self.g.add("Concat", answers, axis=2), decoder.num_classes + 4, (queries, 1))

    def moved(self, logits: str, x: str, head: BoxHead) -> str:
        total = self.add("Add", logits, self.layers(x, head))
        return self.add("Clip", total, self.g.constant(-LARGEST_LOGIT), self.g.constant(LARGEST_LOGIT))

    def decoder_layer(
        self, layer: DecoderLayer, x: str, positions_boxes: tuple[str, str], levels: list[str], rows: int
    ) -> str:
        positions, boxes = positions_boxes
        attention = layer.attention
        query_key = scaled_query_key(attention)
        placed = self.add("Add", x, positions)
        both = self.heads(self.linear(placed, query_key.weight, query_key.bias), rows, 2 * attention.heads)
        q, k = self.g.add_many("Split", [both], 2, axis=1)
        v = self.heads(self.linear(x, attention.value.weight, attention.value.bias), rows, attention.heads)
        x = self.norm(self.add("Add", x, self.attend((q, k, v), attention, rows)), layer.attention_norm)
        read = self.sampled(layer.sampling, self.add("Add", x, positions), boxes, levels, rows)
        x = self.norm(self.add("Add", x, read), layer.sampling_norm)
        return self.feed_forward(x, layer.feed_forward, layer.feed_forward_norm)

    def sampled(self, sampling: SampledAttention, x: str, boxes: str, levels: list[str], rows: int) -> str:
        heads, count, points = sampling.shape
        offsets, shares = sampling.offsets, sampling.weights
        # Rows of the weights in the order in which the points are read: level by level, then head by head.
        order = torch.arange(offsets.out_features).view(heads, count, points, 2).transpose(0, 1).flatten()
        weight = torch.cat((offsets.weight[order], shares.weight))
        product = self.linear(x, weight, torch.cat((offsets.bias[order], shares.bias)))
        sizes = self.g.constant([offsets.out_features, shares.out_features], np.int64)
        offset, share = self.g.add_many("Split", [product, sizes], 2, axis=2)
        # GridSample counts from −1 to 1: twice the centre less one, and offsets in halves of sides as they are.
        centre, sides = self.g.add_many("Split", [self.reshape(boxes, [0, rows, 1, 4])], 2, axis=3)  # (B, Q, 1, 2) each
        origin = self.add("Sub", self.add("Add", centre, centre), self.g.constant(1.0))
        grid = self.add("Add", self.add("Mul", self.reshape(offset, [0, rows, -1, 2]), sides), origin)
        grid = self.heads(self.reshape(grid, [0, rows, -1]), rows, count * heads)  # (B, levels · heads, Q, points · 2)
        grids = self.g.add_many("Split", [grid], count, axis=1) if count > 1 else [grid]
        read = [
            self.g.add("GridSample", [level, self.reshape(one, [-1, rows, points, 2])], align_corners=0)
            for level, one in zip(levels, grids, strict=True)
        ]  # (B · heads, D, Q, points) each
        share = self.g.add("Softmax", [self.reshape(share, [0, rows, heads, -1])], axis=-1)
        share = self.reshape(self.transpose(share, 0, 2, 1, 3), [-1, 1, rows, count * points])
        together = self.add("Mul", self.g.add("Concat", read, axis=3), share)
        total = self.g.add("ReduceSum", [together, self.g.constant([3], np.int64)], keepdims=0)  # (B · heads, D, Q)
        width = sampling.out.in_features
        flat = self.transpose(self.reshape(total, [-1, width, rows]), 0, 2, 1)
        return self.linear(flat, sampling.out.weight, sampling.out.bias)


def scaled_query_key(attention: SelfAttention) -> nn.Linear:
    """The query's and key's layer, the query divided by the root of a head's width beforehand."""
    layer, width = attention.query_key, attention.value.out_features
    scaled = nn.Linear(layer.in_features, layer.out_features)
    factors = torch.ones(2 * width)
    factors[:width] = (width / attention.heads) ** -0.5
    scaled.weight.data = layer.weight.detach() * factors[:, None]
    scaled.bias.data = layer.bias.detach() * factors
    return scaled
