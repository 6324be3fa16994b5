"""Backbone → feature network → class and box heads."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from phidet.architectures.backbones.build import Backbone, build_backbone
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.heads import Head, class_head
from phidet.architectures.efficientdet.lower import compile_program
from phidet.architectures.efficientdet.mask_head import Prototypes
from phidet.architectures.efficientdet.semantic_head import SemanticHead
from phidet.architectures.feature_networks.network import FeatureNetwork
from phidet.architectures.layers import check_images
from phidet.architectures.model import Model
from phidet.architectures.optimized import OptimizedNetwork


class RawOutputs(NamedTuple):
    """The network's outputs for every anchor, finest level first, row by row, anchors innermost.

    Attributes:
        class_logits: (B, A, num_classes), before the sigmoid.
        box_deltas: (B, A, 4), (ty, tx, th, tw) relative to the anchors; see :func:`phidet.detections.boxes.decode`.
    """

    class_logits: Tensor
    box_deltas: Tensor


class MaskedOutputs(NamedTuple):
    """The outputs of a network with masks.

    Attributes:
        class_logits, box_deltas: as in :class:`RawOutputs`.
        mask_coefficients: (B, A, K).
        prototypes: (B, K, H/4, W/4); see :mod:`phidet.architectures.efficientdet.mask_head`.
    """

    class_logits: Tensor
    box_deltas: Tensor
    mask_coefficients: Tensor
    prototypes: Tensor


class SemanticOutputs(NamedTuple):
    """The outputs of a network that says the class of every pixel.

    Attributes:
        class_logits, box_deltas: as in :class:`RawOutputs`.
        semantic_logits: (B, C + 1, H/4, W/4), the last one "background".
    """

    class_logits: Tensor
    box_deltas: Tensor
    semantic_logits: Tensor


class PanopticOutputs(NamedTuple):
    """The outputs of a network with masks that says the class of every pixel, too."""

    class_logits: Tensor
    box_deltas: Tensor
    mask_coefficients: Tensor
    prototypes: Tensor
    semantic_logits: Tensor


Outputs = RawOutputs | MaskedOutputs | SemanticOutputs | PanopticOutputs


class EfficientDet(Model):
    """A detector (arXiv 1911.09070), on any backbone. One forward, one return type for a config, in training and
    evaluation.

    Args:
        config: what to build; kept as ``config`` and saved with the weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config: ModelConfig = config
        features = config.feature_network
        self.backbone = build_backbone(config.backbone)
        channels = cast("Backbone", self.backbone).channels
        self.feature_network = FeatureNetwork(channels, features, config.activation)
        shape = (features.channels, config.head_layers, len(features.levels))
        anchors, act = config.anchors.per_cell, config.activation
        self.class_head = class_head(*shape, config.num_classes, anchors, act)
        self.box_head = Head(*shape, 4, anchors, act)
        self.mask_head: Head | None = None
        self.prototypes: Prototypes | None = None
        if config.masks is not None:
            shape = (features.channels, config.masks.layers, len(features.levels))
            self.mask_head = Head(*shape, config.masks.prototypes, anchors, act)
            self.prototypes = Prototypes(channels[2], features.channels, config.masks, act)
        self.semantic: SemanticHead | None = None
        if config.semantic is not None:
            self.semantic = SemanticHead(features.channels, len(features.levels), config.num_classes + 1, act)
        self.to(memory_format=torch.channels_last)  # a third faster on CPUs, and the layout of tensor cores

    def forward(self, images: Tensor) -> Outputs:
        """Normalised images (B, 3, H, W), any H and W from the coarsest stride up, to raw outputs.

        Raises:
            InputError: not four dimensions, not three channels, or smaller than the coarsest stride.
        """
        level = self.config.feature_network.max_level
        side = 2**level
        enough = f"the coarsest stride, {side} (level {level}): resize or pad them to at least {side}×{side}"
        check_images(images, side, enough)
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))
        maps = self.feature_network(features)
        # In the order of the fields of the outputs' type.
        found = [self.class_head(maps), self.box_head(maps)]
        if self.mask_head is not None and self.prototypes is not None:
            found += self.mask_head(maps), self.prototypes(features[2], maps)
        if self.semantic is not None:
            found.append(self.semantic(maps, (features[2].shape[2], features[2].shape[3])))
        return self.outputs_type(*found)

    @property
    def outputs_type(self) -> type[Outputs]:
        """What a forward returns; one type for a config."""
        kinds: dict[tuple[bool, bool], type[Outputs]] = {
            (False, False): RawOutputs,
            (True, False): MaskedOutputs,
            (False, True): SemanticOutputs,
            (True, True): PanopticOutputs,
        }
        return kinds[self.config.masks is not None, self.config.semantic is not None]

    def optimize(self) -> OptimizedNetwork[Any]:
        """A faster copy for inference with all constants folded; outputs are equal up to rounding."""
        folded = OptimizedNetwork(compile_program(self), self.outputs_type)
        return folded.to(next(self.parameters()).device)
