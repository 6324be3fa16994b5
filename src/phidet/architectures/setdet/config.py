"""Configuration of a set predictor."""

from __future__ import annotations

import msgspec

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.config import Activation, check_class_names
from phidet.architectures.feature_networks.config import FeatureNetworkConfig
from phidet.core.structs import require, require_one_of
from phidet.images.prepare import IMAGENET, Preprocess


class DecoderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What turns maps into objects.

    Attributes:
        queries: number of objects that an image can have at most.
        width: channels of a query; a multiple of ``heads``.
        layers: refinements of every query.
        heads: of every attention.
        points: that a query reads from each level with each head.
    """

    queries: int
    width: int
    layers: int
    heads: int = 8
    points: int = 4

    def __post_init__(self) -> None:
        for key in ("queries", "width", "layers", "heads", "points"):
            require(getattr(self, key) >= 1, f"decoder {key} must be ≥ 1, got {getattr(self, key)}")
        require(
            self.width % self.heads == 0 and self.width % 4 == 0,
            f"decoder width must be a multiple of its {self.heads} heads and of 4, got {self.width}",
        )


class SetDetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A complete detector. ``image_size_hw`` is its intended input size; any other size works as well.

    Attributes:
        encoder_layers: of attention within the coarsest map of the backbone, before the feature network.
    """

    name: str
    backbone: BackboneConfig
    encoder_layers: int
    feature_network: FeatureNetworkConfig
    decoder: DecoderConfig
    activation: Activation
    image_size_hw: tuple[int, int]
    class_names: tuple[str, ...]
    preprocess: Preprocess = IMAGENET

    def __post_init__(self) -> None:
        require_one_of("activation", self.activation, Activation)
        require(self.encoder_layers >= 0, f"encoder_layers must be ≥ 0, got {self.encoder_layers}")
        levels = self.feature_network.levels
        require(
            levels.start <= 5 <= levels[-1],
            f"the feature network must have level 5, the backbone's coarsest, got {levels.start}..{levels[-1]}",
        )
        coarsest = 2 ** levels[-1]
        require(
            all(side >= coarsest for side in self.image_size_hw),
            f"image size {self.image_size_hw[0]}×{self.image_size_hw[1]} is smaller than the coarsest stride, "
            f"{coarsest} (level {levels[-1]}): use a larger image size or fewer levels",
        )
        check_class_names(self.class_names)

    @property
    def num_classes(self) -> int:
        """Real classes; ids are 0…num_classes − 1 and there is no background class."""
        return len(self.class_names)
