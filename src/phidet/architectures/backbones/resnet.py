"""ResNet and MobileNetV2 from torchvision, scaled as EfficientNet scales itself (arXiv 1905.11946, table 3).

The blocks are torchvision's, with their parameter names, so its checkpoints load unchanged at
width and depth 1; the multipliers only change their arguments.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.plan import resnet_stages
from phidet.architectures.backbones.scaling import round_channels
from phidet.architectures.layers import init_convolutions


class ResNet(nn.Module):
    """A ResNet without its pooling and last layer. ``channels[l]`` is the width of the map at level l."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        bottleneck, depths = resnet_stages(config)
        block = Bottleneck if bottleneck else BasicBlock
        # The multipliers act on torchvision's own numbers, so that 1 and 1 give its networks exactly.
        stem, *widths = (round_channels(c * config.width) for c in (64, 64, 128, 256, 512))
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        outs = [w * block.expansion for w in widths]
        self.layer1 = _resnet_layer(block, stem, widths[0], depths[0], 1)
        self.layer2 = _resnet_layer(block, outs[0], widths[1], depths[1], 2)
        self.layer3 = _resnet_layer(block, outs[1], widths[2], depths[2], 2)
        self.layer4 = _resnet_layer(block, outs[2], widths[3], depths[3], 2)
        self.channels = dict(enumerate([stem, *outs], start=1))
        # As torchvision initialises them; it matters only where a training starts without weights.
        init_convolutions(self, lambda conv: nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu"))

    def early_layers(self) -> list[nn.Module]:
        """The layers up to level 2."""
        return [self.conv1, self.bn1, self.layer1]

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Normalised images (B, 3, H, W) → the maps of levels 1–5, level l (B, channels[l], ⌈H / 2^l⌉, ⌈W / 2^l⌉)."""
        x1 = self.relu(self.bn1(self.conv1(images)))
        x2 = self.layer1(self.maxpool(x1))
        x3 = self.layer2(x2)
        x4 = self.layer3(x3)
        return {1: x1, 2: x2, 3: x3, 4: x4, 5: self.layer4(x4)}


def _resnet_layer(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    """``depth`` blocks; the first one strides, and projects its shortcut where the shapes differ."""
    out = width * block.expansion
    shortcut = None
    if stride != 1 or in_channels != out:
        shortcut = nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    first = block(in_channels, width, stride, shortcut)
    return nn.Sequential(first, *(block(out, width) for _ in range(depth - 1)))
