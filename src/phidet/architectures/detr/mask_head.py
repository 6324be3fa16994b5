"""Masks of the objects that the decoder found (arXiv 2005.12872, section 4.4 and figure 8)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phidet.architectures.detr.config import MASK_GROUPS, MASK_HEADS
from phidet.architectures.layers import init_convolutions


class MaskAttention(nn.Module):
    """How much each object attends to each feature cell, by head; there are no values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        for layer in (self.query, self.key):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, known: Tensor, memory: Tensor, attended: Tensor | None) -> Tensor:
        """
        Args:
            known: (B, Q, C), of the last decoder layer.
            memory: (B, N, C), of the encoder.
            attended: (B, 1, 1, N) bool, false for padding.

        Returns:
            (B, Q, 8, N), of sum 1 over all heads and cells of a query together, as the official code has it.
        """
        each = known.shape[-1] // MASK_HEADS
        q = self.query(known).reshape(*known.shape[:2], MASK_HEADS, each) / math.sqrt(each)
        k = self.key(memory).reshape(*memory.shape[:2], MASK_HEADS, each)
        logits = torch.einsum("bqhc,bnhc->bqhn", q, k)
        if attended is not None:
            logits = logits.masked_fill(~attended, -math.inf)
        # One softmax over heads and cells together, as in the official code.
        return logits.flatten(2).softmax(-1).view_as(logits)

    def multiply_adds(self, inputs: tuple[Tensor, ...]) -> int:
        """Of the product, for one image; the two layers count themselves."""
        return inputs[0].shape[1] * inputs[1].shape[1] * inputs[0].shape[2]


class MaskHead(nn.Module):
    """Convolutions on the attention maps of each object, upwards through the backbone's maps.

    Args:
        width: channels of the transformer.
        lateral: channels of the backbone's maps of strides 16, 8 and 4.
    """

    def __init__(self, width: int, lateral: tuple[int, int, int]) -> None:
        super().__init__()
        context = width + MASK_HEADS
        outs = [context, width // 2, width // 4, width // 8, width // 16]
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in zip([context, *outs], outs, strict=False))
        self.norms = nn.ModuleList(nn.GroupNorm(MASK_GROUPS, o) for o in outs)
        self.lateral = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in zip(lateral, outs[1:4], strict=True))
        self.predict = nn.Conv2d(outs[-1], 1, 3, padding=1)
        init_convolutions(self, lambda conv: nn.init.kaiming_uniform_(conv.weight, a=1))

    def forward(self, projected: Tensor, attention: Tensor, maps: list[Tensor]) -> Tensor:
        """
        Args:
            projected: (B, C, h, w), in front of the encoder.
            attention: (B, Q, 8, h, w).
            maps: (B, …), of the backbone, of strides 16, 8 and 4.

        Returns:
            (B, Q, H / 4, W / 4), logits.
        """
        batch, queries = attention.shape[:2]
        # What all objects of an image share goes through the first layer once: a convolution is linear.
        first, channels = self.layers[0], projected.shape[1]
        assert isinstance(first, nn.Conv2d)
        shared = F.conv2d(projected, first.weight[:, :channels], first.bias, padding=1)
        own = F.conv2d(attention.flatten(0, 1), first.weight[:, channels:], padding=1)
        x = own.reshape(batch, queries, *own.shape[1:]) + shared.unsqueeze(1)
        x = F.relu(self.norms[0](x.flatten(0, 1)))
        x = F.relu(self.norms[1](self.layers[1](x)))
        for lateral, layer, norm, features in zip(self.lateral, self.layers[2:], self.norms[2:], maps, strict=True):
            beside = lateral(features)  # (B, …), the same for all objects
            # Nearest neighbour, as the official code does.
            x = F.interpolate(x, (beside.shape[2], beside.shape[3]))
            x = (x.reshape(batch, queries, *x.shape[1:]) + beside.unsqueeze(1)).flatten(0, 1)
            x = F.relu(norm(layer(x)))
        logits: Tensor = self.predict(x)
        return logits.reshape(batch, queries, logits.shape[2], logits.shape[3])
