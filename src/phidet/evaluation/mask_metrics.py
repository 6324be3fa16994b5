"""All metrics of masks in one struct: AP of masks and of their boundaries, panoptic quality, IoU of classes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from phidet.data.dataset import Dataset
from phidet.data.readable_masks import with_readable_masks
from phidet.detections.detections import Detections
from phidet.evaluation.coco_metrics import CocoReport, evaluate_coco
from phidet.evaluation.panoptic import PanopticReport, SemanticReport, evaluate_panoptic, evaluate_semantic


class MaskMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of masks.

    Attributes:
        coco: COCO's metrics by the IoU of masks; ``None`` of a network that finds no masks of objects.
        boundary_ap: AP by the smaller of the IoUs of masks and of their boundaries; ``None`` without objects.
        panoptic: panoptic quality; ``None`` unless the labels are panoptic.
        semantic: which class every pixel is given.
        score: lowest score of the detections used for panoptic quality and classes of pixels; ``None`` where these
            are those of the segments that the network finds.
    """

    coco: CocoReport | None
    boundary_ap: float | None
    panoptic: PanopticReport | None
    semantic: SemanticReport
    score: float | None


def has_masks(dataset: Dataset, detections: Sequence[Detections]) -> bool:
    """Whether there are masks to measure: in labels, and in every image with detections."""
    there = [found.masks is not None for found in detections if len(found)]
    return dataset.all_annotations.mask_labels is not None and bool(there) and all(there)


def has_segments(dataset: Dataset, detections: Sequence[Detections]) -> bool:
    """Whether labels have masks, and it was found what every pixel belongs to."""
    return dataset.all_annotations.mask_labels is not None and any(found.segments is not None for found in detections)


def with_masks_to_measure(dataset: Dataset, detections: Sequence[Detections]) -> Dataset:
    """``dataset``, without masks that cannot be read, where ``detections`` have something to compare with them."""
    some = has_masks(dataset, detections) or has_segments(dataset, detections)
    return with_readable_masks(dataset) if some else dataset


def measure_masks(
    dataset: Dataset, detections: Sequence[Detections], score: float, max_objects: int = 100
) -> MaskMetrics | None:
    """The metrics of the detections' masks and segments, one for each image of ``dataset``; ``None`` unless both have
    some.

    Args:
        dataset: the ground truth.
        detections: one for each image.
        score: lowest score of a detection that counts for panoptic quality and classes of pixels.
        max_objects: maximum number of detections for each image.

    Raises:
        InputError: a label image cannot be read.
    """
    objects, pixels = has_masks(dataset, detections), has_segments(dataset, detections)
    if not (objects or pixels):
        return None
    # Panoptic quality and classes of pixels have no ranking: each pixel gets one answer, by detections above a score.
    sure = [found.filter(score) for found in detections]
    return MaskMetrics(
        coco=evaluate_coco(dataset, detections, max_objects, "segm") if objects else None,
        boundary_ap=evaluate_coco(dataset, detections, max_objects, "boundary").ap if objects else None,
        panoptic=evaluate_panoptic(dataset, sure) if dataset.stuff else None,
        semantic=evaluate_semantic(dataset, sure),
        score=None if pixels else score,
    )
