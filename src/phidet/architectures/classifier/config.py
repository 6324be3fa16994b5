"""Configuration of a classifier."""

from __future__ import annotations

import msgspec

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.config import check_class_names
from phidet.core.structs import require
from phidet.images.prepare import IMAGENET, Preprocess


class ClassifierConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image classifier on a backbone. ``head_channels`` is the width of the last 1×1 convolution, 0 for none."""

    name: str
    backbone: BackboneConfig
    head_channels: int
    dropout: float
    image_size_hw: tuple[int, int]
    class_names: tuple[str, ...]
    preprocess: Preprocess = IMAGENET

    def __post_init__(self) -> None:
        require(self.head_channels >= 0, f"head_channels must be ≥ 0, got {self.head_channels}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout!r}")
        require(min(self.image_size_hw) >= 32, f"image size must be at least 32 pixels, got {self.image_size_hw}")
        check_class_names(self.class_names)

    @property
    def num_classes(self) -> int:
        """Number of classes; ids are 0…num_classes − 1."""
        return len(self.class_names)
