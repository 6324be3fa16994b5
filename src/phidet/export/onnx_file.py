"""A detector as an ONNX model, with its header."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

import phidet
from phidet.config import ModelConfig
from phidet.export.onnx_graph import BATCH, IR_VERSION, OPSET, Graph, write_program
from phidet.nn.detector import EfficientDet
from phidet.nn.program import compile_program
from phidet.runtime.header import Header, Precision, to_metadata


def build_onnx(model: EfficientDet, half: bool = False) -> onnx.ModelProto:
    """The model as ONNX.

    In comes "images", (batch, 3, H, W). Out go "class_logits", (batch, cells, anchors of a cell · classes), and
    "box_deltas", (batch, cells, anchors of a cell · 4); with more than one class also "best_logits", (batch, anchors),
    the largest class logit of each anchor.

    Args:
        model: in whatever mode; it is exported for evaluation, at its config's input size.
        half: keep weights as fp16, half the bytes; arithmetic stays in fp32.
    """
    config = model.config
    graph = Graph(half)
    write_program(graph, compile_program(model), config.image_size_hw)
    anchors, per_cell = config.num_anchors, config.anchors.per_cell
    cells = anchors // per_cell
    shapes: dict[str, list[int]] = {
        "class_logits": [cells, per_cell * config.num_classes],
        "box_deltas": [cells, per_cell * 4],
    }
    if config.num_classes > 1:
        logits = graph.add("Reshape", ["class_logits", graph.constant([0, anchors, config.num_classes], np.int64)])
        graph.add("ReduceMax", [logits], "best_logits", axes=[2], keepdims=0)
        shapes = {"best_logits": [anchors], **shapes}
    return finish(graph, config, shapes, "fp16" if half else "fp32")


def finish(graph: Graph, config: ModelConfig, outputs: dict[str, list[int]], precision: Precision) -> onnx.ModelProto:
    """The graph as a checked model with phidet's header; ``outputs`` are fp32, by name, with shapes without batch."""
    floats = TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            config.name,
            [helper.make_tensor_value_info("images", floats, [BATCH, 3, *config.image_size_hw])],
            [helper.make_tensor_value_info(name, floats, [BATCH, *shape]) for name, shape in outputs.items()],
            list(graph.constants.values()),
            value_info=graph.shapes,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="phidet",
    )
    helper.set_model_props(model, to_metadata(Header(config, precision), phidet.__version__))
    onnx.checker.check_model(model)
    return model
