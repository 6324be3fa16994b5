"""A trained set predictor as operations for other runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from phidet.architectures.backbones.lower import lower_backbone
from phidet.architectures.feature_networks.lower import lower_feature_network
from phidet.architectures.feature_networks.network import Projection
from phidet.architectures.graph_module import GraphModule
from phidet.architectures.module_arrays import ModuleArrays, fold
from phidet.architectures.program import (
    Columns,
    Conv,
    GraphWriter,
    Own,
    Program,
    ProgramWriter,
    Value,
)
from phidet.architectures.setdet.attention import EncoderLayer, encode
from phidet.architectures.setdet.decoder import SetDecoder
from phidet.architectures.setdet.graph import Writer
from phidet.architectures.weights import Weights

if TYPE_CHECKING:  # circular: that module imports this one
    from phidet.architectures.setdet.network import SetDet


@torch.no_grad()
def compile_program(model: SetDet) -> Program:
    """The program of ``model`` as it is now, for evaluation."""
    w = ProgramWriter()
    maps = lower_backbone(w, Weights(ModuleArrays(model.backbone)), model.config.backbone)
    project = model.encoder.project
    coarsest = w.conv(maps[5], project.conv, project.bn)
    maps[5] = w.add(Own((coarsest,), EncoderModule(model.encoder.layers)))
    arrays, first = Weights(ModuleArrays(model.feature_network)), ModuleArrays(model.decoder.cell)
    features = lower_feature_network(w, arrays, model.config.feature_network, model.config.activation, maps)
    memory, cells = [], []
    for x, projection in zip(features, model.memory, strict=True):
        assert isinstance(projection, Projection)
        weight, bias = fold(projection.conv, projection.bn)
        memory.append(w.add(Conv(x, weight, bias, 1, 0, 1, None)))
        # The decoder's first layer is linear, as the projection is: one product of both, from fewer channels.
        both = first["weight"] @ weight[:, :, 0, 0].astype(np.float64)
        rest = first["weight"] @ bias.astype(np.float64) + first["bias"]
        both = both.astype(np.float32)[:, :, None, None]
        cells.append(w.add(Conv(x, both, rest.astype(np.float32), 1, 0, 1, None)))
    answers = w.add(Own((*memory, *cells), DecoderModule(model.decoder)))
    classes = model.config.num_classes
    logits, boxes = w.add(Columns(answers, 0, classes)), w.add(Columns(answers, classes, classes + 4))
    return Program(w.operations, {"class_logits": logits, "boxes_cxcywh": boxes})


class EncoderModule(GraphModule):
    """Attention within a map: (B, C, H, W) → the same shape."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return encode(self.layers, x)

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        (x,) = inputs
        writer = Writer(graph)
        cells = writer.cells(x)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            cells = writer.encoder_layer(layer, cells, x.size_hw)
        name = graph.add("Transpose", [cells], perm=[0, 2, 1])
        return x._replace(name=writer.reshape(name, [0, x.channels, *x.size_hw]))


class DecoderModule(GraphModule):
    """Maps, and what the decoder's first layer makes of them → (B, Q, C + 4), class logits and boxes."""

    def __init__(self, decoder: SetDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *maps: Tensor) -> Tensor:
        half = len(maps) // 2
        cells = torch.cat([x.flatten(2).transpose(1, 2) for x in maps[half:]], 1)
        return torch.cat(self.decoder.decide(list(maps[:half]), cells), 2)

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        half = len(inputs) // 2
        return Writer(graph).decoder(self.decoder, list(inputs[:half]), list(inputs[half:]))
