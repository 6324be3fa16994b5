"""Masks of objects from prototypes (YOLACT, D. Bolya et al., arXiv 1904.02689, section 3).

The network makes K prototypes for the whole image at a quarter of its size, and K coefficients for each anchor. A mask
is the sigmoid of the sum of the prototypes, weighted by the coefficients of the anchor that gave the box.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from phidet.architectures.config import Activation
from phidet.architectures.efficientdet.mask_config import MaskConfig
from phidet.architectures.layers import SeparableConv, activation, batch_norm, init_convolutions


class Prototypes(nn.Module):
    """K maps at a quarter of the input, from the feature network's maps and the backbone's map of that size.

    The finest maps of the feature network are summed, refined, enlarged, and joined by the backbone's level 2, which
    knows edges better than any map that was made smaller.

    Args:
        level2_channels: of the backbone's map.
        channels: of the feature network.
        config: width and number of prototypes.
        act: the activation.
    """

    def __init__(self, level2_channels: int, channels: int, config: MaskConfig, act: Activation) -> None:
        super().__init__()
        self.coarse = SeparableConv(channels, config.channels)
        self.coarse_bn = batch_norm(config.channels)
        self.lateral = nn.Conv2d(level2_channels, config.channels, 1, bias=False)
        self.lateral_bn = batch_norm(config.channels)
        self.fine = SeparableConv(config.channels, config.channels)
        self.fine_bn = batch_norm(config.channels)
        self.predict = nn.Conv2d(config.channels, config.prototypes, 1)
        self.act = activation(act)
        init_convolutions(self, lambda conv: nn.init.kaiming_normal_(conv.weight, nonlinearity="relu"))

    def forward(self, level2: Tensor, maps: list[Tensor]) -> Tensor:
        """(B, C2, H/4, W/4) and the feature maps, finest (stride 8) first → (B, K, H/4, W/4)."""
        size_hw = maps[0].shape[2:]
        x = maps[0]
        # Large objects are seen best in coarser maps, which are enlarged and added.
        for coarser in maps[1:LEVELS]:
            x = x + F.interpolate(coarser, size_hw)
        x = self.act(self.coarse_bn(self.coarse(x)))
        x = F.interpolate(x, level2.shape[2:]) + self.lateral_bn(self.lateral(level2))
        x = self.act(self.fine_bn(self.fine(self.act(x))))
        prototypes: Tensor = self.predict(x)
        return prototypes


LEVELS = 3
"""Maps of the feature network that are summed."""
