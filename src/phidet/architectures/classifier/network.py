"""Backbone → 1×1 convolution → global average → linear layer."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from phidet.architectures.backbones.build import Backbone, build_backbone
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.layers import activation, batch_norm
from phidet.architectures.model import Model


class Classifier(Model):
    """A backbone with EfficientNet's head: 1×1 convolution, global average, dropout, one linear layer.

    Args:
        config: what to build; kept as ``config`` and saved with the weights.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config: ClassifierConfig = config
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
