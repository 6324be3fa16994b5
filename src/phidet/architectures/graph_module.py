"""Computations of an architecture's own, which run in PyTorch and write themselves into exported graphs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from phidet.architectures.program import GraphWriter, Value


class GraphModule(nn.Module):
    """A computation in PyTorch and as ONNX nodes; the nodes stay in floats where a graph is quantised."""

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        """Adds nodes that compute what :meth:`forward` returns for these maps."""
        raise NotImplementedError
