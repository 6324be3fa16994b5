"""EfficientNet and EfficientNet-Lite (arXiv 1905.11946, table 1), at any width and depth."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.plan import Block, level_ends, plan_blocks
from phidet.architectures.config import Activation
from phidet.architectures.layers import SameConv2d, SqueezeExcite, activation, batch_norm, init_convolutions


class ConvNorm(nn.Module):
    """Convolution and batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = SameConv2d(in_channels, out_channels, kernel, stride, groups)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out


class InvertedResidual(nn.Module):
    """MBConv: expand 1×1, depthwise k×k, squeeze-excite (not in Lite), project 1×1, shortcut if shapes are equal."""

    def __init__(self, block: Block, act: Activation, squeeze_excite: bool) -> None:
        super().__init__()
        expanded = block.in_channels * block.expand
        self.expand = ConvNorm(block.in_channels, expanded, 1) if block.expand != 1 else None
        self.depthwise = ConvNorm(expanded, expanded, block.kernel, block.stride, groups=expanded)
        # The squeeze width follows the block's input, not the expanded map.
        self.se = SqueezeExcite(expanded, max(1, block.in_channels // 4)) if squeeze_excite else None
        self.project = ConvNorm(expanded, block.out_channels, 1)
        self.act = activation(act)
        self.shortcut = block.stride == 1 and block.in_channels == block.out_channels
        self.drop_path = StochasticDepth(block.drop_path, "row") if self.shortcut and block.drop_path > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) → (B, out, ⌈H / stride⌉, ⌈W / stride⌉)."""
        y: Tensor = x
        if self.expand is not None:
            y = self.act(self.expand(y))
        y = self.act(self.depthwise(y))
        if self.se is not None:
            y = self.se(y)
        y = self.project(y)
        if self.drop_path is not None:
            y = self.drop_path(y)
        return x + y if self.shortcut else y


class EfficientNet(nn.Module):
    """Stem and blocks. ``channels[l]`` is the width of the map at level l, whose stride is 2^l."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        lite = config.architecture == "efficientnet-lite"
        act: Activation = "relu6" if lite else "silu"
        stem, blocks = plan_blocks(config)
        self.stem = ConvNorm(3, stem, 3, stride=2)
        self.act = activation(act)
        self.blocks = nn.ModuleList(InvertedResidual(block, act, squeeze_excite=not lite) for block in blocks)
        self.config = config
        self.level_of_block = level_ends([block.stride for block in blocks])
        self.channels = {level: blocks[end].out_channels for end, level in self.level_of_block.items()}
        init_convolutions(self, _draw)

    def early_layers(self) -> list[nn.Module]:
        """The layers up to level 2: they detect edges and textures and transfer to most data."""
        last = next(end for end, level in self.level_of_block.items() if level == 2)
        return [self.stem, *self.blocks[: last + 1]]

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Normalised images (B, 3, H, W) → the maps of levels 1–5, level l (B, channels[l], ⌈H / 2^l⌉, ⌈W / 2^l⌉)."""
        x = self.act(self.stem(images))
        maps: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            # A level's map is what its last block gives, before the next stride.
            if i in self.level_of_block:
                maps[self.level_of_block[i]] = x
        return maps


def _draw(conv: nn.Conv2d) -> None:
    """The official code: normal with variance 2 / (kernel area · output channels of the whole convolution)."""
    fan_out = math.prod(conv.kernel_size) * conv.out_channels
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (fan_out / conv.groups)))
