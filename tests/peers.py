"""effdet as an oracle: the same model with random weights, and its answers in our order. Tiny models of our own."""

from __future__ import annotations

from collections.abc import Mapping

import effdet
import torch
from torch import Tensor, nn

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.published import DETECTOR_NAMES
from phidet.architectures.feature_networks.config import FeatureNetworkConfig

NAMES = {name: "tf_" + name.replace("-", "_") for name in DETECTOR_NAMES}


def effdet_model(name: str, size_hw: tuple[int, int], num_classes: int = 90) -> nn.Module:
    """effdet's model; it freezes its sizes when it is built."""
    config = effdet.get_efficientdet_config(NAMES[name])
    config.image_size = size_hw
    config.num_classes = num_classes
    config.backbone_args = {"drop_path_rate": 0.0}  # what it drops in training is random
    torch.manual_seed(0)
    return effdet.EfficientDet(config, pretrained_backbone=False)


def flat_levels(maps: list[Tensor], outputs: int) -> list[Tensor]:
    """(B, anchors · outputs, H, W) per level → (B, H · W · anchors, outputs) per level."""
    return [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, outputs) for m in maps]


def split_like(flat: Tensor, levels: list[Tensor]) -> list[Tensor]:
    """Cuts all levels' outputs into pieces as long as ``levels``."""
    return list(flat.split([level.shape[1] for level in levels], dim=1))


def tiny_detector(class_names: tuple[str, ...] = ("bolt", "nut", "washer")) -> ModelConfig:
    """A detector of 150,000 parameters with every kind of part: squeeze-excite, projections, learned fusion, norms."""
    return ModelConfig(
        name="tiny",
        backbone=BackboneConfig(architecture="efficientnet", width=0.25, depth=0.3),
        feature_network=FeatureNetworkConfig(channels=12, repeats=2),
        head_layers=2,
        activation="silu",
        image_size_hw=(128, 160),
        class_names=class_names,
    )


def tiny_classifier(class_names: tuple[str, ...] = ("bolt", "nut", "washer")) -> ClassifierConfig:
    """A classifier on the backbone of :func:`tiny_detector`."""
    return ClassifierConfig(
        name="tiny-classifier",
        backbone=tiny_detector().backbone,
        head_channels=24,
        dropout=0.2,
        image_size_hw=(64, 64),
        class_names=class_names,
    )


def same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Equal names, equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
