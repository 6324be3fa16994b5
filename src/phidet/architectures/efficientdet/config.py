"""Configuration of an EfficientDet."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.config import Activation, check_class_names
from phidet.architectures.efficientdet.graphs import GRAPHS, FeatureGraph, build_graph
from phidet.core.errors import UnknownNameError
from phidet.core.structs import require, require_one_of
from phidet.images.prepare import IMAGENET, Preprocess

Fusion = Literal["sum", "unbounded", "softmax", "fast"]


ASPECTS_OFFICIAL = ((1.0, 1.0), (math.sqrt(2), 1 / math.sqrt(2)), (1 / math.sqrt(2), math.sqrt(2)))
"""(width, height) factors in today's official code, so in the official ``.h5`` files."""


ASPECTS_2020 = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""(width, height) factors in the official code of mid 2020 and in the PyTorch ports (``effdet``, zylo117)."""


class FeatureNetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A feature network: graph (by name or as a struct), fusion, width, and number of repeats.

    ``resolved_graph`` is the graph that will run.
    """

    channels: int
    repeats: int
    graph: str | FeatureGraph = "bifpn"
    fusion: Fusion = "fast"
    min_level: int = 3
    max_level: int = 7

    def __post_init__(self) -> None:
        require(self.channels >= 1, f"feature network channels must be ≥ 1, got {self.channels}")
        require(self.repeats >= 1, f"feature network repeats must be ≥ 1, got {self.repeats}")
        require(
            1 <= self.min_level <= 5 and self.min_level < self.max_level <= 10,
            f"levels must satisfy 1 ≤ min_level ≤ 5 and min_level < max_level ≤ 10, "
            f"got {self.min_level}..{self.max_level}",
        )
        require_one_of("fusion", self.fusion, Fusion)
        if isinstance(self.graph, str) and self.graph not in GRAPHS:
            raise UnknownNameError("feature network", self.graph, GRAPHS)
        graph = self.resolved_graph
        require(
            (graph.min_level, graph.max_level) == (self.min_level, self.max_level),
            f"graph {graph.name!r} stands on levels {graph.min_level}..{graph.max_level}, "
            f"the feature network on {self.min_level}..{self.max_level}",
        )

    @property
    def resolved_graph(self) -> FeatureGraph:
        """The graph itself, built if the config has only its name."""
        if isinstance(self.graph, FeatureGraph):
            return self.graph
        return build_graph(self.graph, self.min_level, self.max_level)

    @property
    def levels(self) -> range:
        """Levels of the output maps, finest first; level l has stride 2^l."""
        return range(self.min_level, self.max_level + 1)


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
    """A complete detector. ``image_size_hw`` is its intended input size; any other size works as well."""

    name: str
    backbone: BackboneConfig
    feature_network: FeatureNetworkConfig
    head_layers: int
    activation: Activation
    image_size_hw: tuple[int, int]
    class_names: tuple[str, ...]
    anchors: AnchorConfig = AnchorConfig()
    preprocess: Preprocess = IMAGENET

    def __post_init__(self) -> None:
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
