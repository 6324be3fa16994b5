"""Pascal VOC's average precision (Everingham et al., IJCV 2010, section 4.2).

A detection belongs to the object of its class and image that it overlaps most. It is correct with IoU ≥ 0.5 and as the
best scored such detection of its object; all others are false. Difficult objects are neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.data.dataset import Annotations, Dataset
from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections
from phidet.evaluation.matching import MATCHED, check_detections, countable, covered

FloatArray = npt.NDArray[np.float64]


class VocReport(msgspec.Struct, frozen=True):
    """VOC's metrics.

    Attributes:
        ap50: mean over the classes that have objects, 0…1; ``None`` where none has.
        classes: AP50 by name, ``None`` where there are no objects, difficult and crowds aside.
    """

    ap50: float | None
    classes: dict[str, float | None]


def evaluate_voc(dataset: Dataset, detections: Sequence[Detections], eleven_points: bool = False) -> VocReport:
    """VOC's AP50 for ``detections``, one for each image of ``dataset`` in its order.

    Boxes are continuous: the development kit adds a pixel to every side, which matters for tiny boxes only.

    Args:
        dataset: the ground truth; crowds, which VOC does not have, are neither right nor wrong.
        detections: one for each image; of equal scores the earlier ranks higher.
        eleven_points: the mean of the precision at recalls 0, 0.1 … 1, as until 2009, instead of the whole area.

    Raises:
        InputError: the detections do not belong to the data set.
    """
    check_detections(dataset, detections)
    classes, truth = len(dataset.class_names), dataset.all_annotations
    counts = np.bincount(truth.class_ids[countable(truth)], minlength=classes)
    # Objects are numbered over the whole data set, where a class is evaluated over all images at once.
    starts = np.cumsum(dataset.counts) - dataset.counts
    best = [_best_object(found, dataset.annotations(i), starts[i]) for i, found in enumerate(detections)]
    objects = np.concatenate([np.zeros(0, np.int64), *best])
    scores = np.concatenate([np.zeros(0, np.float32), *(found.scores for found in detections)])
    class_ids = np.concatenate([np.zeros(0, np.int64), *(found.class_ids for found in detections)])
    average = _eleven_points if eleven_points else _whole_area
    by_class: dict[str, float | None] = {}
    for c, name in enumerate(dataset.class_names):
        here = np.flatnonzero((class_ids == c) & (objects != _NEITHER))
        here = here[np.argsort(-scores[here], kind="stable")]
        right = np.zeros(len(here), np.bool_)
        # unique returns the first, that is the best scored, detection of each object; later ones of the same object are
        # false.
        found_objects, first = np.unique(objects[here], return_index=True)
        right[first[found_objects != _NONE]] = True
        by_class[name] = average(right, int(counts[c])) if counts[c] else None
    defined = [ap for ap in by_class.values() if ap is not None]
    return VocReport(float(np.mean(defined)) if defined else None, by_class)


_NONE, _NEITHER = -1, -2  # no object; an ignored object


def _best_object(found: Detections, truth: Annotations, start: int) -> npt.NDArray[np.int64]:
    """(N,) which object of the whole data set each detection overlaps most, if with IoU ≥ 0.5."""
    result = np.full(len(found.scores), _NONE, np.int64)
    if not len(truth.areas) or not len(result):
        return result
    boxes, others = found.boxes_xyxy.astype(np.float64), truth.boxes_xyxy.astype(np.float64)
    same_class = found.class_ids[:, None] == truth.class_ids[None, :]
    ious = np.where(same_class, pairwise_iou(boxes, others), 0.0)
    alone = np.where(truth.crowd, 0.0, ious)
    # The best object, whether or not another detection has it: a second detection of an object is false, and is not
    # given the next best one as COCO does.
    best = alone.argmax(axis=1)
    met = alone[np.arange(len(best)), best] >= MATCHED
    result[met] = np.where(truth.difficult[best], _NEITHER, start + best)[met]
    in_crowd = ((covered(ious, boxes, others) >= MATCHED) & truth.crowd).any(axis=1)
    result[~met & in_crowd] = _NEITHER
    return result


def _precision_recall(right: npt.NDArray[np.bool_], objects: int) -> tuple[FloatArray, FloatArray]:
    """Precision, at least that of every later point, and recall, after each detection."""
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1], hits / objects


def _whole_area(right: npt.NDArray[np.bool_], objects: int) -> float:
    precision, recall = _precision_recall(right, objects)
    # Recall rises at right detections only, by one object each.
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def _eleven_points(right: npt.NDArray[np.bool_], objects: int) -> float:
    precision, recall = _precision_recall(right, objects)
    # Recall and tenths as whole numbers: 3/10 is not 0.3 times 1 in floating point.
    reached = np.searchsorted(np.rint(recall * objects) * 10, np.arange(11) * objects)
    return float(np.append(precision, 0.0)[reached].mean())
