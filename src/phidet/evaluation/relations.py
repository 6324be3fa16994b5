"""Metrics of relations between detections: labels, groups, and verdicts on the whole."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.data.dataset import Annotations, Dataset
from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections
from phidet.detections.graphs.frames import side_by_side
from phidet.detections.graphs.related import GROUP, Related
from phidet.evaluation.coco_metrics import evaluate_coco
from phidet.evaluation.matching import MATCHED


class RelationsReport(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of corrected detections beside the detector's own; ``None`` where there is nothing to measure.

    Attributes:
        images: their number.
        ap, detector_ap: COCO's AP after and before.
        labels, detector_labels: share of right labels among detections of an object (IoU ≥ 0.5, each object once).
        groups: F1 of pairs of detections that are said to be of one group.
        verdicts: share of images that are judged right or wrong rightly, at 0.5.
        verdict_auc: probability that a right one is judged better than a wrong one.
    """

    images: int
    ap: float | None
    detector_ap: float | None
    labels: float | None
    detector_labels: float | None
    groups: float | None
    verdicts: float | None
    verdict_auc: float | None


def measure_relations(
    dataset: Dataset, before: Sequence[Detections] | None, after: Sequence[Related]
) -> RelationsReport:
    """The metrics of what a network made of the detections ``before`` in each image of ``dataset``.

    Without ``before``, those of the detector are left out, which never change while a network is trained. Detections of
    joined frames are compared with objects of both frames side by side.
    """
    truths = [dataset.annotations(index) for index in range(len(dataset))]
    corrected = [side_by_side(related.detections) for related in after]
    before = None if before is None else [side_by_side(found) for found in before]
    verdicts = [
        (related.right, dataset.right[str(name)])
        for related, name in zip(after, dataset.names, strict=True)
        if related.right is not None and str(name) in dataset.right
    ]
    said = np.array([score for score, _ in verdicts])
    right = np.array([truth for _, truth in verdicts], np.bool_)
    return RelationsReport(
        images=len(dataset),
        ap=evaluate_coco(dataset, corrected).ap,
        detector_ap=None if before is None else evaluate_coco(dataset, before).ap,
        labels=label_accuracy(corrected, truths),
        detector_labels=None if before is None else label_accuracy(before, truths),
        groups=_groups(corrected, truths),
        verdicts=float(((said > 0.5) == right).mean()) if verdicts else None,
        verdict_auc=auc(said, right),
    )


def objects_of(found: Detections, truth: Annotations) -> npt.NDArray[np.int64]:
    """(N,) the object of each detection, of any class, from IoU 0.5 on, the best detections first; −1 for none."""
    objects = np.full(len(found), -1, np.int64)
    overlaps = pairwise_iou(found.boxes_xyxy, truth.boxes_xyxy)
    # No detection is of a crowd, nor of an object that a better one has.
    overlaps[:, truth.crowd] = 0
    for i, row in enumerate(overlaps):
        if len(row) and row.max() >= MATCHED:
            objects[i] = row.argmax()
            overlaps[:, objects[i]] = 0
    return objects


def label_accuracy(found: Sequence[Detections], truths: Sequence[Annotations]) -> float | None:
    """Share of right labels among detections of an object; ``None`` if there is none."""
    right = total = 0
    for detections, truth in zip(found, truths, strict=True):
        objects = objects_of(detections, truth)
        real = objects >= 0
        total += int(real.sum())
        right += int((detections.class_ids[real] == truth.class_ids[objects[real]]).sum())
    return right / total if total else None


def pair_counts(said: npt.NDArray[np.int64], true: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of pairs of detections: those rightly said to be of one group, those said to be, and those that are.

    Args:
        said: (N,) number of the group of each detection; −1 for none.
        true: (N,) likewise.
    """
    one, other = np.triu_indices(len(said), 1)
    positive = (said[one] == said[other]) & (said[one] >= 0)
    actual = (true[one] == true[other]) & (true[one] >= 0)
    return np.array([(positive & actual).sum(), positive.sum(), actual.sum()], np.int64)


def f1(counts: npt.NDArray[np.int64]) -> float | None:
    """Harmonic mean of precision and recall of such counts; ``None`` if there are no pairs."""
    hits, said, actual = counts.tolist()
    return 2 * hits / (said + actual) if said + actual else None


def auc(scores: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve: P(a right one scores higher than a wrong one), ties half; ``None`` if undefined."""
    positive, negative = scores[right], scores[~right]
    if not len(positive) or not len(negative):
        return None
    differences = positive[:, None] - negative
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())


def _groups(found: Sequence[Detections], truths: Sequence[Annotations]) -> float | None:
    counts = np.zeros(3, np.int64)
    for detections, truth in zip(found, truths, strict=True):
        said, true = detections.fields.get(GROUP), truth.fields.get(GROUP)
        if isinstance(said, np.ndarray) and isinstance(true, np.ndarray):
            # Detections of no object are in no true group: saying that they are is a mistake.
            objects = objects_of(detections, truth)
            counts += pair_counts(said, np.where(objects >= 0, true[objects], -1) if len(true) else objects)
    return f1(counts)
