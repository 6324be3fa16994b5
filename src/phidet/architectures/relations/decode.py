"""From the network's answers to corrected detections; NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from phidet.core.errors import CheckpointError
from phidet.detections.boxes import clip, decode
from phidet.detections.detections import Detections
from phidet.detections.fields import take_fields
from phidet.detections.graphs.edges import Edges
from phidet.detections.graphs.graph import DetectionGraph
from phidet.detections.graphs.related import Related

Floats = npt.NDArray[np.float32]


def relate(graph: DetectionGraph, outputs: Mapping[str, Floats]) -> Related:
    """What the network's outputs for ``graph`` mean.

    Raises:
        CheckpointError: an output is not finite.
    """
    broken = next((name for name, values in outputs.items() if not np.isfinite(values).all()), None)
    if broken is not None:
        raise CheckpointError(f"the network returned NaN or infinity in {broken}; check its weights")
    corrected, order = _corrected(graph.detections, outputs)
    edges, moved = _renumbered(graph.edges, order)
    together = None
    if "together_logits" in outputs:
        share = _sigmoid(outputs["together_logits"][moved])
        # The network sees each pair from both ends; the answer is one.
        together = ((share + share[_reverse(edges, len(order))]) / 2).astype(np.float32)
    right = float(_sigmoid(outputs["right_logits"])[0]) if "right_logits" in outputs else None
    if right is not None and not len(order):
        right = 0.0  # a whole of which nothing is found is not complete, whatever was learned of others
    return Related(DetectionGraph(corrected, edges), together, right)


def _corrected(found: Detections, outputs: Mapping[str, Floats]) -> tuple[Detections, npt.NDArray[np.int64]]:
    """The corrected detections, best first, and where each was before."""
    class_ids, scores, boxes = found.class_ids, found.scores, found.boxes_xyxy
    fields = dict(found.fields)
    if "label_logits" in outputs:
        fields["detected_class_id"] = class_ids
        class_ids = outputs["label_logits"].argmax(axis=1)
    if "score_logits" in outputs:
        fields["detected_score"] = scores
        scores = _sigmoid(outputs["score_logits"])
    if "box_deltas" in outputs:
        boxes = decode(outputs["box_deltas"], boxes)
        boxes = boxes if found.image_size_hw is None else clip(boxes, found.image_size_hw)
    # Sorted as Detections sorts, so that nodes keep the numbers that edges are about to get.
    order = np.argsort(-scores, kind="stable")
    corrected = replace(
        found,
        boxes_xyxy=boxes[order],
        scores=scores[order],
        class_ids=class_ids[order],
        fields=take_fields(fields, order),
    )
    return corrected, order


def _renumbered(edges: Edges, order: npt.NDArray[np.int64]) -> tuple[Edges, npt.NDArray[np.int64]]:
    """The edges between nodes in a new order, sorted again, and where each was before."""
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    renumbered = number[edges]
    moved = np.lexsort(renumbered[::-1])
    return renumbered[:, moved], moved


def _reverse(edges: Edges, count: int) -> npt.NDArray[np.int64]:
    """For each edge the position of the one in the other direction."""
    # Sorted by source and target, as all edges are, so that the reverse is found by its code.
    reverse: npt.NDArray[np.int64] = np.searchsorted(edges[0] * count + edges[1], edges[1] * count + edges[0])
    return reverse


def _sigmoid(logits: Floats) -> Floats:
    # By tanh, which does not overflow.
    return (0.5 * (1 + np.tanh(logits.astype(np.float64) / 2))).astype(np.float32)
