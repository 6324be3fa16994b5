"""Feature networks as operations for other runtimes, from arrays; see :mod:`phidet.architectures.program`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phidet.architectures.config import Activation
from phidet.architectures.feature_networks.config import FeatureNetworkConfig, Fusion
from phidet.architectures.feature_networks.graphs import FeatureGraph, Node
from phidet.architectures.program import MaxPool, ProgramWriter, Scale, Sum, Upsample
from phidet.architectures.weights import Array, Weights

FUSION_EPSILON = 1e-4


def lower_feature_network(
    w: ProgramWriter,
    weights: Weights,
    config: FeatureNetworkConfig,
    act: Activation,
    backbone_maps: dict[int, int],
) -> list[int]:
    """Appends the operations of a feature network; returns the numbers of its maps, finest level first."""
    top = max(backbone_maps)
    maps = [backbone_maps[level] for level in config.levels if level <= top]
    x = maps[-1]
    for i in range(len(config.levels) - len(maps)):
        if i == 0 and "coarser.conv.weight" in weights:
            x = _project(w, x, weights.part("coarser"))
        x = w.add(MaxPool(x, 3, 2, None))
        maps.append(x)
    graph = config.resolved_graph
    for repeat in range(config.repeats):
        maps = _cell(w, weights.part("cells", repeat), graph, maps, (config.fusion, act))
    return maps


def _cell(
    w: ProgramWriter, weights: Weights, graph: FeatureGraph, maps: list[int], kind: tuple[Fusion, Activation]
) -> list[int]:
    known = list(maps)
    for number, node in enumerate(graph.nodes):
        levels = [graph.level_of(i) for i in node.inputs]
        # What a coarser map is enlarged to is the pyramid's own map of the node's level.
        sources = [known[i] for i in node.inputs], levels, maps[graph.levels.index(node.level)]
        known.append(_node(w, weights.part("nodes", number), node, sources, kind))
    # Outputs that no node makes are the pyramid's own maps, which may have another width.
    return [
        _project(w, known[i], weights.part("projections", i))
        if i < len(maps) and f"projections.{i}.conv.weight" in weights
        else known[i]
        for i in graph.outputs
    ]


def _node(
    w: ProgramWriter,
    weights: Weights,
    node: Node,
    sources: tuple[Sequence[int], Sequence[int], int],
    kind: tuple[Fusion, Activation],
) -> int:
    inputs, levels, like = sources
    fusion, act = kind
    factors = [1.0] * len(inputs)
    if fusion != "sum":
        factors = fusion_factors(fusion, weights["weights"])
    terms: list[int] = []
    for i, (x, level) in enumerate(zip(inputs, levels, strict=True)):
        if f"projections.{i}.conv.weight" in weights:
            # The factor is folded into the convolution; max-pooling commutes with it unless it is negative.
            rides = factors[i] >= 0 or level >= node.level
            x = _project(w, x, weights.part("projections", i), factors[i] if rides else 1.0)
            factors[i] = 1.0 if rides else factors[i]
        if level < node.level:
            stride = 2 ** (node.level - level)
            x = w.add(MaxPool(x, stride + 1, stride, None))
        if level > node.level:
            if factors[i] != 1.0:
                x = w.add(Scale(x, factors[i]))  # on the smaller of the two maps
                factors[i] = 1.0
            x = w.add(Upsample(x, like))
        terms.append(x)
    fused = w.add(Sum(tuple(terms), tuple(factors), act))
    return w.separable(fused, weights.part("conv"), weights.part("bn"))


def fusion_factors(fusion: Fusion, raw: Array) -> list[float]:
    """The factors of a weighted sum; see :func:`phidet.architectures.feature_networks.network.fusion_weights`."""
    raw = raw.astype(np.float32)  # as the network itself computes them
    if fusion == "softmax":
        powers = np.exp(raw - raw.max())
        return list(map(float, powers / powers.sum()))
    if fusion == "fast":
        raw = np.maximum(raw, 0)
        return list(map(float, raw / (raw.sum() + np.float32(FUSION_EPSILON))))
    return list(map(float, raw))


def _project(w: ProgramWriter, x: int, projection: Weights, factor: float = 1.0) -> int:
    return w.scaled(x, projection.part("conv"), projection.part("bn"), factor)
