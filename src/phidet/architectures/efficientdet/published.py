"""The published models by name, and the law for every φ between and beyond them.

By name (``efficientdet-d3``) comes the published model, exactly. By φ comes the law of
:mod:`phidet.architectures.backbones.scaling`, exactly. The two agree at φ = 0; from there the published family
departs from the law by manual choices:

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

from phidet.architectures.backbones.config import BackboneArchitecture
from phidet.architectures.backbones.published import (
    OTHER_BACKBONES,
    architecture_of,
    backbone_config,
    scaled_backbone,
)
from phidet.architectures.backbones.scaling import CompoundScaling, check_phi, family_named
from phidet.architectures.config import Activation
from phidet.architectures.efficientdet.config import AnchorConfig, ModelConfig
from phidet.architectures.efficientdet.scaling import DetectorLaw
from phidet.architectures.feature_networks.config import FeatureNetworkConfig, Fusion
from phidet.core.errors import UnknownNameError
from phidet.data.coco_classes import COCO_CLASS_NAMES
from phidet.images.prepare import IMAGENET, LITE


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
    """What is fixed while φ varies: the backbone architecture, the two scaling laws, and further settings."""

    name: str = "efficientdet"
    architecture: BackboneArchitecture = "efficientnet"
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
"""Families that φ can scale: the papers' own, the Lite one, and EfficientDet on other backbones."""


def family_of(family: object) -> Family:
    """The family itself, or the one of that name; ``None`` stands for EfficientDet's own.

    Raises:
        UnknownNameError: there is none.
    """
    return family_named(family, FAMILIES, "efficientdet")


def detector_config(name: str, class_names: tuple[str, ...] = COCO_CLASS_NAMES) -> ModelConfig:
    """The published detector named ``name``.

    Raises:
        UnknownNameError: there is none; the nearest names are in the message.
    """
    if name not in EFFICIENTDETS:
        raise UnknownNameError("model", name, DETECTOR_NAMES)
    # The table is the published one, row by row; the law is not asked, because the family departs from it.
    row = EFFICIENTDETS[name]
    lite = architecture_of(row.backbone) == "efficientnet-lite"
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
    # Heads, cells and input follow from φ alone; what φ does not decide comes from the family.
    phi = check_phi(phi)
    of = of or FAMILIES["efficientdet"]
    size = of.law.image_size(phi)
    return ModelConfig(
        name=f"{of.name}-phi{phi:g}",
        backbone=scaled_backbone(phi, of.architecture, of.compound),
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
