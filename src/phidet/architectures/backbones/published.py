"""The published backbones by name, and the law for every φ (arXiv 1905.11946)."""

from __future__ import annotations

from typing import NamedTuple

from phidet.architectures.backbones.config import BackboneArchitecture, BackboneConfig
from phidet.architectures.backbones.scaling import CompoundScaling
from phidet.core.errors import UnknownNameError


class EfficientNetRow(NamedTuple):
    """A published classifier: multipliers, input side in pixels, dropout before the last layer."""

    width: float
    depth: float
    size: int
    dropout: float


EFFICIENTNETS: dict[str, EfficientNetRow] = {
    "efficientnet-b0": EfficientNetRow(1.0, 1.0, 224, 0.2),
    "efficientnet-b1": EfficientNetRow(1.0, 1.1, 240, 0.2),
    "efficientnet-b2": EfficientNetRow(1.1, 1.2, 260, 0.3),
    "efficientnet-b3": EfficientNetRow(1.2, 1.4, 300, 0.3),
    "efficientnet-b4": EfficientNetRow(1.4, 1.8, 380, 0.4),
    "efficientnet-b5": EfficientNetRow(1.6, 2.2, 456, 0.4),
    "efficientnet-b6": EfficientNetRow(1.8, 2.6, 528, 0.5),
    "efficientnet-b7": EfficientNetRow(2.0, 3.1, 600, 0.5),
    "efficientnet-b8": EfficientNetRow(2.2, 3.6, 672, 0.5),
    "efficientnet-lite0": EfficientNetRow(1.0, 1.0, 224, 0.2),
    "efficientnet-lite1": EfficientNetRow(1.0, 1.1, 240, 0.2),
    "efficientnet-lite2": EfficientNetRow(1.1, 1.2, 260, 0.3),
    "efficientnet-lite3": EfficientNetRow(1.2, 1.4, 280, 0.3),
    "efficientnet-lite4": EfficientNetRow(1.4, 1.8, 300, 0.3),
}


OTHER_BACKBONES: tuple[BackboneArchitecture, ...] = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "mobilenet-v2",
)
BACKBONE_NAMES: tuple[str, ...] = (*EFFICIENTNETS, *OTHER_BACKBONES)


def backbone_config(name: str) -> BackboneConfig:
    """The published backbone named ``name``: EfficientNet B0–B8 and Lite0–4, ResNet, MobileNetV2.

    Stochastic depth as in the official code: 0.2 at the last block, none for B0 and Lite0.
    """
    if name in OTHER_BACKBONES:
        return BackboneConfig(architecture=name)
    row = efficientnet_row(name)
    return BackboneConfig(
        architecture=architecture_of(name),
        width=row.width,
        depth=row.depth,
        drop_path=0.0 if name.endswith("0") else 0.2,
    )


def published_name(config: BackboneConfig) -> str | None:
    """The published backbone that ``config`` is, ``None`` if it is none; stochastic depth may differ."""
    for name in BACKBONE_NAMES:
        known = backbone_config(name)
        if (known.architecture, known.width, known.depth) == (config.architecture, config.width, config.depth):
            return name
    return None


def efficientnet_row(name: str) -> EfficientNetRow:
    if name not in EFFICIENTNETS:
        raise UnknownNameError("model", name, BACKBONE_NAMES)
    return EFFICIENTNETS[name]


def architecture_of(name: str) -> BackboneArchitecture:
    return "efficientnet-lite" if name.startswith("efficientnet-lite") else "efficientnet"


def scaled_backbone(phi: float, architecture: BackboneArchitecture, compound: CompoundScaling) -> BackboneConfig:
    return BackboneConfig(
        architecture=architecture,
        width=compound.width(phi),
        depth=compound.depth(phi),
        drop_path=0.2 if phi > 0 and architecture.startswith("efficientnet") else 0.0,
    )
