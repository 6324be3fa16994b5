"""Backbone → transformer → class and box of every query."""

from __future__ import annotations

import copy
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phidet.architectures.backbones.build import Backbone, build_backbone
from phidet.architectures.backbones.resnet import ResNet
from phidet.architectures.detr.backbone import dilate_last_stage, fold_frozen_norms, freeze_batch_norms
from phidet.architectures.detr.config import LEVEL, DetrConfig
from phidet.architectures.detr.mask_head import MaskAttention, MaskHead
from phidet.architectures.detr.positions import LearnedPositions, padding_of_cells, sine_positions
from phidet.architectures.detr.transformer import Decoder, Encoder
from phidet.architectures.layers import check_images, wide
from phidet.architectures.model import Model


class DetrOutputs(NamedTuple):
    """The answers of Q queries.

    Attributes:
        class_logits: (B, Q, C + 1), the last one "no object".
        boxes_cxcywh: (B, Q, 4) in 0…1 of the image without its padding.
        auxiliary_logits, auxiliary_boxes: (L − 1, B, Q, …), the same of every decoder layer but the last.
        mask_logits: (B, Q, ⌈H / 4⌉, ⌈W / 4⌉), ``None`` where the network predicts no masks.
    """

    class_logits: Tensor
    boxes_cxcywh: Tensor
    auxiliary_logits: Tensor
    auxiliary_boxes: Tensor
    mask_logits: Tensor | None = None


class Features(NamedTuple):
    """What the transformer works on.

    Attributes:
        maps: of the backbone, by level.
        projected: (B, C, h, w), the last map in the transformer's width.
        positions: (B, h · w, C).
        attended: (B, 1, 1, h · w) bool, false for padding; ``None`` if there is none.
    """

    maps: dict[int, Tensor]
    projected: Tensor
    positions: Tensor
    attended: Tensor | None


class BoxHead(nn.Module):
    """A perceptron of three layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)])

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, 4) in 0…1."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        logits: Tensor = self.layers[-1](x)
        # In half precision a box would be off by pixels.
        return wide(logits).sigmoid()


class Detr(Model):
    """A detector that predicts a set (arXiv 2005.12872), on any backbone.

    Args:
        config: what to build; kept as ``config`` and saved with the weights.
    """

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.config: DetrConfig = config
        size = config.transformer
        backbone = build_backbone(config.backbone)
        # As the official code: batches of two large images are too small for statistics.
        freeze_batch_norms(backbone)
        if config.dilation:
            dilate_last_stage(cast("ResNet", backbone))
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.projection = nn.Conv2d(cast("Backbone", backbone).channels[LEVEL], size.width, 1)
        self.positions = LearnedPositions(size.width // 2) if config.position == "learned" else None
        self.encoder = Encoder(size, final_norm=size.pre_norm and size.encoder_layers > 0)
        self.decoder = Decoder(size)
        self.queries = nn.Embedding(config.queries, size.width)
        self.class_head = nn.Linear(size.width, config.num_classes + 1)
        self.box_head = BoxHead(size.width)
        self.mask_attention = self.mask_head = None
        if config.masks is not None:
            channels = cast("Backbone", backbone).channels
            self.mask_attention = MaskAttention(size.width)
            self.mask_head = MaskHead(size.width, (channels[4], channels[3], channels[2]))

    def forward(self, images: Tensor, valid_hw: Tensor | None = None) -> DetrOutputs:
        """
        Args:
            images: (B, 3, H, W), normalised, padded right and below with 0.
            valid_hw: (B, 2) int64, height and width of each image without padding; ``None`` if none is padded.

        Raises:
            InputError: not four dimensions, not three channels, or empty.
        """
        features = self.features(images, valid_hw)
        memory = self.encode(features)
        known = self.decode(features, memory)
        outputs = self.answers(known)
        return outputs if self.mask_head is None else outputs._replace(mask_logits=self.masks(features, memory, known))

    def optimize(self) -> nn.Module:
        """A copy for inference with batch norms folded into convolutions; same inputs and outputs, up to rounding."""
        # Only the backbone's norms can be folded; the others depend on what they are given.
        copied = copy.deepcopy(self).eval()
        fold_frozen_norms(copied.backbone)
        return copied

    def features(self, images: Tensor, valid_hw: Tensor | None) -> Features:
        """The backbone's maps and the positions of their cells; arguments as of :meth:`forward`."""
        check_images(images, 1, "a pixel")
        maps = self.backbone(images.contiguous(memory_format=torch.channels_last))
        projected = self.projection(maps[LEVEL])
        size_hw = images.shape[2], images.shape[3]
        return place_cells(maps, projected, size_hw, valid_hw, self.positions)

    def encode(self, features: Features) -> Tensor:
        """(B, h · w, C), the encoder's memory."""
        tokens = features.projected.flatten(2).transpose(1, 2)  # (B, h · w, C), row by row
        memory: Tensor = self.encoder(tokens, features.positions, features.attended)
        return memory

    def decode(self, features: Features, memory: Tensor) -> Tensor:
        """(L, B, Q, C), what every decoder layer knows of each object."""
        # Not len(), which would fix the size of exported batches.
        queries = self.queries.weight.unsqueeze(0).expand(memory.shape[0], -1, -1)
        keys = memory + features.positions
        known: Tensor = self.decoder(torch.zeros_like(queries), queries, keys, memory, features.attended)
        return known

    def masks(self, features: Features, memory: Tensor, known: Tensor) -> Tensor:
        """Mask logits (B, Q, ⌈H / 4⌉, ⌈W / 4⌉) of what the last decoder layer knows."""
        assert self.mask_attention is not None
        assert self.mask_head is not None
        # Masks come from the last layer alone, as the official code has it: they cost more than all boxes.
        attention = self.mask_attention(known[-1], memory, features.attended)
        cells_hw = features.projected.shape[2], features.projected.shape[3]
        lateral = [features.maps[level] for level in (4, 3, 2)]
        logits: Tensor = self.mask_head(features.projected, attention.reshape(*attention.shape[:3], *cells_hw), lateral)
        return logits

    def detector_parts(self) -> list[nn.Module]:
        """Everything that boxes need: what stays as it is while masks alone are learned."""
        parts = [
            self.backbone,
            self.projection,
            self.encoder,
            self.decoder,
            self.queries,
            self.class_head,
            self.box_head,
        ]
        return parts if self.positions is None else [*parts, self.positions]

    def answers(self, known: Tensor) -> DetrOutputs:
        """Classes and boxes of what :meth:`decode` returned."""
        logits, boxes = self.class_head(known), self.box_head(known)
        return DetrOutputs(logits[-1], boxes[-1], logits[:-1], boxes[:-1])


def place_cells(
    maps: dict[int, Tensor],
    projected: Tensor,
    size_hw: tuple[int, int],
    valid_hw: Tensor | None,
    learned: nn.Module | None,
) -> Features:
    """Features with the positions of their cells, and which of them are padding."""
    batch, channels, height, width = projected.shape
    if valid_hw is None:
        # Without padding one set of positions serves the whole batch, and attention without a mask is faster.
        padding = torch.zeros(1, height, width, dtype=torch.bool, device=projected.device)
        attended = None
    else:
        padding = padding_of_cells(valid_hw, size_hw, (height, width))
        attended = ~padding.reshape(batch, 1, 1, height * width)
    positions = sine_positions(padding, channels // 2) if learned is None else learned((height, width))
    flat = positions.flatten(2).transpose(1, 2).to(projected.dtype)
    return Features(maps, projected, flat.expand(batch, -1, -1), attended)
