"""Builds a backbone with fresh weights from its config."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual as MobileBlock
from torchvision.models.resnet import BasicBlock, Bottleneck

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.efficientnet import EfficientNet, InvertedResidual
from phidet.architectures.backbones.mobilenet import MobileNet
from phidet.architectures.backbones.resnet import ResNet


class Backbone(Protocol):
    """The interface of a backbone for the feature network."""

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


def recomputed_blocks(model: nn.Module) -> list[nn.Module]:
    """The residual blocks of every kind of backbone, whose activations may be recomputed to save memory."""
    kinds = InvertedResidual | BasicBlock | Bottleneck | MobileBlock
    return [module for module in model.modules() if isinstance(module, kinds)]
