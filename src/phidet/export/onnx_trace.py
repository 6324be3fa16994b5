"""A network that has no program of its own as an ONNX model, through PyTorch's exporter."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ExportError, MissingExtraError
from phidet.export.onnx_graph import BATCH, OPSET
from phidet.export.quiet import quiet

_SMALL = 64  # values: biases and constants of shapes gain nothing from fewer bits


def trace_onnx(model: Model, half: bool = False) -> onnx.ModelProto:
    """The graph of ``model`` for any batch at its config's input size; outputs are named by its architecture.

    Args:
        model: in any mode; it is exported for evaluation.
        half: keep weights as fp16; they are cast to fp32 where they are used.

    Raises:
        MissingExtraError: PyTorch's exporter lacks onnxscript.
        ExportError: it cannot translate the network.
    """
    if find_spec("onnxscript") is None:
        raise MissingExtraError("export of networks without a program", "train")
    config = model.config
    named = _Named(model).eval()
    images = torch.zeros(2, 3, *config.image_size_hw)  # two: PyTorch takes a size of one for a constant
    names = list(architecture_of(config).output_shapes(config))
    # The exporter reports its progress on standard output, which belongs to the command's own results.
    with quiet():
        try:
            graph = _export(named, images, names)
        except Exception:  # PyTorch 2.6 and 2.7 do not go with every onnxscript
            try:
                graph = _export_by_trace(named, images, names)
            except Exception as error:  # whatever PyTorch raises
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise ExportError(f"PyTorch cannot export {config.name} to ONNX: {lines[0]}") from error
    if half:
        _halve(graph)
    onnx.checker.check_model(graph)
    return graph


def _export(network: nn.Module, images: Tensor, names: list[str]) -> onnx.ModelProto:
    """By ``torch.export``."""
    program: Any = torch.onnx.export(
        network,
        (images,),
        input_names=["images"],
        output_names=names,
        opset_version=max(OPSET, 18),  # its own lowest
        dynamic_shapes={"images": {0: torch.export.Dim(BATCH)}},
        dynamo=True,
    )
    graph: onnx.ModelProto = program.model_proto
    return graph


def _export_by_trace(network: nn.Module, images: Tensor, names: list[str]) -> onnx.ModelProto:
    """By TorchScript, PyTorch's older way."""
    file: Any = BytesIO()  # the annotation names paths only, the documentation also files
    torch.onnx.export(
        network,
        (images,),
        file,
        input_names=["images"],
        output_names=names,
        opset_version=OPSET,
        dynamic_axes={name: {0: BATCH} for name in ("images", *names)},
        dynamo=False,
    )
    return onnx.load_from_string(file.getvalue())


class _Named(nn.Module):
    """Returns the outputs in the order of their names."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.architecture = architecture_of(model.config)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.architecture.named_outputs(self.model(images))
        return tuple(outputs[name] for name in self.architecture.output_shapes(self.model.config))


def _halve(graph: onnx.ModelProto) -> None:
    """Weights as fp16, each with a cast in front of its readers."""
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            continue
        name = tensor.name
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}_fp16")
        tensor.CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    # ONNX requires nodes in topological order: casts come before everything that reads them.
    for node in reversed(casts):
        graph.graph.node.insert(0, node)
