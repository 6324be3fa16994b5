"""What is wrong with masks: nothing in them, outside of the image, elsewhere than their box, over one another."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from phidet.core.errors import InputError
from phidet.data.collector import TOLERANCE, box_text
from phidet.data.dataset import Annotations, Dataset, Problem
from phidet.data.mask_labels import Kind, MaskLabels, rings_of
from phidet.detections.boxes import elementwise_iou
from phidet.detections.masks import Masks

_FITTING = 0.5  # IoU of a mask's own box with the labelled one; hidden parts may be in the latter
_AT_ONCE = 64  # images whose masks are made in threads


def mask_problems(dataset: Dataset) -> list[Problem]:
    """The masks of a split that would disturb training, in the order of the images."""
    if dataset.all_annotations.mask_labels is None:
        return []
    found: list[Problem] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(dataset), _AT_ONCE):
            indices = range(start, min(start + _AT_ONCE, len(dataset)))
            for problems in pool.map(lambda index: list(_of_image(dataset, index)), indices):
                found += problems
    return found


def _of_image(dataset: Dataset, index: int) -> Iterator[Problem]:
    name, a = str(dataset.names[index]), dataset.annotations(index)
    labels = a.mask_labels
    if labels is None or not len(labels):
        return
    try:
        masks = labels.masks(dataset.size_hw(index))
    except InputError as error:
        yield Problem("mask invalid", name, f"{error}; the image cannot be used to learn masks", name)
        return
    areas = masks.areas
    # The mask's own box, as the pixels of an object are what its box should contain.
    fits = elementwise_iou(masks.boxes_xyxy, a.boxes_xyxy, "iou") >= _FITTING
    for i in np.flatnonzero(labels.known).tolist():
        box = tuple(a.boxes_xyxy[i].tolist())
        where = f"{name}, object {i + 1}"
        reach = _reach(labels, i, dataset.size_hw(index))
        if reach > TOLERANCE:
            yield Problem("mask outside", where, f"its outline reaches {reach:.0f} pixels out of the image", name, box)
        if not areas[i]:
            yield Problem("mask empty", where, "its mask has no pixel in the image", name, box)
        elif not fits[i]:
            own = box_text(masks.boxes_xyxy[i].tolist())
            yield Problem("mask misplaced", where, f"its mask lies in {own}, its box is {box_text(box)}", name, box)
    if dataset.stuff:
        yield from _overlaps(name, a, masks, dataset.class_names)


def _reach(labels: MaskLabels, row: int, size_hw: tuple[int, int]) -> float:
    """How many pixels a polygon reaches out of the image; 0 for other labels."""
    label = labels.label(row)
    if label.kind != Kind.POLYGONS:
        return 0.0
    # Of pixels and runs nothing can lie outside; polygons of a larger copy of the image do.
    corners = np.concatenate(rings_of(label))
    return float(max(-corners.min(), (corners - [size_hw[1], size_hw[0]]).max(), 0))


def _overlaps(name: str, a: Annotations, masks: Masks, class_names: tuple[str, ...]) -> Iterator[Problem]:
    """In panoptic labels every pixel belongs to one segment."""
    real = np.flatnonzero(~a.crowd)
    common = np.triu(masks[real].intersections(masks[real]), 1)
    for i, j in np.argwhere(common > 0).tolist():
        one, other = (class_names[int(a.class_ids[real[k]])] for k in (i, j))
        what = f"segments {real[i] + 1} ({one}) and {real[j] + 1} ({other}) have {common[i, j]:,} pixels in common"
        yield Problem("mask overlapping", name, what, name, tuple(a.boxes_xyxy[real[i]].tolist()))
