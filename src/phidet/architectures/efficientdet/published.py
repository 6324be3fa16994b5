"""The published models by name, and the law for every φ between and beyond them.

By name (``efficientdet-d3``) comes the published model, exactly. By φ comes the law of
:mod:`phidet.architectures.backbones.scaling`, exactly. The two agree at φ = 0; from there the published family
departs from the law by hand:

    backbones    B1…B8 round α^φ and β^φ freely (B1 is depth 1.1, width 1.0 where the law says 1.2, 1.1)
    channels     D2 112 (law 120), D4 224 (law 216), D7 384 (law 520)
    cells        D5 7 (law 8), D6 8 (law 9), D7 8 (law 10)
    input        D5 1280 (law 1152), D7 1536 (law 1408)
    fusion       D6, D7, D7x add without weights, "for stability"
    D7           keeps D6's backbone and widths and takes larger anchors (scale 5)
    D7x          D7 on B7 with a level 8
    Lite         every fusion is a plain sum; law: input 320 + 64·φ, anchor scale 3. Lite2 has 112 channels (law 120),
                 Lite3 anchor scale 4, Lite4 224 channels (law 216), 640 pixels (law 576) and anchor scale 4;
                 Lite3x is Lite3 at 640 pixels with 200 channels and anchor scale 3
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from phidet.architectures.backbones.scaling import (
    CompoundScaling,
    DetectorLaw,
    check_phi,
    round_channels,
    round_to_multiple,
)
from phidet.architectures.config import (
    IMAGENET,
    LITE,
    Activation,
    AnchorConfig,
    Architecture,
    BackboneConfig,
    ClassifierConfig,
    FeatureNetworkConfig,
    Fusion,
    ModelConfig,
    default_class_names,
)
from phidet.core.errors import UnknownNameError
from phidet.data.coco_classes import COCO_CLASS_NAMES


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
OTHER_BACKBONES: tuple[Architecture, ...] = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "mobilenet-v2",
)
CLASSIFIER_NAMES: tuple[str, ...] = (*EFFICIENTNETS, *OTHER_BACKBONES)


class EfficientDetRow(NamedTuple):
    """A published detector."""

    backbone: str
    size: int
    channels: int
    cells: int
    head_layers: int
    anchor_scale: float
    fusion: Fusion
    max_level: int = 7


EFFICIENTDETS: dict[str, EfficientDetRow] = {
    "efficientdet-d0": EfficientDetRow("efficientnet-b0", 512, 64, 3, 3, 4, "fast"),
    "efficientdet-d1": EfficientDetRow("efficientnet-b1", 640, 88, 4, 3, 4, "fast"),
    "efficientdet-d2": EfficientDetRow("efficientnet-b2", 768, 112, 5, 3, 4, "fast"),
    "efficientdet-d3": EfficientDetRow("efficientnet-b3", 896, 160, 6, 4, 4, "fast"),
    "efficientdet-d4": EfficientDetRow("efficientnet-b4", 1024, 224, 7, 4, 4, "fast"),
    "efficientdet-d5": EfficientDetRow("efficientnet-b5", 1280, 288, 7, 4, 4, "fast"),
    "efficientdet-d6": EfficientDetRow("efficientnet-b6", 1280, 384, 8, 5, 4, "sum"),
    "efficientdet-d7": EfficientDetRow("efficientnet-b6", 1536, 384, 8, 5, 5, "sum"),
    "efficientdet-d7x": EfficientDetRow("efficientnet-b7", 1536, 384, 8, 5, 4, "sum", 8),
    "efficientdet-lite0": EfficientDetRow("efficientnet-lite0", 320, 64, 3, 3, 3, "sum"),
    "efficientdet-lite1": EfficientDetRow("efficientnet-lite1", 384, 88, 4, 3, 3, "sum"),
    "efficientdet-lite2": EfficientDetRow("efficientnet-lite2", 448, 112, 5, 3, 3, "sum"),
    "efficientdet-lite3": EfficientDetRow("efficientnet-lite3", 512, 160, 6, 4, 4, "sum"),
    "efficientdet-lite3x": EfficientDetRow("efficientnet-lite3", 640, 200, 6, 4, 3, "sum"),
    "efficientdet-lite4": EfficientDetRow("efficientnet-lite4", 640, 224, 7, 4, 4, "sum"),
}
DETECTOR_NAMES: tuple[str, ...] = tuple(EFFICIENTDETS)


class Family(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stays the same while φ moves: a backbone architecture, the two laws, and the choices around them."""

    name: str = "efficientdet"
    architecture: Architecture = "efficientnet"
    compound: CompoundScaling = CompoundScaling()
    law: DetectorLaw = DetectorLaw()
    graph: str = "bifpn"
    fusion: Fusion = "fast"
    activation: Activation = "silu"
    anchor_scale: float = 4.0


FAMILIES: dict[str, Family] = {
    "efficientdet": Family(),
    "efficientdet-lite": Family(
        name="efficientdet-lite",
        architecture="efficientnet-lite",
        law=DetectorLaw(size_base=320, size_step=64),
        fusion="sum",
        activation="relu6",
        anchor_scale=3.0,
    ),
    **{
        f"efficientdet-{name}": Family(name=f"efficientdet-{name}", architecture=name, activation="relu")
        for name in OTHER_BACKBONES
    },
}
"""Families that a φ can be given to: the papers' own, the Lite one, and EfficientDet on other backbones."""


