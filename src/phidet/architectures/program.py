"""A trained detector as a flat list of operations with nothing left to compute about weights.

Batch norms are folded into the convolutions before them (those of the heads give each level weights of its own), fusion
factors are numbers, and stochastic depth is gone. :mod:`phidet.architectures.optimized` runs the list in PyTorch,
``phidet.export`` writes it down for other runtimes.

A value is named by its number: 0 is the images, and the operation at index i of the list makes value i + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual as MobileBlock
from torchvision.models.resnet import BasicBlock, Bottleneck

from phidet.architectures.backbones.efficientnet import EfficientNet, InvertedResidual
from phidet.architectures.backbones.resnet import MobileNet, ResNet
from phidet.architectures.config import Activation
from phidet.architectures.efficientdet.feature_network import (
    FeatureCell,
    FeatureNetwork,
    FusionNode,
    Projection,
    fusion_weights,
)
from phidet.architectures.efficientdet.heads import Head
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.layers import SameConv2d, SeparableConv

Fold = nn.BatchNorm2d | None


class Conv(NamedTuple):
    """Convolution, bias, activation. ``padding`` is a number for every side, or ``None`` for TensorFlow's "SAME"."""

    x: int
    weight: Tensor
    bias: Tensor
    stride: int
    padding: int | None
    groups: int
    act: Activation | None


class MaxPool(NamedTuple):
    """Max-pooling over −∞; ``padding`` as in :class:`Conv`."""

    x: int
    kernel: int
    stride: int
    padding: int | None


class Scale(NamedTuple):
    """``x`` times a number."""

    x: int
    factor: float


class Upsample(NamedTuple):
    """Nearest neighbour, by floor of the index, to height and width of the value ``like``."""

    x: int
    like: int


class Sum(NamedTuple):
    """Activation of ``Σ factors[i] · xs[i]``."""

    xs: tuple[int, ...]
    factors: tuple[float, ...]
    act: Activation | None


class Mean(NamedTuple):
    """(B, C, H, W) → (B, C, 1, 1)."""

    x: int


class Gate(NamedTuple):
    """``x · sigmoid(gate)``, the gate (B, C, 1, 1)."""

    x: int
    gate: int


class Predict(NamedTuple):
    """Maps (B, C, H_l, W_l) → (B, Σ H_l·W_l·anchors, outputs) by one product; ``weight`` is (anchors·outputs, C)."""

    xs: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    outputs: int


Operation = Conv | MaxPool | Scale | Upsample | Sum | Mean | Gate | Predict


class Program(NamedTuple):
    """Operations in order, and the values that leave."""

    operations: list[Operation]
    class_logits: int
    box_deltas: int


def inputs_of(operation: Operation) -> tuple[int, ...]:
    """The values that ``operation`` reads."""
    if isinstance(operation, Sum | Predict):
        return operation.xs
    if isinstance(operation, Upsample):
        return operation.x, operation.like
    if isinstance(operation, Gate):
        return operation.x, operation.gate
    return (operation.x,)


@torch.no_grad()
def compile_program(model: EfficientDet) -> Program:
    """The program of ``model`` as it is now, for evaluation."""
    writer = _Writer()
    backbone = model.backbone
    if isinstance(backbone, EfficientNet):
        maps = _efficientnet(writer, backbone)
    elif isinstance(backbone, ResNet):
        maps = _resnet(writer, backbone)
    else:
        assert isinstance(backbone, MobileNet)
        maps = _mobilenet(writer, backbone)
    levels = _feature_network(writer, model.feature_network, maps)
    class_logits = _head(writer, model.class_head, levels, model.config.activation)
    box_deltas = _head(writer, model.box_head, levels, model.config.activation)
    return Program(writer.operations, class_logits, box_deltas)


