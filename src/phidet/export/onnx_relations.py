"""Networks on detections as ONNX models, for any number of nodes and edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from phidet.architectures.header import Header
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ExportError
from phidet.export.check import Agreement
from phidet.export.onnx_file import with_header
from phidet.export.quiet import exporting
from phidet.inference.runtimes.onnx_runtime import run_once

OPSET = 18
"""The first one whose ScatterElements takes a maximum, as a softmax over a node's edges does."""
_CHECKED = (0, 1, 2, 7, 40)  # nodes: none, one without edges, a pair, and more
_SCALE = 1.0  # logits and deltas are of this order; differences are relative to it or to larger values


def relations_onnx(model: Model) -> onnx.ModelProto:
    """The graph of ``model``: inputs and outputs as the architecture names them, any number of nodes and edges.

    Raises:
        MissingExtraError: PyTorch's exporter lacks onnxscript.
        ExportError: it cannot translate the network.
    """
    config, architecture = model.config, architecture_of(model.config)
    relating = architecture.relating(config)
    # Any graph that has edges will do, as both sizes are open.
    inputs = {n: torch.from_numpy(v) for n, v in relating.inputs(relating.random_graph(7, seed=0)).items()}
    nodes, edges = torch.export.Dim("nodes"), torch.export.Dim("edges")
    names = list(architecture.output_shapes(config))
    with exporting(config.name):
        program: Any = torch.onnx.export(
            _Named(model, names).eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=names,
            opset_version=OPSET,
            dynamic_shapes={"nodes": {0: nodes}, "edges": {1: edges}, "edge_features": {0: edges}},
            dynamo=True,
        )
    graph: onnx.ModelProto = program.model_proto
    onnx.checker.check_model(graph)
    return with_header(graph, Header(config))


@torch.inference_mode()
def compare_relations(model: Model, path: Path) -> Agreement:
    """How close the file is to ``model`` on graphs of random detections: the largest difference of any output."""
    relating = architecture_of(model.config).relating(model.config)
    worst = 0.0
    for count in _CHECKED:
        inputs = dict(relating.inputs(relating.random_graph(count, seed=count)))
        ours = model(*(torch.from_numpy(values) for values in inputs.values()))
        theirs = run_once(path, inputs)
        for name, values in ours.items():
            expected = values.numpy()
            if expected.shape != theirs[name].shape:
                raise ExportError(f"{path.name} gives {name} of shape {theirs[name].shape}, expected {expected.shape}")
            apart = np.abs(expected - theirs[name]) / np.maximum(np.abs(expected), _SCALE)
            worst = max(worst, float(apart.max(initial=0.0)))
    return Agreement(len(_CHECKED), worst, 1.0)


class _Named(nn.Module):
    """The network with a tuple of outputs in a fixed order."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, nodes: Tensor, edges: Tensor, edge_features: Tensor) -> tuple[Tensor, ...]:
        """The outputs by the order of their names."""
        outputs = self.model(nodes, edges, edge_features)
        return tuple(outputs[name] for name in self.names)
