"""Backbones as operations for other runtimes, from arrays; see :mod:`phidet.architectures.program`."""

from __future__ import annotations

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.lower_efficientnet import lower_efficientnet
from phidet.architectures.backbones.plan import mobilenet_blocks, mobilenet_level_ends, resnet_stages
from phidet.architectures.config import Activation
from phidet.architectures.program import DEPTHWISE, Kernel, MaxPool, ProgramWriter
from phidet.architectures.weights import Weights

TORCHVISION_EPSILON = 1e-5
"""Of the batch norms of ResNet and MobileNetV2, PyTorch's default."""
_PLAIN = Kernel(epsilon=TORCHVISION_EPSILON)


def lower_backbone(w: ProgramWriter, weights: Weights, config: BackboneConfig, dilated: bool = False) -> dict[int, int]:
    """Appends the operations of a backbone; returns the number of each level's value.

    Args:
        w: of the program.
        weights: of the backbone.
        config: of the backbone.
        dilated: a ResNet's last stage keeps its stride, and dilates the kernels behind its first block instead.
    """
    if config.architecture == "mobilenet-v2":
        return _mobilenet(w, weights, config)
    if config.architecture.startswith("resnet"):
        return _resnet(w, weights, config, dilated)
    return lower_efficientnet(w, weights, config)


def _resnet(w: ProgramWriter, weights: Weights, config: BackboneConfig, dilated: bool) -> dict[int, int]:
    bottleneck, stages = resnet_stages(config)
    # Level 1 is the map before pooling, as in the network itself.
    x1 = w.folded(0, weights.part("conv1"), weights.part("bn1"), "relu", _PLAIN._replace(stride=2, padding=3))
    x = w.add(MaxPool(x1, 3, 2, 1))
    maps = {1: x1}
    for level, blocks in enumerate(stages, start=2):
        for i in range(blocks):
            # The first block of a stage strides, but for the first stage, which comes behind a pooling.
            stride = 2 if i == 0 and level > 2 else 1
            dilation = 1
            if dilated and level == 5:
                stride, dilation = 1, 1 if i == 0 else 2
            middle = _PLAIN._replace(stride=stride, padding=dilation, dilation=dilation)
            x = _residual(w, x, weights.part(f"layer{level - 1}", i), middle, bottleneck)
        maps[level] = x
    return maps


def _residual(w: ProgramWriter, x: int, weights: Weights, middle: Kernel, bottleneck: bool) -> int:
    """A block of a ResNet; ``middle`` is its convolution of 3×3 that may stride."""

    def conv(x: int, number: int, act: Activation | None, kernel: Kernel) -> int:
        return w.folded(x, weights.part(f"conv{number}"), weights.part(f"bn{number}"), act, kernel)

    if bottleneck:
        y = conv(conv(conv(x, 1, "relu", _PLAIN), 2, "relu", middle), 3, None, _PLAIN)
    else:
        # Of its two convolutions the second one never strides.
        y = conv(conv(x, 1, "relu", middle), 2, None, middle._replace(stride=1))
    shortcut = x
    if "downsample.0.weight" in weights:  # only where a stage changes the shape
        part = weights.part("downsample")
        shortcut = w.folded(x, part.part(0), part.part(1), None, _PLAIN._replace(stride=middle.stride))
    return w.sum(y, shortcut, act="relu")


def _mobilenet(w: ProgramWriter, weights: Weights, config: BackboneConfig) -> dict[int, int]:
    features = weights.part("features")
    ends, maps = mobilenet_level_ends(config), dict[int, int]()
    stem = features.part(0)
    x = w.folded(0, stem.part(0), stem.part(1), "relu6", _PLAIN._replace(stride=2, padding=1))
    channels = len(stem["0.weight"])
    for i, (expansion, stride) in enumerate(mobilenet_blocks(config), start=1):
        part = features.part(i, "conv")
        y, layer = x, 0
        # torchvision numbers the layers that a block has: without expansion the depthwise one is the first.
        if expansion != 1:
            y, layer = w.folded(y, part.part(0, 0), part.part(0, 1), "relu6", _PLAIN), 1
        depthwise = DEPTHWISE._replace(stride=stride, epsilon=TORCHVISION_EPSILON)
        y = w.folded(y, part.part(layer, 0), part.part(layer, 1), "relu6", depthwise)
        y = w.folded(y, part.part(layer + 1), part.part(layer + 2), None, _PLAIN)
        outputs = len(part.part(layer + 1)["weight"])
        x = w.sum(y, x) if stride == 1 and outputs == channels else y
        channels = outputs
        if i in ends:
            maps[ends[i]] = x
    return maps
