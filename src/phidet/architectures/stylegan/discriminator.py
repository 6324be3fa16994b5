"""The discriminator, that of progressive growing (arXiv 1710.10196)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phidet.architectures.stylegan.config import StyleGanConfig
from phidet.architectures.stylegan.layers import Convolution, ConvolutionDown, Dense, blur, downscale, leaky_relu

GROUP = 4
"""Images of a batch whose deviation is measured together."""


class Discriminator(nn.Module):
    """From images to a score, high for real ones; with labels, the score of the image's class."""

    def __init__(self, config: StyleGanConfig) -> None:
        super().__init__()
        self.config = config
        self.from_rgb, self.blocks = nn.ModuleList(), nn.ModuleList()
        for resolution in config.resolutions:
            self.from_rgb.append(Convolution(config.channels(resolution), 3, 1, 1))
            if resolution > 4:
                self.blocks.append(Block(config, resolution))
        width = config.channels(4)
        self.last = Convolution(width, width + 1, 3, 3)
        self.hidden = Dense(config.channels(2), 16 * width)
        self.score = Dense(max(config.label_size, 1), config.channels(2), gain=1.0)

    def forward(self, images: Tensor, labels: Tensor | None = None, detail: float = 0.0) -> Tensor:
        """Images (N, 3, R, R) from −1 to 1, one-hot labels (N, classes) → scores (N,).

        Args:
            images: at the full resolution, whatever the level of detail.
            labels: of the images, where the network takes them.
            detail: level of detail, as of the generator.
        """
        level = int(detail)
        top = len(self.config.resolutions) - 1 - level
        images = downscale(images, 2**level)
        x = leaky_relu(self.from_rgb[top](images))
        for i in range(top, 0, -1):
            x = self.blocks[i - 1](x)
            # While the top level fades in, the input of the level below is mixed in.
            if i == top and detail > level:
                x = torch.lerp(x, leaky_relu(self.from_rgb[top - 1](downscale(images))), detail - level)
        x = torch.cat([x, batch_deviation(x)], 1)
        x = leaky_relu(self.last(x))
        scores: Tensor = self.score(leaky_relu(self.hidden(x.flatten(1))))
        if labels is not None and self.config.labelled:
            scores = scores * labels
        return scores.sum(1)


class Block(nn.Module):
    """Two convolutions, the second to half the resolution."""

    def __init__(self, config: StyleGanConfig, resolution: int) -> None:
        super().__init__()
        channels = config.channels(resolution)
        self.blurred = config.blur
        self.convolution = Convolution(channels, channels, 3, 3)
        self.down = ConvolutionDown(config.channels(resolution // 2), channels, 3, 3)
        self.down.fused = config.is_fused(resolution)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, H/2, W/2)."""
        x = leaky_relu(self.convolution(x))
        return leaky_relu(self.down(blur(x) if self.blurred else x))


def batch_deviation(x: Tensor, group: int = GROUP, features: int = 1) -> Tensor:
    """How much the images of a batch differ, as further channels (arXiv 1710.10196 section 3).

    Image i belongs to group i mod (N / group): a batch that several processes share out in turns keeps its groups.

    Args:
        x: (N, C, H, W); N is a multiple of ``group``, or less than it.
        group: images of a group.
        features: parts of the channels that are averaged each for itself.

    Returns:
        (N, features, H, W), constant within each image and channel.
    """
    count, channels, height, width = x.shape
    group = min(group, count)
    assert count % group == 0, f"a batch of {count} images is no multiple of {group}"
    grouped = x.reshape(group, count // group, features, channels // features, height, width)
    deviation = (grouped.var(0, correction=0) + 1e-8).sqrt().mean((2, 3, 4))  # (groups, features)
    return deviation.repeat(group, 1)[:, :, None, None].expand(-1, -1, height, width)
