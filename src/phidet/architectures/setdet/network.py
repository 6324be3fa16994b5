"""Backbone → attention within its coarsest map → feature network → decoder."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from phidet.architectures.backbones.build import Backbone, build_backbone
from phidet.architectures.feature_networks.network import FeatureNetwork, Projection
from phidet.architectures.layers import check_images
from phidet.architectures.model import Model
from phidet.architectures.optimized import OptimizedNetwork
from phidet.architectures.setdet.attention import EncoderLayer, encode
from phidet.architectures.setdet.config import SetDetConfig
from phidet.architectures.setdet.decoder import Predictions, Refinement, SetDecoder
from phidet.architectures.setdet.denoising import Noise
from phidet.architectures.setdet.dense import DenseHead, DenseOutputs
from phidet.architectures.setdet.lower import compile_program
from phidet.architectures.sets.targets import SetTargets


class TrainingOutputs(NamedTuple):
    """What the loss reads.

    Attributes:
        refinement: of the decoder.
        dense: a box and classes for every cell of the feature network's maps.
    """

    refinement: Refinement
    dense: DenseOutputs


class SetDet(Model):
    """A detector that predicts a set: no anchors, no suppression.

    Args:
        config: what to build; kept as ``config`` and saved with the weights.
    """

    def __init__(self, config: SetDetConfig) -> None:
        super().__init__()
        self.config: SetDetConfig = config
        features, width = config.feature_network, config.decoder.width
        self.backbone = build_backbone(config.backbone)
        channels = dict(cast("Backbone", self.backbone).channels)
        self.encoder = MapEncoder(channels[5], width, config.decoder.heads, config.encoder_layers)
        # The encoder's map takes the place of the backbone's coarsest one.
        channels[5] = width
        self.feature_network = FeatureNetwork(channels, features, config.activation)
        self.memory = nn.ModuleList(Projection(features.channels, width) for _ in features.levels)
        self.decoder = SetDecoder(config.decoder, len(features.levels), config.num_classes)
        self.dense_head = DenseHead(features.channels, len(features.levels), config.num_classes, config.activation)
        self.to(memory_format=torch.channels_last)  # a third faster on CPUs, and the layout of tensor cores

    def forward(
        self, images: Tensor, targets: SetTargets | None = None, noise: Noise | None = None
    ) -> Predictions | TrainingOutputs:
        """Normalised images (B, 3, H, W) → the objects; with ``targets`` everything that training learns from.

        Args:
            images: any H and W from the coarsest stride up.
            targets: boxes in 0…1 of the input, for denoising queries.
            noise: of those; the default of :class:`Noise` unless given.

        Raises:
            InputError: not four dimensions, not three channels, or smaller than the coarsest stride.
        """
        side = 2**self.config.feature_network.max_level
        check_images(images, side, f"the coarsest stride, {side}: resize or pad them to at least {side}×{side}")
        features = self.features(images)
        memory = [project(x) for project, x in zip(self.memory, features, strict=True)]
        if targets is None:
            return cast("Predictions", self.decoder(memory))
        refinement = self.decoder.refine(memory, targets, noise or Noise())
        return TrainingOutputs(refinement, self.dense_head(features))

    def features(self, images: Tensor) -> list[Tensor]:
        """What the feature network makes of normalised images, one map for each level, finest first."""
        maps = self.backbone(images.contiguous(memory_format=torch.channels_last))
        fused: list[Tensor] = self.feature_network({**maps, 5: self.encoder(maps[5])})
        return fused

    def optimize(self) -> OptimizedNetwork[Predictions]:
        """A faster copy for inference with all constants folded; outputs are equal up to rounding."""
        return OptimizedNetwork(compile_program(self), Predictions).to(next(self.parameters()).device)


class MapEncoder(nn.Module):
    """Attention among the cells of one map (arXiv 2304.08069, section 4.2)."""

    def __init__(self, in_channels: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.project = Projection(in_channels, width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) → (B, width, H, W)."""
        return encode(self.layers, self.project(x))
