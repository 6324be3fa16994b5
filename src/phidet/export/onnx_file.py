"""A network as an ONNX model, with its header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, helper

from phidet.architectures.header import THRESHOLDS, Header, to_export_metadata
from phidet.architectures.prepared import INPUT_NAMES
from phidet.architectures.registry import architecture_of
from phidet.architectures.weights import Weights
from phidet.core.extras import __version__
from phidet.core.files import write_atomic
from phidet.core.structs import replace, to_json
from phidet.detections.thresholds import Thresholds
from phidet.export.onnx_graph import BATCH, IR_VERSION, OPSET, Graph, floats, write_program

if TYPE_CHECKING:
    from phidet.architectures.model import Model
    from phidet.architectures.program import Program


def build_onnx(model: Model, half: bool = False, channels_last: bool = False) -> onnx.ModelProto:
    """The model as ONNX.

    The input is "images", (batch, 3, H, W). The outputs are the architecture's by name, for instance "class_logits" and
    "box_deltas", and what the architecture adds in the graph.

    Args:
        model: in any mode; it is exported for evaluation, at its config's input size.
        half: keep weights as fp16, half the bytes; arithmetic stays in fp32.
        channels_last: for OpenVINO; see :mod:`phidet.export.onnx_graph`.
    """
    config, architecture = model.config, architecture_of(model.config)
    header = Header(config, "fp16" if half else "fp32", model.thresholds)
    program = architecture.lower(model)
    if program is None:
        from phidet.architectures.module_arrays import ModuleArrays  # noqa: PLC0415 - PyTorch, which arrays do without

        program = architecture.lower_arrays(config, Weights(ModuleArrays(model)))
    # An architecture without a program of its own is traced by PyTorch instead.
    if program is None:
        from phidet.export.onnx_trace import trace_onnx  # noqa: PLC0415 - PyTorch, which programs do without

        return with_header(trace_onnx(model, half), header)
    return program_onnx(program, header, channels_last)


def program_onnx(program: Program, header: Header, channels_last: bool = False) -> onnx.ModelProto:
    """A network's program as ONNX, with weights in the precision of ``header``; result as of :func:`build_onnx`."""
    config = header.config
    architecture, half = architecture_of(config), header.precision == "fp16"
    graph = Graph(half, channels_last, architecture.has_varying_size(config))
    write_program(graph, program, config.image_size_hw)
    if architecture.takes_valid_hw:
        graph.inputs.append(helper.make_tensor_value_info(INPUT_NAMES[1], TensorProto.INT64, [BATCH, 2]))
    added = architecture.extend_graph(graph, config)
    shapes = {**added, **_output_shapes(config)}
    return finish(graph, header, [floats(name, [BATCH, *shape]) for name, shape in shapes.items()])


def _output_shapes(config: Any) -> dict[str, Sequence[int | str]]:
    """The network's, where sides that follow those of images of varying size are names."""
    architecture = architecture_of(config)
    shapes = architecture.output_shapes(config)
    if not architecture.has_varying_size(config):
        return dict(shapes)
    height, width = config.image_size_hw
    others = architecture.output_shapes(replace(config, {"image_size_hw": (2 * height, 2 * width)}))
    return {
        name: [
            side if side == other else f"{name}_{axis}"
            for axis, (side, other) in enumerate(zip(shape, others[name], strict=True), start=1)
        ]
        for name, shape in shapes.items()
    }


def finish(graph: Graph, header: Header, outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """The graph as a checked model with phidet's header."""
    constants = list(graph.constants.values())
    model = helper.make_model(
        helper.make_graph(graph.nodes, header.config.name, graph.inputs, outputs, constants, value_info=graph.shapes),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="phidet",
    )
    onnx.checker.check_model(model)
    return with_header(model, header)


def store_thresholds(path: Path, thresholds: Thresholds) -> None:
    """Puts thresholds into the metadata of an ``.onnx`` file of phidet's, atomically.

    Raises:
        PhidetError: it cannot be written.
    """
    model = onnx.load(path)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    helper.set_model_props(model, kept | {THRESHOLDS: to_json(thresholds)})
    write_atomic(path, model.SerializeToString())


def with_header(model: onnx.ModelProto, header: Header) -> onnx.ModelProto:
    """``model`` with this header and no other metadata."""
    # PyTorch's tracer and the quantiser leave entries of their own.
    del model.metadata_props[:]
    helper.set_model_props(model, to_export_metadata(header, __version__))
    return model
