"""The model of 50 lines in the paper's appendix A.6, with its own forward.

It differs from DETR: batch norms are ordinary ones; positions are learned and added once, to the features; queries are
the decoder's input, which itself gets no positions; the encoder ends with a norm; a box is one linear layer; only the
last layer answers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from phidet.architectures.backbones.build import Backbone, build_backbone
from phidet.architectures.detr.config import LEVEL, DetrConfig
from phidet.architectures.detr.network import DetrOutputs, place_cells
from phidet.architectures.detr.positions import LearnedPositions
from phidet.architectures.detr.transformer import Decoder, Encoder
from phidet.architectures.layers import check_images
from phidet.architectures.model import Model


class DetrDemo(Model):
    """The demo; arguments and answers as :class:`phidet.architectures.detr.network.Detr`."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.config: DetrConfig = config
        size = config.transformer
        backbone = build_backbone(config.backbone)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.projection = nn.Conv2d(cast("Backbone", backbone).channels[LEVEL], size.width, 1)
        self.positions = LearnedPositions(size.width // 2)
        self.encoder = Encoder(size, final_norm=True)
        self.decoder = Decoder(size)
        self.queries = nn.Embedding(config.queries, size.width)
        nn.init.uniform_(self.queries.weight)
        self.class_head = nn.Linear(size.width, config.num_classes + 1)
        self.box_head = nn.Linear(size.width, 4)

    def forward(self, images: Tensor, valid_hw: Tensor | None = None) -> DetrOutputs:
        """As :meth:`phidet.architectures.detr.network.Detr.forward`; there are no auxiliary answers."""
        check_images(images, 1, "a pixel")
        maps = self.backbone(images.contiguous(memory_format=torch.channels_last))
        projected = self.projection(maps[LEVEL])
        features = place_cells(maps, projected, (images.shape[2], images.shape[3]), valid_hw, self.positions)
        tokens = projected.flatten(2).transpose(1, 2) * self.config.feature_scale
        nowhere = torch.zeros_like(tokens[:, :1])  # positions of the layers, which have none here
        memory = self.encoder(tokens + features.positions, nowhere, features.attended)
        # Not len(), which would fix the size of exported batches.
        queries = self.queries.weight.unsqueeze(0).expand(memory.shape[0], -1, -1)
        known = self.decoder(queries, nowhere, memory, memory, features.attended)
        logits, boxes = self.class_head(known[-1:]), self.box_head(known[-1:]).sigmoid()
        return DetrOutputs(logits[0], boxes[0], logits[:0], boxes[:0])
