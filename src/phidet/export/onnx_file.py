"""A detector as an ONNX model, with its header."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.lower import compile_program
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.core.extras import __version__
from phidet.export.onnx_graph import BATCH, IR_VERSION, OPSET, Graph, write_program
from phidet.inference.runtimes.header import Header, Precision, to_metadata


def build_onnx(model: EfficientDet, half: bool = False, channels_last: bool = False) -> onnx.ModelProto:
    """The model as ONNX.

    In comes "images", (batch, 3, H, W). Out go "class_logits", (batch, cells, anchors of a cell · classes), and
    "box_deltas", (batch, cells, anchors of a cell · 4); with more than one class also "best_logits", (batch, anchors),
    the largest class logit of each anchor.

    Args:
        model: in whatever mode; it is exported for evaluation, at its config's input size.
        half: keep weights as fp16, half the bytes; arithmetic stays in fp32.
        channels_last: for OpenVINO; see :mod:`phidet.export.onnx_graph`.
    """
    config = model.config
    graph = Graph(half, channels_last)
    write_program(graph, compile_program(model), config.image_size_hw)
    anchors, per_cell = config.num_anchors, config.anchors.per_cell
    cells = anchors // per_cell
    shapes: dict[str, Sequence[int | str]] = {
        "class_logits": [BATCH, cells, per_cell * config.num_classes],
        "box_deltas": [BATCH, cells, per_cell * 4],
    }
    if config.num_classes > 1:
        add_best_logits(graph, config)
        shapes = {"best_logits": [BATCH, anchors], **shapes}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    return finish(graph, config, outputs, "fp16" if half else "fp32")


def add_best_logits(graph: Graph, config: ModelConfig) -> str:
    """Adds "best_logits" and returns the name of the logits as (batch, anchors, classes)."""
    shape = graph.constant([0, config.num_anchors, config.num_classes], np.int64)
    logits = graph.add("Reshape", ["class_logits", shape])
    graph.add("ReduceMax", [logits], "best_logits", axes=[2], keepdims=0)
    return logits


def finish(
    graph: Graph, config: ModelConfig, outputs: list[onnx.ValueInfoProto], precision: Precision
) -> onnx.ModelProto:
    """The graph as a checked model with phidet's header."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [BATCH, 3, *config.image_size_hw])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            config.name,
            [images, *graph.inputs],
            outputs,
            list(graph.constants.values()),
            value_info=graph.shapes,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="phidet",
    )
    onnx.checker.check_model(model)
    return with_header(model, Header(config, precision))


def with_header(model: onnx.ModelProto, header: Header) -> onnx.ModelProto:
    """``model`` with this header and no other metadata."""
    del model.metadata_props[:]
    helper.set_model_props(model, to_metadata(header, __version__))
    return model
