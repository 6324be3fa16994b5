"""effdet as an oracle: the same model with random weights, and its answers in our order."""

from __future__ import annotations

import effdet
import torch
from torch import Tensor, nn

from phidet.family import DETECTOR_NAMES

NAMES = {name: "tf_" + name.replace("-", "_") for name in DETECTOR_NAMES}


def effdet_model(name: str, size_hw: tuple[int, int], num_classes: int = 90) -> nn.Module:
    """effdet's model; it freezes its sizes when it is built."""
    config = effdet.get_efficientdet_config(NAMES[name])
    config.image_size = size_hw
    config.num_classes = num_classes
    torch.manual_seed(0)
    return effdet.EfficientDet(config, pretrained_backbone=False)


def flat_levels(maps: list[Tensor], outputs: int) -> list[Tensor]:
    """(B, anchors · outputs, H, W) per level → (B, H · W · anchors, outputs) per level."""
    return [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, outputs) for m in maps]


def split_like(flat: Tensor, levels: list[Tensor]) -> list[Tensor]:
    """Cuts all levels' outputs into pieces as long as ``levels``."""
    return list(flat.split([level.shape[1] for level in levels], dim=1))
