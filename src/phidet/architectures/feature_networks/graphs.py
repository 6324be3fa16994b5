"""Feature networks as data: which maps are fused into which.

A feature network is a short list of nodes. A node stands on a level and fuses one or more earlier maps; the
maps of the pyramid come first, then the nodes in the order of the list. One executor
(:mod:`phidet.architectures.feature_networks.network`) runs any graph with any fusion,
:mod:`phidet.architectures.efficientdet.graph_drawing` draws it, and a
custom graph is stored inside the model's config. To add one, write a function as below (about ten lines) and
add it to :data:`GRAPHS`, or pass its result to ``FeatureNetworkConfig(graph=...)``.

Sources: FPN (1612.03144), PANet (1803.01534), NAS-FPN (1904.07392, figure 7), and EfficientDet (1911.09070,
figure 2 and section 3) for the others.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from phidet.core.errors import ConfigError, UnknownNameError


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fused map: its level and the indices of the maps that it fuses, in order."""

    level: int
    inputs: tuple[int, ...]


class FeatureGraph(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A feature network from maps at ``min_level..max_level`` to maps at the same levels.

    Index ``i < max_level - min_level + 1`` means the input map of level ``min_level + i``; larger indices mean
    ``nodes`` in order. ``outputs[i]`` is the index of the output map at level ``min_level + i``.
    """

    name: str
    min_level: int
    max_level: int
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]

    @property
    def levels(self) -> range:
        """The levels of inputs and outputs, finest first."""
        return range(self.min_level, self.max_level + 1)

    def level_of(self, index: int) -> int:
        """The level of the map with this index."""
        width = len(self.levels)
        return self.min_level + index if index < width else self.nodes[index - width].level

    def __post_init__(self) -> None:
        width = len(self.levels)
        if width < 2:
            raise ConfigError(f"graph {self.name!r} needs at least two levels, got {self.min_level}..{self.max_level}")
        for i, node in enumerate(self.nodes):
            if node.level not in self.levels:
                raise ConfigError(
                    f"graph {self.name!r}, node {i}: level {node.level} is not in {self.min_level}..{self.max_level}"
                )
            if not node.inputs or any(not 0 <= index < width + i for index in node.inputs):
                raise ConfigError(
                    f"graph {self.name!r}, node {i}: inputs {node.inputs} must name one or more earlier maps, "
                    f"0..{width + i - 1}"
                )
        # One output for each level, finest first.
        levels = [self.level_of(i) if 0 <= i < width + len(self.nodes) else None for i in self.outputs]
        if levels != list(self.levels):
            raise ConfigError(
                f"graph {self.name!r}: outputs {self.outputs} stand on levels {levels}, expected {list(self.levels)}"
            )


class GraphBuilder:
    """Collects nodes while a graph is described; a map is named by its index."""

    def __init__(self, min_level: int, max_level: int) -> None:
        if min_level >= max_level:
            raise ConfigError(
                f"a feature network needs at least two levels, finest first, got {min_level}..{max_level}"
            )
        self.min_level, self.max_level = min_level, max_level
        self.nodes: list[Node] = []

    def input(self, level: int) -> int:
        return level - self.min_level

    def node(self, level: int, *inputs: int) -> int:
        self.nodes.append(Node(level, inputs))
        # Its index among all maps, of which the inputs come first.
        return self.max_level - self.min_level + len(self.nodes)

    def graph(self, name: str, outputs: dict[int, int]) -> FeatureGraph:
        return FeatureGraph(
            name=name,
            min_level=self.min_level,
            max_level=self.max_level,
            nodes=tuple(self.nodes),
            outputs=tuple(outputs[level] for level in range(self.min_level, self.max_level + 1)),
        )


def fpn(low: int, high: int) -> FeatureGraph:
    """Top-down: every level adds the coarser level's result."""
    g = GraphBuilder(low, high)
    # The coarsest level has none above it to add.
    out = {high: g.node(high, g.input(high))}
    for level in range(high - 1, low - 1, -1):
        out[level] = g.node(level, g.input(level), out[level + 1])
    return g.graph("fpn", out)


def panet(low: int, high: int) -> FeatureGraph:
    """Top-down as FPN, then bottom-up over its results."""
    g = GraphBuilder(low, high)
    down = {high: g.node(high, g.input(high))}
    for level in range(high - 1, low - 1, -1):
        down[level] = g.node(level, g.input(level), down[level + 1])
    out = {low: down[low]}
    for level in range(low + 1, high + 1):
        out[level] = g.node(level, down[level], out[level - 1])
    return g.graph("panet", out)


def simplified_panet(low: int, high: int) -> FeatureGraph:
    """PANet without nodes of a single input, which fuse nothing."""
    g = GraphBuilder(low, high)
    down = {high: g.input(high)}
    for level in range(high - 1, low - 1, -1):
        down[level] = g.node(level, g.input(level), down[level + 1])
    out = {low: down[low]}
    for level in range(low + 1, high + 1):
        out[level] = g.node(level, down[level], out[level - 1])
    return g.graph("simplified-panet", out)


def bifpn(low: int, high: int) -> FeatureGraph:
    """Simplified PANet plus an edge from a level's input to its output where a node stands between them."""
    g = GraphBuilder(low, high)
    down = {high: g.input(high)}
    for level in range(high - 1, low - 1, -1):
        down[level] = g.node(level, g.input(level), down[level + 1])
    out = {low: down[low]}
    # Between both ends a node stands on the way down, so that the input needs an edge of its own.
    for level in range(low + 1, high):
        out[level] = g.node(level, g.input(level), down[level], out[level - 1])
    out[high] = g.node(high, g.input(high), out[high - 1])
    return g.graph("bifpn", out)


def fully_connected_fpn(low: int, high: int) -> FeatureGraph:
    """Every output level fuses every input level."""
    g = GraphBuilder(low, high)
    every = [g.input(level) for level in range(low, high + 1)]
    return g.graph("fully-connected-fpn", {level: g.node(level, *every) for level in range(low, high + 1)})


def nas_fpn(low: int, high: int) -> FeatureGraph:
    """The graph that NAS-FPN's search found (figure 7): seven nodes on five levels.

    Its two merging operations, sum and global attention, become the feature network's fusion, as for every
    graph here. Inputs that no node reads join the output of their level, as in the published implementation.
    """
    if high - low != 4:
        raise ConfigError(f"nas-fpn was searched on five levels, got {low}..{high}: choose e.g. 3..7 or another graph")
    g = GraphBuilder(low, high)
    # Called as in the figure, also where they are other levels.
    p3, p4, p5, p6, p7 = range(low, high + 1)
    first = g.node(p4, g.input(p4), g.input(p6))
    second = g.node(p4, g.input(p4), first)
    out3 = g.node(p3, g.input(p3), second)
    out4 = g.node(p4, second, out3)
    out5 = g.node(p5, out3, out4, g.input(p5))
    out7 = g.node(p7, second, out5, g.input(p7))
    out6 = g.node(p6, out5, out7)
    return g.graph("nas-fpn", {p3: out3, p4: out4, p5: out5, p6: out6, p7: out7})


GRAPHS: dict[str, Callable[[int, int], FeatureGraph]] = {
    "fpn": fpn,
    "panet": panet,
    "simplified-panet": simplified_panet,
    "nas-fpn": nas_fpn,
    "fully-connected-fpn": fully_connected_fpn,
    "bifpn": bifpn,
}
"""Every feature network that a config may name, from ``(min_level, max_level)`` to its graph."""


def build_graph(name: str, min_level: int, max_level: int) -> FeatureGraph:
    """The graph named ``name`` on levels ``min_level..max_level``.

    Raises:
        UnknownNameError: no graph has that name.
        ConfigError: the graph does not support these levels.
    """
    if name not in GRAPHS:
        raise UnknownNameError("feature network", name, GRAPHS)
    return GRAPHS[name](min_level, max_level)
