"""Feature networks as operations for other runtimes; see :mod:`phidet.architectures.program`."""

from __future__ import annotations

from torch import nn

from phidet.architectures.config import Activation
from phidet.architectures.feature_networks.network import (
    FeatureCell,
    FeatureNetwork,
    FusionNode,
    Projection,
    fusion_weights,
)
from phidet.architectures.program import MaxPool, ProgramWriter, Scale, Sum, Upsample


def lower_feature_network(w: ProgramWriter, network: FeatureNetwork, backbone_maps: dict[int, int]) -> list[int]:
    """Appends the operations of ``network``; returns the numbers of its maps, finest level first."""
    maps = [backbone_maps[level] for level in network.backbone_levels]
    x = maps[-1]
    for i in range(network.num_coarser):
        if i == 0 and network.coarser is not None:
            x = _project(w, x, network.coarser)
        x = w.add(MaxPool(x, 3, 2, None))
        maps.append(x)
    for cell in network.cells:
        assert isinstance(cell, FeatureCell)
        known = list(maps)
        for node, module in zip(cell.graph.nodes, cell.nodes, strict=True):
            assert isinstance(module, FusionNode)
            like = maps[cell.graph.levels.index(node.level)]
            known.append(_node(w, module, [known[i] for i in node.inputs], like))
        maps = [
            _project(w, known[i], cell.projections[str(i)]) if str(i) in cell.projections else known[i]
            for i in cell.graph.outputs
        ]
    return maps


def _node(w: ProgramWriter, node: FusionNode, inputs: list[int], like: int) -> int:
    factors = [1.0] * len(inputs)
    if node.weights is not None:
        factors = fusion_weights(node.fusion, node.weights).double().tolist()
    terms: list[int] = []
    for i, (x, level) in enumerate(zip(inputs, node.in_levels, strict=True)):
        if str(i) in node.projections:
            # The factor is folded into the convolution; max-pooling commutes with it unless it is negative.
            rides = factors[i] >= 0 or level >= node.level
            x = _project(w, x, node.projections[str(i)], factors[i] if rides else 1.0)
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
    fused = w.add(Sum(tuple(terms), tuple(factors), _activation(node.act)))
    fused = w.conv(fused, node.conv.depthwise, None)
    return w.conv(fused, node.conv.pointwise, node.bn)


def _activation(module: nn.Module) -> Activation:
    return "silu" if isinstance(module, nn.SiLU) else "relu6" if isinstance(module, nn.ReLU6) else "relu"


def _project(w: ProgramWriter, x: int, projection: nn.Module, factor: float = 1.0) -> int:
    assert isinstance(projection, Projection)
    return w.conv(x, projection.conv, projection.bn, factor=factor)
