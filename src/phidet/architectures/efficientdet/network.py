"""Backbone → feature network → class and box heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from phidet.architectures.backbones.efficientnet import EfficientNet
from phidet.architectures.backbones.resnet import MobileNet, ResNet
from phidet.architectures.config import BackboneConfig, ClassifierConfig, ModelConfig
from phidet.architectures.efficientdet.feature_network import FeatureNetwork
from phidet.architectures.efficientdet.heads import Head, class_head
from phidet.architectures.layers import activation, batch_norm
from phidet.core.errors import InputError

if TYPE_CHECKING:
    from phidet.architectures.optimized import OptimizedDetector


class RawOutputs(NamedTuple):
    """What the network says of every anchor, finest level first, row by row, anchors innermost.

    Attributes:
        class_logits: (B, A, num_classes), before the sigmoid.
        box_deltas: (B, A, 4), (ty, tx, th, tw) against the anchors; see :func:`phidet.detections.boxes.decode`.
    """

    class_logits: Tensor
    box_deltas: Tensor


class Backbone(Protocol):
    """What the feature network needs of a backbone."""

    channels: dict[int, int]

    def __call__(self, images: Tensor) -> dict[int, Tensor]: ...

    def early_layers(self) -> list[nn.Module]: ...


def build_backbone(config: BackboneConfig) -> nn.Module:
    """The backbone that ``config`` describes, with fresh weights; it satisfies :class:`Backbone`."""
    if config.architecture == "mobilenet-v2":
        return MobileNet(config)
    if config.architecture.startswith("resnet"):
        return ResNet(config)
    return EfficientNet(config)


class EfficientDet(nn.Module):
    """A detector (arXiv 1911.09070), on any backbone. One forward, one return type, in training and evaluation.

    Args:
        config: what to build; kept as ``config`` and saved with the weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        features = config.feature_network
        self.backbone = build_backbone(config.backbone)
        channels = cast("Backbone", self.backbone).channels
        self.feature_network = FeatureNetwork(channels, features, config.activation)
        shape = (features.channels, config.head_layers, len(features.levels))
        anchors, act = config.anchors.per_cell, config.activation
        self.class_head = class_head(*shape, config.num_classes, anchors, act)
        self.box_head = Head(*shape, 4, anchors, act)
        self.to(memory_format=torch.channels_last)  # a third faster on CPUs, and what tensor cores want

    def forward(self, images: Tensor) -> RawOutputs:
        """Normalised images (B, 3, H, W), any H and W from the coarsest stride up, to raw outputs.

        Raises:
            InputError: not four dimensions, not three channels, or smaller than the coarsest stride.
        """
        if not torch.compiler.is_compiling():
            self._check_images(images)
        maps = self.feature_network(self.backbone(images.contiguous(memory_format=torch.channels_last)))
        return RawOutputs(self.class_head(maps), self.box_head(maps))

    def optimize(self) -> OptimizedDetector:
        """A copy for inference with everything constant folded: the same answers to rounding, sooner."""
        from phidet.architectures.optimized import OptimizedDetector  # noqa: PLC0415 - it is made of this class

        return OptimizedDetector(self)

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(
                f"expected images as (batch, 3, height, width), got shape {tuple(images.shape)}: "
                "colour images, channels first"
            )
        coarsest = 2**self.config.feature_network.max_level
        height, width = images.shape[2:]
        if min(height, width) < coarsest:
            raise InputError(
                f"images of {height}×{width} pixels are smaller than the coarsest stride, {coarsest} "
                f"(level {self.config.feature_network.max_level}): resize or pad them to at least {coarsest}×{coarsest}"
            )


class Classifier(nn.Module):
    """A backbone with EfficientNet's head: 1×1 convolution, global average, dropout, one linear layer.

    Args:
        config: what to build; kept as ``config`` and saved with the weights.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        channels = cast("Backbone", self.backbone).channels
        self.top = max(channels)
        width = channels[self.top]
        self.head: nn.Module | None = None
        if config.head_channels:
            self.head = ClassifierHead(width, config)
            width = config.head_channels
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(width, config.num_classes)
        # The official ±1/√classes is meant for a thousand of them: with three, the first answers are far from even.
        nn.init.uniform_(self.linear.weight, -(width**-0.5), width**-0.5)
        nn.init.zeros_(self.linear.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) → class logits (B, num_classes)."""
        x = self.backbone(images.contiguous(memory_format=torch.channels_last))[self.top]
        if self.head is not None:
            x = self.head(x)
        logits: Tensor = self.linear(self.dropout(x.mean((2, 3))))
        return logits


class ClassifierHead(nn.Module):
    """The 1×1 convolution between the last block and the average."""

    def __init__(self, in_channels: int, config: ClassifierConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, config.head_channels, 1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        if config.backbone.architecture == "mobilenet-v2":
            self.bn = nn.BatchNorm2d(config.head_channels)  # torchvision's constants, as the rest of that network
        else:
            self.bn = batch_norm(config.head_channels)
        self.act = activation("silu" if config.backbone.architecture == "efficientnet" else "relu6")

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) → (B, head_channels, H, W)."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out
