"""Runs any feature graph with any fusion, repeated (arXiv 1911.09070, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phidet.architectures.config import Activation
from phidet.architectures.feature_networks.config import FeatureNetworkConfig, Fusion
from phidet.architectures.feature_networks.graphs import FeatureGraph, Node
from phidet.architectures.feature_networks.lower import FUSION_EPSILON
from phidet.architectures.layers import SeparableConv, activation, batch_norm, init_convolutions, same_max_pool


def fusion_weights(fusion: Fusion, raw: Tensor) -> Tensor:
    """The factors of a weighted sum, (n,) → (n,), in fp32 at least (section 3.3).

    unbounded: w. softmax: eʷ / Σ eʷ. fast: relu(w) / (ε + Σ relu(w)), ε = 1e-4.
    """
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
    if fusion == "softmax":
        return raw.softmax(0)
    if fusion == "fast":
        raw = raw.relu()
        return raw / (raw.sum() + FUSION_EPSILON)
    return raw


class Projection(nn.Module):
    """1×1 convolution with bias and batch norm: maps features to the feature network's width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) → (B, out, H, W)."""
        out: Tensor = self.bn(self.conv(x))
        return out


class FusionNode(nn.Module):
    """One node of the graph: project, weigh, resample and add its inputs, then activation, separable conv, batch norm.

    ``in_channels`` and ``in_levels`` describe the maps it reads, in the order of ``node.inputs``.
    """

    def __init__(
        self, node: Node, in_levels: list[int], in_channels: list[int], config: FeatureNetworkConfig, act: Activation
    ) -> None:
        super().__init__()
        self.level, self.in_levels, self.fusion = node.level, in_levels, config.fusion
        self.projections = nn.ModuleDict(
            {
                str(i): Projection(channels, config.channels)
                for i, channels in enumerate(in_channels)
                if channels != config.channels
            }
        )
        # Ones: training begins with a plain sum, or mean.
        self.weights = nn.Parameter(torch.ones(len(in_levels))) if config.fusion != "sum" else None
        self.act = activation(act)
        self.conv = SeparableConv(config.channels, config.channels)
        self.bn = batch_norm(config.channels)

    def forward(self, inputs: list[Tensor], size_hw: tuple[int, int]) -> Tensor:
        """Maps (B, in_channels[i], H_i, W_i) → (B, C, H, W) at ``size_hw``, the size of the node's level."""
        factors = None
        if self.weights is not None:
            factors = fusion_weights(self.fusion, self.weights).to(inputs[0].dtype).unbind()
        fused: Tensor | None = None
        for i, (x, level) in enumerate(zip(inputs, self.in_levels, strict=True)):
            if str(i) in self.projections:
                x = self.projections[str(i)](x)
            if level < self.level:
                x = same_max_pool(x, 2 ** (self.level - level))
            if factors is not None:
                x = x * factors[i]  # before upsampling and after pooling: on the smaller of the two maps
            if level > self.level:
                x = F.interpolate(x, size_hw)  # nearest, by floor of the index
            fused = x if fused is None else fused + x
        if fused is inputs[0]:
            fused = fused.clone()  # a single input, passed through: the in-place activation must not change it
        out: Tensor = self.bn(self.conv(self.act(fused)))
        return out


class FeatureCell(nn.Module):
    """One run through the graph."""

    def __init__(
        self, graph: FeatureGraph, in_channels: list[int], config: FeatureNetworkConfig, act: Activation
    ) -> None:
        super().__init__()
        self.graph = graph
        channels = [*in_channels, *(config.channels for _ in graph.nodes)]
        self.nodes = nn.ModuleList(
            FusionNode(node, [graph.level_of(i) for i in node.inputs], [channels[i] for i in node.inputs], config, act)
            for node in graph.nodes
        )
        self.projections = nn.ModuleDict(  # of input maps that are outputs without a node
            {str(i): Projection(channels[i], config.channels) for i in graph.outputs if channels[i] != config.channels}
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map per level, finest first → the same levels, (B, C, H_l, W_l)."""
        # Of the maps that come in: a finer map that is enlarged must end at exactly their size.
        sizes = {level: (x.shape[2], x.shape[3]) for level, x in zip(self.graph.levels, maps, strict=True)}
        known = list(maps)
        for node, module in zip(self.graph.nodes, self.nodes, strict=True):
            known.append(module([known[i] for i in node.inputs], sizes[node.level]))
        return [
            self.projections[str(i)](known[i]) if str(i) in self.projections else known[i] for i in self.graph.outputs
        ]


class FeatureNetwork(nn.Module):
    """The coarser levels that the backbone lacks, then the graph, repeated.

    Level 6 is a projection and pooling of the backbone's coarsest map; level 7 and up pool the one before.
    """

    def __init__(self, backbone_channels: dict[int, int], config: FeatureNetworkConfig, act: Activation) -> None:
        super().__init__()
        self.levels = config.levels
        top = max(backbone_channels)
        self.backbone_levels = [level for level in config.levels if level <= top]
        self.num_coarser = len(config.levels) - len(self.backbone_levels)
        in_channels = [backbone_channels[level] for level in self.backbone_levels]
        # Coarser levels are pooled from the backbone's last map, which is made as wide as the others first.
        project = self.num_coarser > 0 and in_channels[-1] != config.channels
        self.coarser = Projection(in_channels[-1], config.channels) if project else None
        in_channels += [config.channels] * self.num_coarser
        same = [config.channels] * len(config.levels)
        graph = config.resolved_graph
        self.cells = nn.ModuleList(
            FeatureCell(graph, in_channels if r == 0 else same, config, act) for r in range(config.repeats)
        )
        # Keras' default, which the official code leaves as it is.
        init_convolutions(self, lambda conv: nn.init.xavier_uniform_(conv.weight))

    def forward(self, backbone_maps: dict[int, Tensor]) -> list[Tensor]:
        """Maps by level, (B, C_l, H_l, W_l) → one map per level of the network, finest first, (B, C, H_l, W_l)."""
        maps = [backbone_maps[level] for level in self.backbone_levels]
        x = maps[-1]
        for i in range(self.num_coarser):
            if i == 0 and self.coarser is not None:
                x = self.coarser(x)
            x = same_max_pool(x, 2)
            maps.append(x)
        for cell in self.cells:
            maps = cell(maps)
        return maps
