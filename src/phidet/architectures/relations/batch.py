"""Several graphs as one, whose parts are not joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from phidet.architectures.relations.features import GraphInputs
from phidet.architectures.relations.targets import GraphTargets


class RelationsBatch(NamedTuple):
    """G graphs with N nodes and E edges in all.

    Attributes:
        right: (G,) float32, 1, 0, or −1 for unknown.
        nodes, edges, edge_features: as :class:`GraphInputs`, (N, F), (2, E), (E, 10).
        graph: (N,) int64, the graph of each node.
        class_ids, ious, box_deltas, together: as :class:`GraphTargets`, (N,), (N,), (N, 4), (E,).
    """

    right: Tensor
    nodes: Tensor
    edges: Tensor
    edge_features: Tensor
    graph: Tensor
    class_ids: Tensor
    ious: Tensor
    box_deltas: Tensor
    together: Tensor

    def to(self, device: torch.device) -> RelationsBatch:
        """The same on ``device``."""
        return RelationsBatch(*(tensor.to(device, non_blocking=True) for tensor in self))

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """The network's arguments."""
        return self.nodes, self.edges, self.edge_features, self.graph, len(self.right)


def collate(examples: Sequence[tuple[GraphInputs, GraphTargets]]) -> RelationsBatch:
    """Graphs with their truth as a batch."""
    inputs, targets = zip(*examples, strict=True)
    sizes = [len(one.nodes) for one in inputs]
    # Nodes are numbered through all graphs, so that no edge leads from one graph to another.
    starts = np.cumsum([0, *sizes[:-1]])
    edges = np.concatenate([one.edges + start for one, start in zip(inputs, starts, strict=True)], axis=1)
    columns = ("class_ids", "ious", "box_deltas", "together")
    return RelationsBatch(
        torch.tensor([one.right for one in targets], dtype=torch.float32),
        torch.from_numpy(np.concatenate([one.nodes for one in inputs])),
        torch.from_numpy(edges),
        torch.from_numpy(np.concatenate([one.edge_features for one in inputs])),
        torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
        *(torch.from_numpy(np.concatenate([getattr(one, name) for one in targets])) for name in columns),
    )
