"""COCO's metrics (cocodataset.org/#detection-eval), computed by ``faster_coco_eval``.

Its results equal those of ``pycocotools``. Three of its weaknesses are worked around: it takes an annotation with id 0
for a missing one (ours start at 1), it adds a polygon to every detection when it loads a list (we pass the loaded
form), and it fails without images or classes (all metrics are ``None`` then).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from phidet.core.errors import ConfigError
from phidet.data.dataset import Dataset
from phidet.detections.boxes import xyxy_to_xywh
from phidet.detections.detections import Detections
from phidet.detections.masks import Masks
from phidet.evaluation.matching import check_detections

Overlap = Literal["bbox", "segm", "boundary"]
"""What is compared, in COCO's words."""
METRICS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)
"""The twelve in COCO's order; fields of :class:`CocoReport`."""


class ClassMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """One class.

    Attributes:
        name: as in the data set.
        objects: number of objects, without crowds.
        ap: mean over IoU 0.5, 0.55 … 0.95, 0…1; ``None`` where there are no objects.
        ap50: at IoU 0.5.
    """

    name: str
    objects: int
    ap: float | None
    ap50: float | None


class CocoReport(msgspec.Struct, frozen=True, kw_only=True):
    """COCO's metrics, 0…1, ``None`` where there are no objects of that kind (COCO writes −1).

    Attributes:
        images, objects: numbers of evaluated images and objects, without crowds.
        max_objects: maximum number of detections of a class in an image, 100 for COCO.
        ap: mean over IoU 0.5, 0.55 … 0.95 and over classes.
        ap50, ap75: at one IoU.
        ap_small, ap_medium, ap_large: of objects below 32² px², to 96² px², and above.
        ar_1, ar_10, ar_100: recall with that many detections of a class in an image, mean over IoUs and classes.
        ar_small, ar_medium, ar_large: recall with ``max_objects`` by size.
        ar_max: recall with ``max_objects``.
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
    classes: tuple[ClassMetrics, ...]
    ar_max: float | None = None
    max_objects: int = 100


def evaluate_coco(
    dataset: Dataset, detections: Sequence[Detections], max_objects: int = 100, overlap: Overlap = "bbox"
) -> CocoReport:
    """COCO's metrics for ``detections``, one for each image of ``dataset`` in its order.

    By masks, an object that has a box only is neither right nor wrong, like a crowd, and a detection without a mask is
    one of no pixels.

    Only things count where labels are panoptic. Crowds are neither right nor wrong. Difficult objects are ordinary
    ones: COCO has no such flag. Sizes are those of :attr:`Annotations.areas`.

    Args:
        dataset: the ground truth.
        detections: one for each image; of equal scores the earlier ranks higher.
        max_objects: number of best detections of a class used in each image. COCO's official metrics use 100;
            raise it for data with more objects in an image.
        overlap: what is compared: boxes; masks; or masks and their boundaries, a band along the edge (B. Cheng et al.,
            arXiv 2103.16562), of which the smaller IoU counts.

    Raises:
        InputError: the detections do not belong to the data set, or a label image cannot be read.
        ConfigError: ``max_objects`` is below 1.
    """
    if max_objects < 1:
        raise ConfigError(f"max_objects must be a whole number ≥ 1, got {max_objects}")
    check_detections(dataset, detections)
    classes, truth = len(dataset.class_names), dataset.all_annotations
    counted = ~truth.crowd
    # An object without a mask is handed over as a crowd below, so it is not among those to find.
    if overlap != "bbox" and truth.mask_labels is not None:
        counted &= truth.mask_labels.known
    stuff = sorted(dataset.stuff)
    counts = np.bincount(truth.class_ids[counted], minlength=classes)
    counts[stuff] = 0
    # COCO reports recall at 1, 10 and 100 whatever the limit, so these are always evaluated.
    limits = sorted({1, 10, 100, max_objects})
    # Laid out as in COCO's tools, −1 where there are no objects: by IoU, recall (precision only), class, size, limit.
    precision = np.full((10, 101, classes, 4, len(limits)), -1.0)
    recall = np.full((10, classes, 4, len(limits)), -1.0)
    if len(dataset) and classes:
        evaluator = COCOeval_faster(
            _coco(dataset, _objects(dataset, overlap)),
            _coco(dataset, _found(dataset, detections, overlap)),
            overlap,
            print_function=_silent,
        )
        # The columns of the results below, of which those other than recall at 1, 10 and 100 read that of max_objects.
        evaluator.params.maxDets = limits
        evaluator.evaluate()
        evaluator.accumulate()
        precision, recall = (np.array(evaluator.eval[key]) for key in ("precision", "recall"))
        # Classes are measured one by one, so that stuff, which has no instances, is left out of the means here.
        precision[:, :, stuff], recall[:, stuff] = -1, -1
    column = limits.index(max_objects)
    # Size 0 is "all"; IoU thresholds 0 and 5 are 0.50 and 0.75.
    average = [precision[..., 0, column], precision[0, ..., 0, column], precision[5, ..., 0, column]]
    average += [precision[..., size, column] for size in (1, 2, 3)]
    reached = [recall[..., 0, limits.index(min(limit, max_objects))] for limit in (1, 10, 100)]
    reached += [recall[..., size, column] for size in (1, 2, 3)]
    means = {name: _mean(values) for name, values in zip(METRICS, [*average, *reached], strict=True)}
    by_class = tuple(
        ClassMetrics(
            name=name,
            objects=int(counts[c]),
            ap=_mean(precision[:, :, c, 0, column]),
            ap50=_mean(precision[0, :, c, 0, column]),
        )
        for c, name in enumerate(dataset.class_names)
    )
    return CocoReport(
        images=len(dataset),
        objects=int(counts.sum()),
        classes=by_class,
        ar_max=_mean(recall[..., 0, column]),
        max_objects=max_objects,
        **means,
    )


def _silent(*_: object) -> None:
    """Replaces the library's printing."""


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    """Mean over the classes that have objects, ``None`` if none has."""
    defined = values[values >= 0]
    return float(defined.mean()) if defined.size else None


