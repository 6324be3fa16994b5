"""Backbones as operations for other runtimes; see :mod:`phidet.architectures.program`."""

from __future__ import annotations

from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual as MobileBlock
from torchvision.models.resnet import BasicBlock, Bottleneck

from phidet.architectures.backbones.efficientnet import EfficientNet
from phidet.architectures.backbones.lower_efficientnet import lower_efficientnet
from phidet.architectures.backbones.mobilenet import MobileNet
from phidet.architectures.backbones.resnet import ResNet
from phidet.architectures.module_arrays import ModuleArrays
from phidet.architectures.program import ProgramWriter
from phidet.architectures.weights import Weights


def lower_backbone(writer: ProgramWriter, backbone: nn.Module) -> dict[int, int]:
    """Appends the operations of ``backbone``; returns the number of each level's value."""
    if isinstance(backbone, EfficientNet):
        return lower_efficientnet(writer, Weights(ModuleArrays(backbone)), backbone.config)
    if isinstance(backbone, ResNet):
        return _resnet(writer, backbone)
    assert isinstance(backbone, MobileNet)
    return _mobilenet(writer, backbone)


def _resnet(w: ProgramWriter, network: ResNet) -> dict[int, int]:
    # Level 1 is the map before pooling, as in the network itself.
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
            # Only the first block of a stage changes the shape, and projects its shortcut to it.
            shortcut = x if block.downsample is None else w.sequence(x, [block.downsample])
            x = w.sum(y, shortcut, act="relu")
        maps[level] = x
    return maps


def _mobilenet(w: ProgramWriter, network: MobileNet) -> dict[int, int]:
    x = 0
    maps: dict[int, int] = {}
    for i, layer in enumerate(network.features):
        y = w.sequence(x, [layer])
        x = w.sum(y, x) if isinstance(layer, MobileBlock) and layer.use_res_connect else y
        if i in network.level_of_index:
            maps[network.level_of_index[i]] = x
    return maps
