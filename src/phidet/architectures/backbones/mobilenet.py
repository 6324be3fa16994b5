"""MobileNetV2 (arXiv 1801.04381) of any width and depth."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import MobileNetV2

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.plan import mobilenet_level_ends, mobilenet_rows


class MobileNet(nn.Module):
    """MobileNetV2 up to its last block; the 1×1 convolution behind it belongs to the classifier."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        network = MobileNetV2(num_classes=1, width_mult=config.width, inverted_residual_setting=mobilenet_rows(config))
        self.features = network.features[:-1]
        self.level_of_index = mobilenet_level_ends(config)
        self.channels = {level: self.features[end].out_channels for end, level in self.level_of_index.items()}

    def early_layers(self) -> list[nn.Module]:
        """The layers up to level 2."""
        last = next(end for end, level in self.level_of_index.items() if level == 2)
        return list(self.features[: last + 1])

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Normalised images (B, 3, H, W) → the maps of levels 1–5, level l (B, channels[l], ⌈H / 2^l⌉, ⌈W / 2^l⌉)."""
        maps: dict[int, Tensor] = {}
        x = images
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.level_of_index:
                maps[self.level_of_index[i]] = x
        return maps
