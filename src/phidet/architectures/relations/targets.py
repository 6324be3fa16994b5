"""What the network should say of detections whose truth is known; NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.data.dataset import Annotations
from phidet.detections.boxes import encode, pairwise_iou
from phidet.detections.detections import Detections
from phidet.detections.graphs.frames import FRAME, side_by_side
from phidet.detections.graphs.graph import DetectionGraph
from phidet.detections.graphs.related import GROUP

MATCHED = 0.5  # IoU from which a detection is of an object


class Matches(NamedTuple):
    """Which object each detection is of.

    Attributes:
        objects: (N,) int64, −1 for none: a false detection, or one more of an object that a better one has.
        ious: (N,) overlap with it, 0 for none.
        ignored: (N,) bool, of no object but in a crowd region: neither right nor wrong.
    """

    objects: npt.NDArray[np.int64]
    ious: npt.NDArray[np.float64]
    ignored: npt.NDArray[np.bool_]


class GraphTargets(NamedTuple):
    """What is true of a graph of detections.

    Attributes:
        class_ids: (N,) int64, −1 where a detection is of no object.
        ious: (N,) float32, overlap with the object; 0 of no object, −1 for neither right nor wrong.
        box_deltas: (N, 4) float32, from the detected box to the object's; 0 of no object.
        together: (E,) float32, 1 where both ends are of objects of one group, else 0; −1 where that is not known.
        right: 1 or 0; −1 where that is not known.
    """

    class_ids: npt.NDArray[np.int64]
    ious: npt.NDArray[np.float32]
    box_deltas: npt.NDArray[np.float32]
    together: npt.NDArray[np.float32]
    right: float


def match(found: Detections, truth: Annotations, by_class: bool) -> Matches:
    """The object of each detection, the best detections first, each object once, from IoU 0.5 on.

    Args:
        found: by descending score.
        truth: the objects of the image.
        by_class: whether a detection can only be of an object of its own class.
    """
    objects = np.full(len(found), -1, np.int64)
    ious, ignored = np.zeros(len(found)), np.zeros(len(found), np.bool_)
    if not len(found) or not len(truth.class_ids):
        return Matches(objects, ious, ignored)
    overlaps = pairwise_iou(found.boxes_xyxy.astype(np.float64), truth.boxes_xyxy.astype(np.float64))
    if by_class:
        overlaps *= found.class_ids[:, None] == truth.class_ids
    elif found.names:
        # Of objects that overlap a detection alike, the one of its class: a tie must not turn labels round.
        overlaps += 1e-6 * (found.class_ids[:, None] == truth.class_ids)
    free = ~truth.crowd
    # Detections come best first, as in COCO's evaluation: the better one gets the object.
    for i, row in enumerate(overlaps):
        best = int(np.where(free, row, -1.0).argmax())
        if free[best] and row[best] >= MATCHED:
            objects[i], ious[i], free[best] = best, min(row[best], 1.0), False
        else:
            ignored[i] = bool((row[truth.crowd] >= MATCHED).any())
    return Matches(objects, ious, ignored)


def graph_targets(
    graph: DetectionGraph, truth: Annotations, right: bool | None = None, by_class: bool = False
) -> GraphTargets:
    """What the network should say.

    Args:
        graph: of the detections.
        truth: the objects; with the field ``group`` also which of them belong together. Of joined frames, those of both
            frames side by side.
        right: whether the whole is; ``None`` where that is not known.
        by_class: whether the detector's labels stay, so that a wrong label is a false detection.
    """
    found = side_by_side(graph.detections)
    objects, ious, ignored = match(found, truth, by_class)
    real = objects >= 0
    class_ids = np.where(real, truth.class_ids[objects] if len(truth.class_ids) else -1, -1)
    deltas = np.zeros((len(found), 4), np.float32)
    deltas[real] = encode(truth.boxes_xyxy[objects[real]], found.boxes_xyxy[real])
    together = np.full(graph.edges.shape[1], -1, np.float32)
    if GROUP in truth.fields:
        groups = np.full(len(found), -1, np.int64)
        groups[real] = truth.fields[GROUP][objects[real]]
        source, target = groups[graph.edges]
        together = ((source == target) & (source >= 0)).astype(np.float32)
        if FRAME in found.fields:
            # Two detections of one frame are never the same object; that need not be learned.
            source, target = np.asarray(found.fields[FRAME])[graph.edges]
            together[source == target] = -1
    known = np.where(ignored, -1.0, ious).astype(np.float32)
    return GraphTargets(class_ids, known, deltas, together, -1.0 if right is None else float(right))