def family(name: str) -> Family:
    """The family called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in FAMILIES:
        raise UnknownNameError("family", name, FAMILIES)
    return FAMILIES[name]


def backbone_config(name: str) -> BackboneConfig:
    """The published backbone called ``name``: EfficientNet B0–B8 and Lite0–4, ResNet, MobileNetV2.

    Stochastic depth as in the official code: 0.2 at the last block, none for B0 and Lite0.
    """
    if name in OTHER_BACKBONES:
        return BackboneConfig(architecture=name)
    row = _efficientnet(name)
    return BackboneConfig(
        architecture=_architecture(name),
        width=row.width,
        depth=row.depth,
        drop_path=0.0 if name.endswith("0") else 0.2,
    )


def detector_config(name: str, class_names: tuple[str, ...] = COCO_CLASS_NAMES) -> ModelConfig:
    """The published detector called ``name``.

    Raises:
        UnknownNameError: there is none; the nearest names are in the message.
    """
    if name not in EFFICIENTDETS:
        raise UnknownNameError("model", name, DETECTOR_NAMES)
    row = EFFICIENTDETS[name]
    lite = _architecture(row.backbone) == "efficientnet-lite"
    return ModelConfig(
        name=name,
        backbone=backbone_config(row.backbone),
        feature_network=FeatureNetworkConfig(
            channels=row.channels, repeats=row.cells, fusion=row.fusion, max_level=row.max_level
        ),
        head_layers=row.head_layers,
        activation="relu6" if lite else "silu",
        image_size_hw=(row.size, row.size),
        class_names=class_names,
        anchors=AnchorConfig(scale=row.anchor_scale),
        preprocess=LITE if lite else IMAGENET,
    )


def scaled_detector_config(
    phi: float, of: Family | None = None, class_names: tuple[str, ...] = COCO_CLASS_NAMES
) -> ModelConfig:
    """The detector that the law gives for ``phi``; see :mod:`phidet.architectures.backbones.scaling` for the rounding.

    Raises:
        ConfigError: ``phi`` is out of range.
    """
    phi = check_phi(phi)
    of = of or FAMILIES["efficientdet"]
    size = of.law.image_size(phi)
    return ModelConfig(
        name=f"{of.name}-phi{phi:g}",
        backbone=_scaled_backbone(phi, of.architecture, of.compound),
        feature_network=FeatureNetworkConfig(
            channels=of.law.channels(phi), repeats=of.law.cells(phi), graph=of.graph, fusion=of.fusion
        ),
        head_layers=of.law.head_layers(phi),
        activation=of.activation,
        image_size_hw=(size, size),
        class_names=class_names,
        anchors=AnchorConfig(scale=of.anchor_scale),
        preprocess=LITE if of.architecture == "efficientnet-lite" else IMAGENET,
    )


def classifier_config(name: str, class_names: tuple[str, ...] | None = None) -> ClassifierConfig:
    """The published classifier called ``name``; 1,000 classes unless named.

    Raises:
        UnknownNameError: there is none; the nearest names are in the message.
    """
    row = EfficientNetRow(1.0, 1.0, 224, 0.0) if name in OTHER_BACKBONES else _efficientnet(name)
    return _classifier(name, backbone_config(name), row.size, row.dropout, class_names)


def scaled_classifier_config(
    phi: float,
    architecture: Architecture = "efficientnet",
    compound: CompoundScaling | None = None,
    class_names: tuple[str, ...] | None = None,
) -> ClassifierConfig:
    """The classifier that EfficientNet's eq. 3 gives for ``phi``, any architecture, any α, β, γ.

    Dropout grows linearly from 0.2 at φ = 0 to 0.5 at φ = 7 (section 5.2 of the paper).

    Raises:
        ConfigError: ``phi`` is out of range.
    """
    phi = check_phi(phi)
    compound = compound or CompoundScaling()
    dropout = min(max(0.2 + 0.3 * phi / 7, 0.2), 0.5)
    size = max(32, round_to_multiple(224 * compound.resolution(phi), 4))
    backbone = _scaled_backbone(phi, architecture, compound)
    return _classifier(f"{architecture}-phi{phi:g}", backbone, size, dropout, class_names)


def _efficientnet(name: str) -> EfficientNetRow:
    if name not in EFFICIENTNETS:
        raise UnknownNameError("model", name, CLASSIFIER_NAMES)
    return EFFICIENTNETS[name]


def _architecture(name: str) -> Architecture:
    return "efficientnet-lite" if name.startswith("efficientnet-lite") else "efficientnet"


def _scaled_backbone(phi: float, architecture: Architecture, compound: CompoundScaling) -> BackboneConfig:
    return BackboneConfig(
        architecture=architecture,
        width=compound.width(phi),
        depth=compound.depth(phi),
        drop_path=0.2 if phi > 0 and architecture.startswith("efficientnet") else 0.0,
    )


def _classifier(
    name: str, backbone: BackboneConfig, size: int, dropout: float, class_names: tuple[str, ...] | None
) -> ClassifierConfig:
    heads = {
        "efficientnet": round_channels(1280 * backbone.width),
        "efficientnet-lite": 1280,
        "mobilenet-v2": round_channels(1280 * max(1.0, backbone.width)),
    }
    return ClassifierConfig(
        name=name,
        backbone=backbone,
        head_channels=heads.get(backbone.architecture, 0),
        dropout=dropout,
        image_size_hw=(size, size),
        class_names=class_names or default_class_names(1000),
        preprocess=LITE if backbone.architecture == "efficientnet-lite" else IMAGENET,
    )
