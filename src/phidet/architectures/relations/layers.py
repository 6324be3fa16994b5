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


class Attention(nn.Module):
    """Multi-head attention along edges and to the node itself, with the edges' features (GATv2, arXiv 2105.14491)."""

    def __init__(self, config: RelationsConfig, edge_width: int) -> None:
        super().__init__()
        heads, width = config.heads, config.width
        self.conv = GATv2Conv(width, width // heads, heads, add_self_loops=False, edge_dim=edge_width)

    def forward(self, x: Tensor, edges: Tensor, edge_features: Tensor) -> Tensor:
        """(N, width), (2, E), (E, edge_width) → (N, width)."""
        loops = edge_features.new_zeros(x.shape[0], edge_features.shape[1])
        out: Tensor = self.conv(x, add_loops(edges, x), torch.cat((edge_features, loops)))
        return out


class Gcn(nn.Module):
    """``D̂^-½ (A + I) D̂^-½ X W`` (GCN, arXiv 1609.02907, equation 2)."""

    def __init__(self, config: RelationsConfig, edge_width: int) -> None:
        super().__init__()
        self.conv = GCNConv(config.width, config.width, add_self_loops=False)

    def forward(self, x: Tensor, edges: Tensor, edge_features: Tensor) -> Tensor:
        """(N, width), (2, E), (E, edge_width) → (N, width)."""
        out: Tensor = self.conv(x, add_loops(edges, x))
        return out


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


class Chebyshev(nn.Module):
    """A polynomial of the graph's Laplacian."""

    def __init__(self, config: RelationsConfig, edge_width: int) -> None:
        super().__init__()
        self.conv = LoopFreeCheb(config.width, config.width, config.order)

    def forward(self, x: Tensor, edges: Tensor, edge_features: Tensor) -> Tensor:
        """(N, width), (2, E), (E, edge_width) → (N, width)."""
        out: Tensor = self.conv(x, edges)
        return out


class Sage(nn.Module):
    """``W1 x + W2 mean of the neighbours`` (GraphSAGE, arXiv 1706.02216)."""

    def __init__(self, config: RelationsConfig, edge_width: int) -> None:
        super().__init__()
        self.conv = SAGEConv(config.width, config.width)

    def forward(self, x: Tensor, edges: Tensor, edge_features: Tensor) -> Tensor:
        """(N, width), (2, E), (E, edge_width) → (N, width)."""
        out: Tensor = self.conv(x, edges)
        return out


class Gated(nn.Module):
    """``depth`` steps of a gated recurrent unit fed by the neighbours' sum (gated graph networks, arXiv 1511.05493)."""

    def __init__(self, config: RelationsConfig, edge_width: int) -> None:
        super().__init__()
        self.conv = GatedGraphConv(config.width, config.depth)

    def forward(self, x: Tensor, edges: Tensor, edge_features: Tensor) -> Tensor:
        """(N, width), (2, E), (E, edge_width) → (N, width)."""
        out: Tensor = self.conv(x, edges)
        return out


_LAYERS: dict[Layer, Callable[[RelationsConfig, int], nn.Module]] = {
    "gated": Gated,
    "sage": Sage,
    "attention": Attention,
    "chebyshev": Chebyshev,
    "gcn": Gcn,
}


def build_layers(config: RelationsConfig, edge_width: int) -> nn.ModuleList:
    """The config's layers; of the recurrent one a single layer, whose steps share their weights."""
    count = 1 if config.layer == "gated" else config.depth
    return nn.ModuleList([_LAYERS[config.layer](config, edge_width) for _ in range(count)])


def add_loops(edges: Tensor, x: Tensor) -> Tensor:
    """(2, E) edges and one of each node to itself, (2, E + N): A + I."""
    numbers = torch.arange(x.shape[0], device=edges.device)
    return torch.cat((edges, torch.stack((numbers, numbers))), dim=1)
