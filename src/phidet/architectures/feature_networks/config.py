"""Configuration of a feature network."""

from __future__ import annotations

from typing import Literal

import msgspec

from phidet.architectures.feature_networks.graphs import GRAPHS, FeatureGraph, build_graph
from phidet.core.errors import UnknownNameError
from phidet.core.structs import require, require_one_of

Fusion = Literal["sum", "unbounded", "softmax", "fast"]


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
            # Backbones end at level 5, and what is coarser is pooled from it.
            1 <= self.min_level <= 5 and self.min_level < self.max_level <= 10,
            f"levels must satisfy 1 ≤ min_level ≤ 5 and min_level < max_level ≤ 10, "
            f"got {self.min_level}..{self.max_level}",
        )
        require_one_of("fusion", self.fusion, Fusion)
        if isinstance(self.graph, str) and self.graph not in GRAPHS:
            raise UnknownNameError("feature network", self.graph, GRAPHS)
        # A graph that is given as a struct has levels of its own.
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
