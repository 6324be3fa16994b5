"""PyTorch Geometric's layers under one signature.

Self-loops are added here rather than by the layers: a fixed number of operations that exporters can follow, where the
layers would look for loops in the data. The graphs of detections have none, so the results are the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from phidet.architectures.relations.config import Layer, RelationsConfig
from phidet.core.errors import MissingExtraError

try:
    with warnings.catch_warnings():
        # It marks functions for torch.jit.script, which newer versions of PyTorch call deprecated.
        warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
        from torch_geometric.nn import ChebConv, GatedGraphConv, GATv2Conv, GCNConv, SAGEConv
        from torch_geometric.utils import scatter
except ModuleNotFoundError as error:
    raise MissingExtraError("graph networks", "relations") from error

__all__ = ["add_loops", "build_layers", "scatter"]


class LoopFreeCheb(ChebConv):  # type: ignore[misc]
    """Chebyshev polynomials of ``L̂ = 2 L / λ − I`` with λ = 2 (arXiv 1606.09375, section 2.1), on graphs without loops.

    There ``L = I − D^-½ A D^-½``, so ``L̂ = −D^-½ A D^-½`` has no diagonal: its entries are those of the edges.
    """

    def __norm__(self, edge_index: Tensor, num_nodes: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        source, target = edge_index[0], edge_index[1]
        dtype = cast("Tensor", self.lins[0].weight).dtype
        degrees = scatter(torch.ones_like(source, dtype=dtype), source, 0, num_nodes, "sum")
        # A node without edges has degree 0 and no entry that would need its root.
        factors = degrees.clamp(min=1).rsqrt()
        return edge_index, -factors[source] * factors[target]


_CONVOLUTIONS: dict[Layer, Callable[[RelationsConfig, int], nn.Module]] = {
    # Steps of a gated recurrent unit fed by the neighbours' sum (gated graph networks, arXiv 1511.05493).
    "gated": lambda config, _: GatedGraphConv(config.width, config.depth),
    # W1 x + W2 mean of the neighbours (GraphSAGE, arXiv 1706.02216).
    "sage": lambda config, _: SAGEConv(config.width, config.width),
    # Multi-head attention along edges and to the node itself, with the edges' features (GATv2, arXiv 2105.14491).
    "attention": lambda config, edge_width: GATv2Conv(
        config.width, config.width // config.heads, config.heads, add_self_loops=False, edge_dim=edge_width
    ),
    "chebyshev": lambda config, _: LoopFreeCheb(config.width, config.width, config.order),
    # D̂^-½ (A + I) D̂^-½ X W (GCN, arXiv 1609.02907, equation 2).
    "gcn": lambda config, _: GCNConv(config.width, config.width, add_self_loops=False),
}


class GraphLayer(nn.Module):
    """The config's kind of layer, with self-loops where its paper has a node among its own neighbours."""

    def __init__(self, config: RelationsConfig, edge_width: int) -> None:
        super().__init__()
        self.kind = config.layer
        self.conv = _CONVOLUTIONS[config.layer](config, edge_width)

    def forward(self, x: Tensor, edges: Tensor, edge_features: Tensor) -> Tensor:
        """(N, width), (2, E), (E, edge_width) → (N, width)."""
        seen: list[Tensor] = []
        if self.kind == "attention":
            # It alone looks at the edges' features; those of a loop are zero.
            seen.append(torch.cat((edge_features, edge_features.new_zeros(x.shape[0], edge_features.shape[1]))))
        if self.kind in ("attention", "gcn"):
            edges = add_loops(edges, x)
        out: Tensor = self.conv(x, edges, *seen)
        return out


def build_layers(config: RelationsConfig, edge_width: int) -> nn.ModuleList:
    """The config's layers; of the recurrent one a single layer, whose steps share their weights."""
    count = 1 if config.layer == "gated" else config.depth
    return nn.ModuleList([GraphLayer(config, edge_width) for _ in range(count)])


def add_loops(edges: Tensor, x: Tensor) -> Tensor:
    """(2, E) edges and one of each node to itself, (2, E + N): A + I."""
    numbers = torch.arange(x.shape[0], device=edges.device)
    return torch.cat((edges, torch.stack((numbers, numbers))), dim=1)
