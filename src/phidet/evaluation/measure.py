"""All metrics of a detector on a data set, in one struct."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from phidet.core.errors import ConfigError
from phidet.data.dataset import Dataset
from phidet.data.summary import DataSummary, summarise_data
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.detections.thresholds import Thresholds
from phidet.evaluation.class_counts import ClassCounts, class_counts, sum_counts
from phidet.evaluation.coco_metrics import CocoReport, evaluate_coco
from phidet.evaluation.confusion import confusion_matrix
from phidet.evaluation.curves import best_threshold, pr_curves
from phidet.evaluation.mask_metrics import MaskMetrics, measure_masks, with_masks_to_measure
from phidet.evaluation.matching import MATCHED
from phidet.evaluation.reliability import Reliability, measure_reliability
from phidet.evaluation.voc_metrics import evaluate_voc

COCO_SETTINGS = PostprocessSettings(score=0.001, multi_class=True)
"""The official evaluation: the best 5,000 (anchor, class) pairs, hard suppression per class, at most 100 boxes."""


class MeasureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of an evaluation.

    Attributes:
        score: lowest score of the detections used for precision, recall, F1, counts, confusion and mistakes;
            ``None`` for the one with the highest mean F1. AP uses all scores.
        iou: overlap from which a detection matches an object, for the same, in (0, 1]. COCO's metrics have their own.
        max_objects: maximum number of detections for each image. COCO's official metrics use 100.
        segment_score: lowest score of an object that becomes a segment; ``None`` for the network's usual one.

    Raises:
        ConfigError: a value out of its range.
    """

    score: float | None = None
    iou: float = MATCHED
    max_objects: int = 100
    segment_score: float | None = None

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score <= 1:
            raise ConfigError(f"score must be in 0…1, got {self.score:g}")
        if not 0 < self.iou <= 1:
            raise ConfigError(f"iou must be above 0 and at most 1, got {self.iou:g}")
        if self.max_objects < 1:
            raise ConfigError(f"max_objects must be a whole number ≥ 1, got {self.max_objects}")

    @property
    def postprocess(self) -> PostprocessSettings:
        """Settings to run a detector with: :data:`COCO_SETTINGS` with ``max_objects``."""
        # Suppression needs more candidates than it returns, or crowded images would end below the limit.
        candidates = max(COCO_SETTINGS.candidates, 10 * self.max_objects)
        changes = {"max_detections": self.max_objects, "candidates": candidates, "segment_score": self.segment_score}
        return msgspec.structs.replace(COCO_SETTINGS, **changes)


DEFAULT_SETTINGS = MeasureSettings()


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of a model on a data set, as stored in ``report.json``.

    Attributes:
        model, data, split: what was measured on what.
        coco: COCO's metrics.
        voc_ap50: VOC's AP at IoU 0.5, mean over classes; ``None`` where there are no objects.
        best_score: the score threshold with the highest mean F1.
        score, iou: thresholds used for precision, recall, F1, counts and confusion.
        ap_at_iou: mean over classes of the area under precision over recall at ``iou``; ``None`` without objects.
        all_classes, classes: counts, precision, recall and F1, of all objects together and class by class.
        confusion: row by row the objects of each class by the class they were detected as, the last of each the
            background; see :func:`~phidet.evaluation.confusion.confusion_matrix`.
        summary: what is in the data, and what was left out of them.
        trained_on: images that the model has learned from; ``None`` where that is not known.
        masks: metrics of masks; ``None`` where labels or detections have none.
        reliability: how often detections of a score are right.
        thresholds: the best score of each class, where they were looked for; see
            :func:`~phidet.evaluation.thresholds.best_thresholds`.
        near_copies: names of the images that look nearly like some that the model has learned from; ``None`` where that
            was not looked for, see :mod:`phidet.data.near_copies`.
    """

    model: str
    data: str
    split: str
    coco: CocoReport
    voc_ap50: float | None
    best_score: float
    score: float
    iou: float
    ap_at_iou: float | None
    all_classes: ClassCounts
    classes: tuple[ClassCounts, ...]
    confusion: list[list[int]]
    summary: DataSummary
    trained_on: int | None
    masks: MaskMetrics | None = None
    reliability: Reliability | None = None
    thresholds: Thresholds | None = None
    near_copies: tuple[str, ...] | None = None


def measure(
    model: str,
    data: str,
    dataset: Dataset,
    detections: Sequence[Detections],
    settings: MeasureSettings = DEFAULT_SETTINGS,
    trained_on: int | None = None,
) -> Evaluation:
    """The metrics of ``detections``, one for each image of ``dataset``.

    Args:
        model, data: names, for the report.
        dataset: the ground truth.
        detections: one for each image.
        settings: score and overlap thresholds, and the number of detections.
        trained_on: images of the data that the model has learned from; ``None`` where that is not known.

    Raises:
        InputError: the detections do not belong to the data set.
    """
    dataset = with_masks_to_measure(dataset, detections)
    # Curves come first: the score threshold of everything that is counted is read off them.
    curves = pr_curves(dataset, detections, settings.iou)
    best_score = best_threshold(curves)
    score = best_score if settings.score is None else settings.score
    classes = class_counts(dataset, detections, score, settings.iou)
    # Classes without objects have no AP; as 0 they would pull the mean down.
    areas = [float(curve.envelope.mean()) for curve in curves if curve.objects]
    return Evaluation(
        model=model,
        data=data,
        split=dataset.name,
        coco=evaluate_coco(dataset, detections, settings.max_objects),
        voc_ap50=evaluate_voc(dataset, detections).ap50,
        best_score=best_score,
        score=score,
        iou=settings.iou,
        ap_at_iou=float(np.mean(areas)) if areas else None,
        all_classes=sum_counts(classes),
        classes=classes,
        confusion=confusion_matrix(dataset, detections, score, settings.iou).tolist(),
        summary=summarise_data(dataset),
        trained_on=trained_on,
        masks=measure_masks(dataset, detections, score, settings.max_objects),
        reliability=measure_reliability(dataset, detections, settings.iou),
    )
