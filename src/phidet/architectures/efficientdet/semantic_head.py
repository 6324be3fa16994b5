"""The class of every pixel: transposed convolutions from the coarsest map of the feature network to a quarter of the
input, as in the official code's segmentation demo (google/automl, ``SegmentationHead``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from phidet.architectures.config import Activation
from phidet.architectures.layers import TransposedConv, activation, batch_norm


class SemanticHead(nn.Module):
    """Each map is enlarged twofold and put beside the next finer one; the last step has a channel for each class.

    Args:
        channels: of the feature network.
        levels: of the feature network.
        outputs: classes, and the background.
        act: the activation.
    """

    def __init__(self, channels: int, levels: int, outputs: int, act: Activation) -> None:
        super().__init__()
        widths = [channels, *[2 * channels] * (levels - 2)]
        self.convs = nn.ModuleList(TransposedConv(width, channels) for width in widths)
        self.norms = nn.ModuleList(batch_norm(channels) for _ in widths)
        self.act = activation(act)
        self.predict = TransposedConv(2 * channels if levels > 1 else channels, outputs, bias=True)
        for module in self.modules():
            if isinstance(module, TransposedConv):
                # A pixel is reached by a quarter of the nine weights on average.
                nn.init.normal_(module.weight, std=math.sqrt(2 / (9 / 4 * module.in_channels)))
        assert self.predict.bias is not None
        nn.init.normal_(self.predict.weight, std=0.01)
        nn.init.zeros_(self.predict.bias)

    def forward(self, maps: list[Tensor], size_hw: tuple[int, int]) -> Tensor:
        """(B, C, H_l, W_l), finest first → (B, outputs, *size_hw), logits; ``size_hw`` is a quarter of the input's."""
        x = maps[-1]
        for conv, norm, finer in zip(self.convs, self.norms, reversed(maps[:-1]), strict=True):
            enlarged = self.act(norm(conv(x, (finer.shape[2], finer.shape[3]))))
            x = torch.cat((enlarged, finer), 1)
        logits: Tensor = self.predict(x, size_hw)
        return logits
