"""An ONNX model that ends in boxes: decoding and suppression inside the graph, for runtimes without phidet.

Its thresholds are inputs, so they stay settings of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper

from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.decode import find_candidates
from phidet.architectures.efficientdet.lower import compile_program
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.header import Header
from phidet.architectures.model import Model
from phidet.core.errors import ConfigError
from phidet.detections.boxes import clip, decode, pairwise_iou, xyxy_to_cxcywh
from phidet.detections.nms import suppress
from phidet.detections.settings import PostprocessSettings
from phidet.export.check import Agreement
from phidet.export.onnx_file import finish
from phidet.export.onnx_graph import Graph, write_program
from phidet.images.prepare import prepare
from phidet.inference.runtimes.onnx_runtime import run_once

SLACK = 0.02
"""Rounding may bring a score below the threshold that the reference score is above."""
CANDIDATES = PostprocessSettings().candidates
LARGEST_LOG_RATIO = 10.0  # as phidet.detections.boxes.decode


def build_onnx_with_nms(model: Model, half: bool = False) -> onnx.ModelProto:
    """The model as ONNX, down to boxes.

    The inputs are "images", (batch, 3, H, W), and the numbers "score_threshold", "iou_threshold" (fp32) and
    "max_detections_per_class" (int64). The outputs are, for all images of the batch together and best first,
    "boxes_xyxy" (N, 4) in pixels of the input, "scores" (N,), "class_ids" (N,) and "image_ids" (N,): which image of
    the batch. The best 5,000 anchors of an image are candidates; each may be an object of several classes.

    Raises:
        ConfigError: the architecture needs no suppression.
    """
    if not isinstance(model, EfficientDet):
        raise ConfigError(f"{model.config.name} has no boxes to suppress: leave out --nms, its answers need none")
    config = model.config
    g = Graph(half)
    write_program(g, compile_program(model), config.image_size_hw)
    shape = g.constant([0, config.num_anchors, config.num_classes], np.int64)
    logits = g.add("Reshape", ["class_logits", shape])
    g.add("ReduceMax", [logits], "best_logits", axes=[2], keepdims=0)
    # Only the best anchors are decoded: suppression over all of them would dominate the run time.
    anchors, top = _candidates(g, config)
    boxes = _decoded(g, config, anchors, top)  # (B, K, 4) xyxy
    scores = g.add("Sigmoid", [g.add("GatherND", [logits, top], batch_dims=1)])  # (B, K, C)
    by_class = g.add("Transpose", [scores], perm=[0, 2, 1])
    most = _setting(g, "max_detections_per_class", TensorProto.INT64)
    iou = _setting(g, "iou_threshold", TensorProto.FLOAT)
    least = _setting(g, "score_threshold", TensorProto.FLOAT)
    found = g.add("NonMaxSuppression", [boxes, by_class, most, iou, least])  # (N, 3): image, class, candidate
    header = Header(config, "fp16" if half else "fp32", model.thresholds)
    return finish(g, header, _outputs(g, boxes, by_class, found))


def _candidates(g: Graph, config: ModelConfig) -> tuple[str, str]:
    """The best anchors by best class: (batch, K), and as indices for GatherND, (batch, K, 1)."""
    count = min(CANDIDATES, config.num_anchors)
    _, anchors = g.add_many("TopK", ["best_logits", g.constant([count], np.int64)], 2, axis=1)
    return anchors, g.add("Unsqueeze", [anchors, g.constant([2], np.int64)])


def _decoded(g: Graph, config: ModelConfig, anchors: str, top: str) -> str:
    """As :func:`phidet.detections.boxes.decode`, then cut at the borders of the input."""
    height, width = config.image_size_hw
    levels = config.feature_network.levels
    known = xyxy_to_cxcywh(generate_anchors(config.image_size_hw, levels, config.anchors))
    known_yxhw = g.add("Gather", [g.constant(known[:, [1, 0, 3, 2]]), anchors], axis=0)  # (B, K, 4)
    deltas = g.add("Reshape", ["box_deltas", g.constant([0, -1, 4], np.int64)])
    deltas = g.add("GatherND", [deltas, top], batch_dims=1)  # (B, K, 4), (ty, tx, th, tw)
    centre_a, size_a = _halves(g, known_yxhw)
    shift, growth = _halves(g, deltas)
    # exp overflows float32 for wild deltas, and infinite boxes would poison the suppression.
    growth = g.add("Clip", [growth, g.constant(-LARGEST_LOG_RATIO), g.constant(LARGEST_LOG_RATIO)])
    centre = g.add("Add", [g.add("Mul", [shift, size_a]), centre_a])
    half = g.add("Mul", [g.add("Mul", [g.add("Exp", [growth]), size_a]), g.constant(0.5)])
    corners = g.add("Concat", [g.add("Sub", [centre, half]), g.add("Add", [centre, half])], axis=2)  # yxyx
    xyxy = g.add("Gather", [corners, g.constant([1, 0, 3, 2], np.int64)], axis=2)
    inside = g.add("Min", [xyxy, g.constant([width, height, width, height])])
    return g.add("Max", [inside, g.constant(0.0)])


def _halves(g: Graph, x: str) -> tuple[str, str]:
    first, second = g.add_many("Split", [x, g.constant([2, 2], np.int64)], 2, axis=2)
    return first, second


def _setting(g: Graph, name: str, kind: int) -> str:
    """A scalar input; NonMaxSuppression takes it as an array of one element."""
    g.inputs.append(helper.make_tensor_value_info(name, kind, []))
    return g.add("Reshape", [name, g.constant([1], np.int64)])


def _outputs(g: Graph, boxes: str, by_class: str, found: str) -> list[onnx.ValueInfoProto]:
    image_and_candidate = g.add("Gather", [found, g.constant([0, 2], np.int64)], axis=1)
    scores = g.add("GatherND", [by_class, found])  # (N,)
    every = g.add("Shape", [scores])
    # NonMaxSuppression orders by image and class; TopK over all of them sorts by score.
    _, order = g.add_many("TopK", [scores, every], 2, "scores", axis=0)
    boxes = g.add("GatherND", [boxes, image_and_candidate])
    g.add("Gather", [boxes, order], "boxes_xyxy", axis=0)
    for name, column in (("class_ids", 1), ("image_ids", 0)):
        of_all = g.add("Gather", [found, g.constant(column, np.int64)], axis=1)
        g.add("Gather", [of_all, order], name, axis=0)
    kinds = {"boxes_xyxy": [4], "scores": [], "class_ids": [], "image_ids": []}
    return [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if name.endswith("ids") else TensorProto.FLOAT, ["objects", *rest]
        )
        for name, rest in kinds.items()
    ]


def check_nms(model: Model, path: Path, images: Sequence[npt.NDArray[np.uint8]]) -> Agreement:
    """How close the boxes of the graph at ``path`` are to those of PyTorch and NumPy.

    Every reference box is compared with the most similar one of its class. Nothing is suppressed for that: rounding
    decides which of two nearly equal boxes suppresses the other.
    """
    config = model.config
    anchors = generate_anchors(config.image_size_hw, config.feature_network.levels, config.anchors)
    scores: list[float] = []
    ious: list[float] = []
    for image in images:
        prepared = prepare(image, config.image_size_hw, config.preprocess)[0][None]
        with torch.inference_mode():
            raw = model.eval()(torch.from_numpy(prepared))
        logits, deltas = raw.class_logits[0].float().numpy(), raw.box_deltas[0].float().numpy()
        # The 50th best score of the image as threshold: enough boxes to compare, few enough to be quick.
        least = float(1 / (1 + np.exp(-np.sort(logits.max(1))[-50])))  # so that there is something to compare
        settings = PostprocessSettings(multi_class=True, score=least, iou=1.0, max_detections=1000)
        best = find_candidates(logits.max(1), logits, settings)
        boxes = clip(decode(deltas[best.anchors], anchors[best.anchors]), config.image_size_hw)
        kept, wanted = suppress(boxes, best.scores, best.class_ids, settings)
        numbers = {
            "score_threshold": np.array(least - SLACK, np.float32),
            "iou_threshold": np.array(settings.iou, np.float32),
        }
        found = run_once(path, {"images": prepared, **numbers, "max_detections_per_class": np.array(1000)})
        overlaps = pairwise_iou(boxes[kept], found["boxes_xyxy"])
        # A box of another class is no match, however well it overlaps.
        overlaps[best.class_ids[kept][:, None] != found["class_ids"]] = 0
        match = overlaps.argmax(1)  # rounding may change the order
        ious += overlaps.max(1).tolist()
        scores += np.abs(found["scores"][match] - wanted).tolist()
    return Agreement(len(images), float(np.mean(scores)), float(np.mean(ious)))
