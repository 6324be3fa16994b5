"""MobileNetV2 (arXiv 1801.04381) of any width and depth."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import MobileNetV2

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.scaling import round_repeats

MOBILENET_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # expansion, channels, repeats, stride (arXiv 1801.04381, table 2)


class MobileNet(nn.Module):
    """MobileNetV2 up to its last block; the 1×1 convolution behind it belongs to the classifier."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        setting = [[t, c, round_repeats(n * config.depth), s] for t, c, n, s in MOBILENET_V2_STAGES]
        network = MobileNetV2(num_classes=1, width_mult=config.width, inverted_residual_setting=setting)
        self.features = network.features[:-1]
        # torchvision's blocks do not say where a level ends: it ends before the next stride of two.
        strides = [s if r == 0 else 1 for _, _, n, s in setting for r in range(n)]
        # features[0] is the stem; block i is features[i + 1].
        ends = [i for i, stride in enumerate(strides) if stride == 2] + [len(strides)]
        self.level_of_index = {end: level for level, end in enumerate(ends, start=1)}
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
