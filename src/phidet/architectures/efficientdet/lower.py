"""A trained EfficientDet as operations for other runtimes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from phidet.architectures.backbones.lower import lower_backbone
from phidet.architectures.config import Activation
from phidet.architectures.efficientdet.heads import Head
from phidet.architectures.feature_networks.lower import lower_feature_network
from phidet.architectures.layers import SeparableConv
from phidet.architectures.program import Predict, Program, ProgramWriter, fold

if TYPE_CHECKING:  # circular: that module imports this one
    from phidet.architectures.efficientdet.network import EfficientDet


@torch.no_grad()
def compile_program(model: EfficientDet) -> Program:
    """The program of ``model`` as it is now, for evaluation."""
    writer = ProgramWriter()
    maps = lower_backbone(writer, model.backbone)
    levels = lower_feature_network(writer, model.feature_network, maps)
    class_logits = _head(writer, model.class_head, levels, model.config.activation)
    box_deltas = _head(writer, model.box_head, levels, model.config.activation)
    return Program(writer.operations, {"class_logits": class_logits, "box_deltas": box_deltas})


def _head(w: ProgramWriter, head: Head, maps: list[int], act: Activation) -> int:
    lasts: list[int] = []
    for level, x in enumerate(maps):
        for conv, norms in zip(head.convs, head.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            norm = norms[level]
            assert isinstance(norm, nn.BatchNorm2d)
            assert isinstance(conv, SeparableConv)
            x = w.conv(x, conv.depthwise, None)
            x = w.conv(x, conv.pointwise, norm, act)
        lasts.append(w.conv(x, head.predict.depthwise, None))
    weight, bias = fold(head.predict.pointwise, None)
    return w.add(Predict(tuple(lasts), weight.flatten(1), bias, head.outputs))