def _coco(dataset: Dataset, annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO(print_function=_silent)
    coco.dataset = {
        "images": [{"id": i + 1, "height": h, "width": w} for i, (h, w) in enumerate(dataset.sizes_hw.tolist())],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(dataset.class_names)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _objects(dataset: Dataset, overlap: Overlap) -> list[dict[str, Any]]:
    truth = dataset.all_annotations
    # Ids start at 1: the library takes a match with the annotation 0 for no match.
    images = np.repeat(np.arange(len(dataset)), dataset.counts)
    columns = (images, truth.class_ids, xyxy_to_xywh(truth.boxes_xyxy.astype(np.float64)), truth.areas, truth.crowd)
    objects = [
        {"id": n, "image_id": i + 1, "category_id": c + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for n, (i, c, box, area, crowd) in enumerate(zip(*(column.tolist() for column in columns), strict=True), 1)
    ]
    if overlap != "bbox":
        known = np.zeros(len(objects), np.bool_) if truth.mask_labels is None else truth.mask_labels.known
        masks = [runs for index in range(len(dataset)) for runs in _truth_masks(dataset, index).to_list()]
        for one, runs, sure in zip(objects, masks, known.tolist(), strict=True):
            one |= {"segmentation": runs, "iscrowd": one["iscrowd"] if sure else 1}
    return objects


def _truth_masks(dataset: Dataset, index: int) -> Masks:
    """The masks of an image; of objects that have a box only, the box, in which nothing is wrong."""
    size_hw, a = dataset.size_hw(index), dataset.annotations(index)
    masks = dataset.masks(index) or Masks.empty(size_hw, len(a.class_ids))
    unknown = np.ones(len(masks), np.bool_) if a.mask_labels is None else ~a.mask_labels.known
    if not unknown.any():
        return masks
    # Around the box: x1 y1, x2 y1, x2 y2, x1 y2. Beside a known mask the box is empty, and the union leaves it alone.
    corners = [box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2).astype(np.float64) for box in a.boxes_xyxy]
    rings = [[ring] if alone else [] for ring, alone in zip(corners, unknown, strict=True)]
    boxes = Masks.from_polygons(rings, size_hw)
    return masks.joined([boxes]).union(np.tile(np.arange(len(masks)), 2), len(masks))


def _found(dataset: Dataset, detections: Sequence[Detections], overlap: Overlap) -> list[dict[str, Any]]:
    columns = (
        (i, c, box, score)
        for i, found in enumerate(detections)
        for c, box, score in zip(
            found.class_ids.tolist(),
            xyxy_to_xywh(found.boxes_xyxy.astype(np.float64)).tolist(),
            found.scores.tolist(),
            strict=True,
        )
    )
    # A detection without a match counts as false only in the size ranges that its own area lies in.
    results = [
        {"id": n, "image_id": i + 1, "category_id": c + 1, "bbox": box, "area": box[2] * box[3], "score": score}
        for n, (i, c, box, score) in enumerate(columns, 1)
    ]
    if overlap != "bbox":
        each = [found.masks or Masks.empty(dataset.size_hw(i), len(found)) for i, found in enumerate(detections)]
        runs = [one for masks in each for one in masks.to_list()]
        areas = [area for masks in each for area in masks.areas.tolist()]
        for result, one, area in zip(results, runs, areas, strict=True):
            result |= {"segmentation": one, "area": area}
    return results
