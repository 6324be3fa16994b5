"""The published classifiers by name, and the law for every φ (arXiv 1905.11946)."""

from __future__ import annotations

from phidet.architectures.backbones.config import BackboneArchitecture, BackboneConfig
from phidet.architectures.backbones.published import (
    BACKBONE_NAMES,
    OTHER_BACKBONES,
    EfficientNetRow,
    backbone_config,
    efficientnet_row,
    scaled_backbone,
)
from phidet.architectures.backbones.scaling import CompoundScaling, check_phi, round_channels, round_to_multiple
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.config import default_class_names
from phidet.images.prepare import IMAGENET, LITE

CLASSIFIER_NAMES = BACKBONE_NAMES
"""Every published backbone has a classifier of the same name."""


def classifier_config(name: str, class_names: tuple[str, ...] | None = None) -> ClassifierConfig:
    """The published classifier named ``name``; 1,000 classes by default.

    Raises:
        UnknownNameError: there is none; the nearest names are in the message.
    """
    row = EfficientNetRow(1.0, 1.0, 224, 0.0) if name in OTHER_BACKBONES else efficientnet_row(name)
    return _classifier(name, backbone_config(name), row.size, row.dropout, class_names)


def scaled_classifier_config(
    phi: float,
    architecture: BackboneArchitecture = "efficientnet",
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
    backbone = scaled_backbone(phi, architecture, compound)
    return _classifier(f"{architecture}-phi{phi:g}", backbone, size, dropout, class_names)


def _classifier(
    name: str, backbone: BackboneConfig, size: int, dropout: float, class_names: tuple[str, ...] | None
) -> ClassifierConfig:
    # The last convolution grows with EfficientNet, stays as wide in Lite, and never shrinks in MobileNetV2; ResNets
    # have none.
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
