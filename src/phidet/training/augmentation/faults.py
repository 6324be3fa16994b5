"""Faults for networks on detections to learn from: one object gone, moved, of another class, or one too many.

A verdict on a whole is one bit for each image, and right wholes are few. A right one with a fault put in is a wrong one
whose twin the network also sees: what differs is the fault. The detections change with the objects, as a detector that
finds both would have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from phidet.data.dataset import Annotations
from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections
from phidet.detections.fields import take_fields
from phidet.detections.graphs.related import GROUP
from phidet.evaluation.relations import objects_of

_OWN = 0.3  # IoU from which detections are of an object, doubles of it too
_MOVED = (0.4, 1.2)  # by so many of its sides
_TRIES = 30
Example = tuple[Detections, Annotations]
Rows = npt.NDArray[np.int64]


def with_fault(found: Detections, truth: Annotations, rng: np.random.Generator) -> Example | None:
    """Detections and objects of a right whole with one fault; ``None`` where nothing is found that could be changed."""
    objects = objects_of(found, truth)
    seen = np.unique(objects[objects >= 0])
    if not len(seen):
        return None
    chosen = int(rng.choice(seen))
    own = np.flatnonzero(pairwise_iou(found.boxes_xyxy, truth.boxes_xyxy[[chosen]])[:, 0] >= _OWN)
    kinds: tuple[Callable[..., Example | None], ...] = (_missing, _moved, _of_another_class, _extra)
    return kinds[int(rng.integers(len(kinds)))](found, truth, (chosen, own), rng)


def _missing(found: Detections, truth: Annotations, which: tuple[int, Rows], rng: np.random.Generator) -> Example:
    chosen, own = which
    kept = np.delete(np.arange(len(found)), own)
    return found[kept], _objects(truth, np.delete(np.arange(len(truth.class_ids)), chosen))


def _moved(found: Detections, truth: Annotations, which: tuple[int, Rows], rng: np.random.Generator) -> Example:
    chosen, own = which
    box = truth.boxes_xyxy[chosen]
    angle = rng.uniform(0, 2 * np.pi)
    by = rng.uniform(*_MOVED) * np.sqrt(np.prod(box[2:] - box[:2])) * np.array([np.cos(angle), np.sin(angle)])
    boxes, true = found.boxes_xyxy.copy(), truth.boxes_xyxy.copy()
    boxes[own] += np.tile(by, 2)
    true[chosen] += np.tile(by, 2)
    return replace(found, boxes_xyxy=boxes), truth._replace(boxes_xyxy=true)


def _of_another_class(
    found: Detections, truth: Annotations, which: tuple[int, Rows], rng: np.random.Generator
) -> Example | None:
    """As large as one of that class on the same image."""
    chosen, own = which
    others = np.flatnonzero(truth.class_ids != truth.class_ids[chosen])
    if not len(others):
        return None
    model = int(rng.choice(others))
    sides = truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]
    ratio = np.tile(sides[model] / np.maximum(sides[chosen], 1.0), 2)
    centre = np.tile((truth.boxes_xyxy[chosen, :2] + truth.boxes_xyxy[chosen, 2:]) / 2, 2)
    boxes, true = found.boxes_xyxy.copy(), truth.boxes_xyxy.copy()
    boxes[own] = centre + (boxes[own] - centre) * ratio
    true[chosen] = centre + (true[chosen] - centre) * ratio
    class_ids, true_ids = found.class_ids.copy(), truth.class_ids.copy()
    class_ids[own[class_ids[own] == true_ids[chosen]]] = true_ids[model]
    true_ids[chosen] = true_ids[model]
    return replace(found, boxes_xyxy=boxes, class_ids=class_ids), truth._replace(boxes_xyxy=true, class_ids=true_ids)


def _extra(found: Detections, truth: Annotations, which: tuple[int, Rows], rng: np.random.Generator) -> Example | None:
    """Another one like the chosen, in a free place among the others; of no group."""
    chosen, own = which
    box = truth.boxes_xyxy[chosen]
    centre, low, high = (box[:2] + box[2:]) / 2, truth.boxes_xyxy[:, :2].min(0), truth.boxes_xyxy[:, 2:].max(0)
    for _ in range(_TRIES):
        by = np.tile(rng.uniform(low, high) - centre, 2).astype(np.float32)
        if pairwise_iou((box + by)[None], truth.boxes_xyxy).max() == 0:
            break
    else:
        return None
    more = _objects(truth, np.append(np.arange(len(truth.class_ids)), chosen))
    more.boxes_xyxy[-1] += by
    if GROUP in more.fields:
        np.asarray(more.fields[GROUP])[-1] = -1
    rows = np.concatenate((np.arange(len(found)), own))
    boxes = found.boxes_xyxy[rows]
    boxes[len(found) :] += by
    fields = take_fields(found.fields, rows)
    return Detections(boxes, found.scores[rows], found.class_ids[rows], found.names, found.image_size_hw, fields), more


def _objects(truth: Annotations, rows: Rows) -> Annotations:
    """Some of the objects, or some of them twice."""
    return Annotations(
        truth.boxes_xyxy[rows],
        truth.class_ids[rows],
        truth.areas[rows],
        truth.crowd[rows],
        truth.difficult[rows],
        take_fields(truth.fields, rows),
    )
