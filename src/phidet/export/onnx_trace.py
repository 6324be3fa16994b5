"""A network that has no program of its own as an ONNX model, through PyTorch's exporter."""

from __future__ import annotations

from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from phidet.architectures.base import NetworkConfig
from phidet.architectures.model import Model
from phidet.architectures.prepared import INPUT_NAMES
from phidet.architectures.registry import architecture_of
from phidet.export.onnx_graph import BATCH, OPSET, SMALL
from phidet.export.quiet import exporting


def trace_onnx(model: Model, half: bool = False) -> onnx.ModelProto:
    """The graph of ``model`` for any batch; inputs are named by phidet, outputs by its architecture.

    Images have the size of the model's config, or any size where that varies.

    Args:
        model: in any mode; it is exported for evaluation.
        half: keep weights as fp16; they are cast to fp32 where they are used.

    Raises:
        MissingExtraError: PyTorch's exporter lacks onnxscript.
        ExportError: it cannot translate the network.
    """
    config = model.config
    named = _Named(model).eval()
    examples = _examples(config)
    names = list(architecture_of(config).output_shapes(config))
    with exporting(config.name):
        try:
            graph = _export(named, examples, names)
        except Exception:  # PyTorch 2.6 and 2.7 do not go with every onnxscript
            graph = _export_by_trace(named, examples, names)
    if half:
        _halve(graph)
    onnx.checker.check_model(graph)
    return graph


class _Example(NamedTuple):
    """An input: its name, a value, and the axes whose size is open, by name."""

    name: str
    value: Tensor
    axes: dict[int, str]


def _examples(config: NetworkConfig) -> list[_Example]:
    """The inputs of a network of ``config``."""
    architecture = architecture_of(config)
    height, width = config.image_size_hw
    # Two: PyTorch takes a size of one for a constant.
    images = torch.zeros(2, 3, height, width)
    axes = {0: BATCH, 2: "height", 3: "width"} if architecture.has_varying_size(config) else {0: BATCH}
    examples = [_Example(INPUT_NAMES[0], images, axes)]
    if architecture.takes_valid_hw:
        # Two different sizes: what both images have in common could be taken for a constant.
        examples.append(_Example(INPUT_NAMES[1], torch.tensor([[height, width], [height // 2, width]]), {0: BATCH}))
    return examples


def _export(network: nn.Module, examples: list[_Example], names: list[str]) -> onnx.ModelProto:
    """By ``torch.export``."""
    sizes: dict[str, Any] = {}
    for example in examples:
        # Below the stride of the last map, 32 pixels, nothing would be left of an image.
        sizes |= {name: torch.export.Dim(name, min=1 if name == BATCH else 32) for name in example.axes.values()}
    program: Any = torch.onnx.export(
        network,
        tuple(example.value for example in examples),
        input_names=[example.name for example in examples],
        output_names=names,
        opset_version=max(OPSET, 18),  # its own lowest
        dynamic_shapes=tuple({axis: sizes[name] for axis, name in example.axes.items()} for example in examples),
        dynamo=True,
    )
    graph: onnx.ModelProto = program.model_proto
    return graph


def _export_by_trace(network: nn.Module, examples: list[_Example], names: list[str]) -> onnx.ModelProto:
    """By TorchScript, PyTorch's older way."""
    file: Any = BytesIO()  # the annotation names paths only, the documentation also files
    torch.onnx.export(
        network,
        tuple(example.value for example in examples),
        file,
        input_names=[example.name for example in examples],
        output_names=names,
        opset_version=OPSET,
        dynamic_axes={**{name: {0: BATCH} for name in names}, **{one.name: one.axes for one in examples}},
        dynamo=False,
    )
    return onnx.load_from_string(file.getvalue())


class _Named(nn.Module):
    """Returns the outputs in the order of their names."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.architecture = architecture_of(model.config)

    def forward(self, images: Tensor, valid_hw: Tensor | None = None) -> tuple[Tensor, ...]:
        inputs = (images,) if valid_hw is None else (images, valid_hw)
        outputs = self.architecture.named_outputs(self.model(*inputs))
        return tuple(outputs[name] for name in self.architecture.output_shapes(self.model.config))


def _halve(graph: onnx.ModelProto) -> None:
    """Weights as fp16, each with a cast in front of its readers."""
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        name = tensor.name
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}_fp16")
        tensor.CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    # ONNX requires nodes in topological order: casts come before everything that reads them.
    for node in reversed(casts):
        graph.graph.node.insert(0, node)
