"""Configuration of an EfficientDet."""

from __future__ import annotations

import math

import msgspec

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.config import Activation, check_class_names
from phidet.architectures.efficientdet.mask_config import STRIDE, MaskConfig, SemanticConfig
from phidet.architectures.feature_networks.config import FeatureNetworkConfig
from phidet.core.structs import require, require_one_of
from phidet.images.prepare import IMAGENET, Preprocess

ASPECTS_OFFICIAL = ((1.0, 1.0), (math.sqrt(2), 1 / math.sqrt(2)), (1 / math.sqrt(2), math.sqrt(2)))
"""(width, height) factors in today's official code, so in the official ``.h5`` files."""


ASPECTS_2020 = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""(width, height) factors in the official code of mid 2020 and in the PyTorch ports (``effdet``, zylo117)."""


class AnchorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Anchors of one cell: ``octaves`` sizes ``scale · stride · 2^(i/octaves)`` times every (width, height) aspect."""

    scale: float = 4.0
    octaves: int = 3
    aspects_wh: tuple[tuple[float, float], ...] = ASPECTS_OFFICIAL

    def __post_init__(self) -> None:
        require(math.isfinite(self.scale) and self.scale > 0, f"anchor scale must be > 0, got {self.scale!r}")
        require(self.octaves >= 1, f"anchor octaves must be ≥ 1, got {self.octaves}")
        require(
            len(self.aspects_wh) > 0 and all(math.isfinite(side) and side > 0 for wh in self.aspects_wh for side in wh),
            f"anchor aspects_wh must be pairs of positive (width, height), got {self.aspects_wh}",
        )

    @property
    def per_cell(self) -> int:
        """Anchors of one cell of a feature map."""
        return self.octaves * len(self.aspects_wh)


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A complete detector. ``image_size_hw`` is its intended input size; any other size works as well.

    ``masks`` adds a head for the masks of objects, ``semantic`` one for the class of every pixel.
    """

    name: str
    backbone: BackboneConfig
    feature_network: FeatureNetworkConfig
    head_layers: int
    activation: Activation
    image_size_hw: tuple[int, int]
    class_names: tuple[str, ...]
    anchors: AnchorConfig = AnchorConfig()
    preprocess: Preprocess = IMAGENET
    masks: MaskConfig | None = None
    semantic: SemanticConfig | None = None

    def __post_init__(self) -> None:
        # Maps of level 3 are enlarged to a quarter of the input, which needs whole cells.
        if self.masks is not None or self.semantic is not None:
            require(
                all(side % STRIDE == 0 for side in self.image_size_hw) and self.feature_network.min_level == 3,
                f"masks need an input whose sides are multiples of {STRIDE} and a feature network from level 3 on, got "
                f"{self.image_size_hw[0]}×{self.image_size_hw[1]} and level {self.feature_network.min_level}",
            )
        require_one_of("activation", self.activation, Activation)
        require(self.head_layers >= 0, f"head_layers must be ≥ 0, got {self.head_layers}")
        coarsest = 2**self.feature_network.max_level
        require(
            all(side >= coarsest for side in self.image_size_hw),
            f"image size {self.image_size_hw[0]}×{self.image_size_hw[1]} is smaller than the coarsest stride, "
            f"{coarsest} (level {self.feature_network.max_level}): use a larger image size or fewer levels",
        )
        check_class_names(self.class_names)

    @property
    def num_classes(self) -> int:
        """Real classes; ids are 0…num_classes − 1 and there is no background class."""
        return len(self.class_names)

    @property
    def num_anchors(self) -> int:
        """Anchors of an image of ``image_size_hw``, all levels together."""
        height, width = self.image_size_hw
        cells = sum(-(-height // 2**level) * -(-width // 2**level) for level in self.feature_network.levels)
        return int(cells) * self.anchors.per_cell