def fold(conv: nn.Conv2d, norm: Fold, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``factor · norm(conv(x))`` as one convolution, folded in fp64."""
    weight = conv.weight.double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = weight * gain[:, None, None, None]
        bias = (bias - norm.running_mean.double()) * gain + norm.bias.double()
    return (weight * factor).float(), (bias * factor).float()


class _Writer:
    """Collects operations; each method returns the number of the value it makes."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def add(self, operation: Operation) -> int:
        self.operations.append(operation)
        return len(self.operations)

    def conv(self, x: int, conv: nn.Module, norm: Fold, act: Activation | None = None, factor: float = 1.0) -> int:
        assert isinstance(conv, nn.Conv2d)
        padding = None if isinstance(conv, SameConv2d) else int(conv.padding[0])
        return self.add(Conv(x, *fold(conv, norm, factor), conv.stride[0], padding, conv.groups, act))

    def sum(self, *xs: int, act: Activation | None = None) -> int:
        return self.add(Sum(xs, (1.0,) * len(xs), act))

    def sequence(self, x: int, layers: Sequence[nn.Module]) -> int:
        """Convolutions, batch norms and rectifiers in a row, nested or not."""
        flat = [m for layer in layers for m in layer.modules() if not any(m.children())]
        for i, layer in enumerate(flat):
            if isinstance(layer, nn.Conv2d):
                following = flat[i + 1 : i + 3]
                norm = following[0] if following and isinstance(following[0], nn.BatchNorm2d) else None
                after = following[1] if len(following) > 1 and norm is not None else None
                x = self.conv(x, layer, norm, _rectifier(after))
            elif isinstance(layer, nn.MaxPool2d):
                x = self.add(MaxPool(x, *(_number(n) for n in (layer.kernel_size, layer.stride, layer.padding))))
        return x


def _number(sides: int | tuple[int, ...]) -> int:
    """A size that is the same in both directions."""
    return sides if isinstance(sides, int) else sides[0]


def _rectifier(layer: nn.Module | None) -> Activation | None:
    return "relu6" if isinstance(layer, nn.ReLU6) else "relu" if isinstance(layer, nn.ReLU) else None


def _efficientnet(w: _Writer, network: EfficientNet) -> dict[int, int]:
    act: Activation = "silu" if isinstance(network.act, nn.SiLU) else "relu6"
    x = w.conv(0, network.stem.conv, network.stem.bn, act)
    maps: dict[int, int] = {}
    for i, block in enumerate(network.blocks):
        assert isinstance(block, InvertedResidual)
        y = x if block.expand is None else w.conv(x, block.expand.conv, block.expand.bn, act)
        y = w.conv(y, block.depthwise.conv, block.depthwise.bn, act)
        if block.se is not None:
            gate = w.conv(w.add(Mean(y)), block.se.reduce, None, "silu")
            y = w.add(Gate(y, w.conv(gate, block.se.expand, None)))
        y = w.conv(y, block.project.conv, block.project.bn)
        x = w.sum(y, x) if block.shortcut else y
        if i in network.level_of_block:
            maps[network.level_of_block[i]] = x
    return maps


def _resnet(w: _Writer, network: ResNet) -> dict[int, int]:
    x1 = x = w.sequence(0, [network.conv1, network.bn1, network.relu])
    x = w.sequence(x, [network.maxpool])
    maps = {1: x1}
    for level, layer in enumerate((network.layer1, network.layer2, network.layer3, network.layer4), start=2):
        for block in layer:
            assert isinstance(block, BasicBlock | Bottleneck)
            y = w.conv(x, block.conv1, block.bn1, "relu")
            if isinstance(block, Bottleneck):
                y = w.conv(y, block.conv2, block.bn2, "relu")
                y = w.conv(y, block.conv3, block.bn3)
            else:
                y = w.conv(y, block.conv2, block.bn2)
            shortcut = x if block.downsample is None else w.sequence(x, [block.downsample])
            x = w.sum(y, shortcut, act="relu")
        maps[level] = x
    return maps


def _mobilenet(w: _Writer, network: MobileNet) -> dict[int, int]:
    x = 0
    maps: dict[int, int] = {}
    for i, layer in enumerate(network.features):
        y = w.sequence(x, [layer])
        x = w.sum(y, x) if isinstance(layer, MobileBlock) and layer.use_res_connect else y
        if i in network.level_of_index:
            maps[network.level_of_index[i]] = x
    return maps


def _feature_network(w: _Writer, network: FeatureNetwork, backbone_maps: dict[int, int]) -> list[int]:
    maps = [backbone_maps[level] for level in network.backbone_levels]
    x = maps[-1]
    for i in range(network.num_coarser):
        if i == 0 and network.coarser is not None:
            x = _project(w, x, network.coarser)
        x = w.add(MaxPool(x, 3, 2, None))
        maps.append(x)
    for cell in network.cells:
        assert isinstance(cell, FeatureCell)
        known = list(maps)
        for node, module in zip(cell.graph.nodes, cell.nodes, strict=True):
            assert isinstance(module, FusionNode)
            like = maps[cell.graph.levels.index(node.level)]
            known.append(_node(w, module, [known[i] for i in node.inputs], like))
        maps = [
            _project(w, known[i], cell.projections[str(i)]) if str(i) in cell.projections else known[i]
            for i in cell.graph.outputs
        ]
    return maps


def _node(w: _Writer, node: FusionNode, inputs: list[int], like: int) -> int:
    factors = [1.0] * len(inputs)
    if node.weights is not None:
        factors = fusion_weights(node.fusion, node.weights).double().tolist()
    terms: list[int] = []
    for i, (x, level) in enumerate(zip(inputs, node.in_levels, strict=True)):
        if str(i) in node.projections:
            # The factor rides in the convolution; max-pooling lets it through unless it is negative.
            rides = factors[i] >= 0 or level >= node.level
            x = _project(w, x, node.projections[str(i)], factors[i] if rides else 1.0)
            factors[i] = 1.0 if rides else factors[i]
        if level < node.level:
            stride = 2 ** (node.level - level)
            x = w.add(MaxPool(x, stride + 1, stride, None))
        if level > node.level:
            if factors[i] != 1.0:
                x = w.add(Scale(x, factors[i]))  # on the smaller of the two maps
                factors[i] = 1.0
            x = w.add(Upsample(x, like))
        terms.append(x)
    fused = w.add(Sum(tuple(terms), tuple(factors), _activation(node.act)))
    fused = w.conv(fused, node.conv.depthwise, None)
    return w.conv(fused, node.conv.pointwise, node.bn)


def _activation(module: nn.Module) -> Activation:
    return "silu" if isinstance(module, nn.SiLU) else "relu6" if isinstance(module, nn.ReLU6) else "relu"


def _project(w: _Writer, x: int, projection: nn.Module, factor: float = 1.0) -> int:
    assert isinstance(projection, Projection)
    return w.conv(x, projection.conv, projection.bn, factor=factor)


def _head(w: _Writer, head: Head, maps: list[int], act: Activation) -> int:
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
