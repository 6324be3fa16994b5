"""COCO's figures (cocodataset.org/#detection-eval), computed by ``faster_coco_eval``.

The library's answers are those of ``pycocotools``. Three things are kept from it: it confuses an annotation of number 0
with none (ours start at 1), it gives every detection a polygon when it loads a list (we hand it the loaded form), and
it cannot do without images or classes (there are no figures then).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.evaluation.matching import check_detections

FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)
"""The twelve in COCO's order; fields of :class:`CocoReport`."""


class ClassFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One class.

    Attributes:
        name: as in the data set.
        objects: how many there are, without crowds.
        ap: mean over IoU 0.5, 0.55 … 0.95, 0…1; ``None`` where there are no objects.
        ap50: at IoU 0.5.
    """

    name: str
    objects: int
    ap: float | None
    ap50: float | None


class CocoReport(msgspec.Struct, frozen=True, kw_only=True):
    """COCO's twelve figures, 0…1, ``None`` where no object is of that kind (COCO writes −1).

    Attributes:
        images, objects: how many were looked at; objects without crowds.
        ap: mean over IoU 0.5, 0.55 … 0.95 and over classes.
        ap50, ap75: at one IoU.
        ap_small, ap_medium, ap_large: of objects below 32² px², to 96² px², and above.
        ar_1, ar_10, ar_100: recall with so many detections of a class in an image, mean over IoUs and classes.
        ar_small, ar_medium, ar_large: recall with 100 by size.
        classes: one by one, in the data set's order.
    """

    images: int
    objects: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar_1: float | None
    ar_10: float | None
    ar_100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    classes: tuple[ClassFigures, ...]


def evaluate_coco(dataset: Dataset, detections: Sequence[Detections]) -> CocoReport:
    """COCO's figures for ``detections``, one for each image of ``dataset`` in its order.

    Crowds are neither right nor wrong. Difficult objects are ordinary ones: COCO does not know them. Sizes are those of
    :attr:`Annotations.areas`. Of a class the best 100 detections of an image count; of equal scores the earlier is
    the better one.

    Raises:
        InputError: the detections do not belong to the data set.
    """
    check_detections(dataset, detections)
    classes, truth = len(dataset.class_names), dataset.all_annotations
    counts = np.bincount(truth.class_ids[~truth.crowd], minlength=classes)
    stats = np.full(len(FIGURES), -1.0)
    precision = np.full((10, 101, classes), -1.0)
    if len(dataset) and classes:
        evaluator = COCOeval_faster(
            _coco(dataset, _objects(dataset)), _coco(dataset, _found(detections)), "bbox", print_function=_silent
        )
        evaluator.run()
        stats = np.asarray(evaluator.stats)
        precision = np.asarray(evaluator.eval["precision"])[:, :, :, 0, -1]  # all sizes, 100 detections
    figures = {name: None if value < 0 else float(value) for name, value in zip(FIGURES, stats, strict=True)}
    by_class = tuple(
        ClassFigures(name=name, objects=int(counts[c]), ap=_mean(precision[:, :, c]), ap50=_mean(precision[0, :, c]))
        for c, name in enumerate(dataset.class_names)
    )
    return CocoReport(images=len(dataset), objects=int(counts.sum()), classes=by_class, **figures)


def _silent(*_: object) -> None:
    """Instead of the library's printing."""


def _mean(precision: npt.NDArray[np.float64]) -> float | None:
    return None if precision.flat[0] < 0 else float(precision.mean())  # all of a class is −1, or nothing


def _coco(dataset: Dataset, annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO(print_function=_silent)
    coco.dataset = {
        "images": [{"id": i + 1} for i in range(len(dataset))],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(dataset.class_names)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _objects(dataset: Dataset) -> list[dict[str, Any]]:
    truth = dataset.all_annotations
    images = np.repeat(np.arange(len(dataset)), [len(dataset.annotations(i).areas) for i in range(len(dataset))])
    columns = (images, truth.class_ids, _xywh(truth.boxes_xyxy), truth.areas, truth.crowd)
    return [
        {"id": n, "image_id": i + 1, "category_id": c + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for n, (i, c, box, area, crowd) in enumerate(zip(*(column.tolist() for column in columns), strict=True), 1)
    ]


def _found(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    columns = (
        (i, c, box, score)
        for i, found in enumerate(detections)
        for c, box, score in zip(
            found.class_ids.tolist(), _xywh(found.boxes_xyxy).tolist(), found.scores.tolist(), strict=True
        )
    )
    return [
        {"id": n, "image_id": i + 1, "category_id": c + 1, "bbox": box, "area": box[2] * box[3], "score": score}
        for n, (i, c, box, score) in enumerate(columns, 1)
    ]


def _xywh(boxes_xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    boxes = boxes_xyxy.astype(np.float64)  # sides of float32 corners are exact in float64
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
