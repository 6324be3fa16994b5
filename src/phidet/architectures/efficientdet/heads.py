"""Class and box networks: one set of convolutions for all levels, with separate batch norms for each level."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from phidet.architectures.config import Activation
from phidet.architectures.layers import SeparableConv, activation, batch_norm, init_convolutions

CLASS_PRIOR = 0.01  # probability that every class starts with (RetinaNet, 1708.02002, section 4.1)


class Head(nn.Module):
    """``layers`` separable convolutions with batch norm and activation, then a predictor.

    Args:
        channels: width of the feature maps.
        layers: convolutions before the predictor.
        levels: number of levels.
        outputs: numbers per anchor (classes, or 4).
        anchors: anchors per cell.
        act: the activation.
    """

    def __init__(self, channels: int, layers: int, levels: int, outputs: int, anchors: int, act: Activation) -> None:
        super().__init__()
        self.outputs = outputs
        self.convs = nn.ModuleList(SeparableConv(channels, channels) for _ in range(layers))
        self.norms = nn.ModuleList(
            nn.ModuleList(batch_norm(channels) for _ in range(levels)) for _ in range(layers)
        )  # norms[layer][level]
        self.act = activation(act)
        self.predict = SeparableConv(channels, anchors * outputs)
        init_convolutions(self, _draw)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps (B, C, H_l, W_l), finest first → (B, Σ H_l·W_l·anchors, outputs), row by row, anchors innermost."""
        flat: list[Tensor] = []
        for level, x in enumerate(maps):
            for conv, norms in zip(self.convs, self.norms, strict=True):
                assert isinstance(norms, nn.ModuleList)
                x = self.act(norms[level](conv(x)))
            # Channels last before flattening, so that the rows are in the order of the anchors.
            x = self.predict(x).permute(0, 2, 3, 1)  # (B, H, W, anchors · outputs)
            flat.append(x.reshape(x.shape[0], -1, self.outputs))
        return torch.cat(flat, 1)


def _draw(conv: nn.Conv2d) -> None:
    # Keras' variance scaling, truncated at two deviations: 0.88 corrects for that. For a depthwise kernel, too, Keras
    # counts every channel as fan in.
    std = math.sqrt(1 / (math.prod(conv.kernel_size) * conv.in_channels)) / 0.87962566103423978
    nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)


def class_head(channels: int, layers: int, levels: int, classes: int, anchors: int, act: Activation) -> Head:
    """A head of one logit per class, initialised to probability 0.01 for every class."""
    head = Head(channels, layers, levels, classes, anchors, act)
    bias = head.predict.pointwise.bias
    assert bias is not None
    # Without this prior, the loss of the many background anchors would dominate the first steps and diverge.
    nn.init.constant_(bias, -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
    return head
