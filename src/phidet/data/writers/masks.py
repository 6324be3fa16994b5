"""Masks as each layout has them: COCO's segmentations, YOLO's outlines, VOC's label images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.core.errors import InputError
from phidet.data.dataset import Dataset, Problem
from phidet.data.mask_labels import Kind, MaskLabels, rings_of, segmentation_of
from phidet.data.readers.voc_masks import VOID
from phidet.detections.outlines import bridged, single_outlines
from phidet.images.label_image import PALETTE

T = TypeVar("T")
_ROTATED = 4  # corners of a rotated box, which a polygon must not be taken for


class VocImages(NamedTuple):
    """The label images of an image of VOC.

    Attributes:
        objects, classes: with VOC's palette: the number of the object from 1, of its class from 1; 0 is background.
        hidden: pixels that several objects have, of which the smallest is kept.
    """

    objects: Image.Image
    classes: Image.Image
    hidden: int


def masks_left_out(split: str, layout: str, count: int, why: str) -> Problem:
    """What is said of masks that a layout cannot hold."""
    return Problem("mask left out", split, f"{count:,} masks; {layout} {why}, their boxes are kept")


def readable_or_none(
    read: Callable[[Dataset, int], T], dataset: Dataset, index: int, problems: list[Problem]
) -> T | None:
    """What ``read`` makes of an image's masks; ``None`` and a problem where a label image cannot be read."""
    try:
        return read(dataset, index)
    except InputError as error:
        name = str(dataset.names[index])
        problems.append(Problem("mask invalid", name, f"{error}; the boxes are written", name))
        return None


def segmentations(dataset: Dataset, index: int) -> list[Any]:
    """COCO's ``segmentation`` of each object of an image, as it was labelled where it can be; ``None`` without a mask.

    Raises:
        InputError: a label image cannot be read.
    """
    labels = dataset.annotations(index).mask_labels
    if labels is None:
        return [None] * len(dataset.annotations(index).class_ids)
    found = [segmentation_of(labels.label(i)) for i in range(len(labels))]
    missing = np.flatnonzero(labels.known & np.array([one is None for one in found], np.bool_))
    for i, runs in zip(missing, labels[missing].masks(dataset.size_hw(index)).to_list(), strict=True):
        found[i] = runs
    return found


def outlines_of(dataset: Dataset, index: int) -> list[npt.NDArray[np.float64] | None]:
    """One polygon for each object of an image, (P, 2) in pixels; ``None`` for one without a mask or a pixel.

    Several polygons are joined by lines that enclose nothing; runs become the outlines of their pixels.

    Raises:
        InputError: a label image cannot be read.
    """
    labels = dataset.annotations(index).mask_labels
    if labels is None:
        return [None] * len(dataset.annotations(index).class_ids)
    found: list[npt.NDArray[np.float64] | None] = [_as_labelled(labels, i) for i in range(len(labels))]
    missing = np.flatnonzero(labels.known & np.array([ring is None for ring in found], np.bool_))
    for i, ring in zip(missing, single_outlines(labels[missing].masks(dataset.size_hw(index))), strict=True):
        found[i] = _unlike_rotated(ring) if len(ring) else None
    return found


def _as_labelled(labels: MaskLabels, row: int) -> npt.NDArray[np.float64] | None:
    """A polygon that needs no pixels: those that overlap would, joined, leave out what they have in common."""
    label = labels.label(row)
    rings = rings_of(label) if label.kind == Kind.POLYGONS else []
    return _unlike_rotated(bridged(rings)) if len(rings) == 1 else None


def _unlike_rotated(ring: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The polygon, closed by its first corner where it has as many corners as a rotated box."""
    return np.concatenate([ring, ring[:1]]) if len(ring) == _ROTATED else ring


def voc_images(dataset: Dataset, index: int) -> VocImages | None:
    """The label images of the objects that are no crowds; ``None`` where one of them has no mask, or they are too many.

    Raises:
        InputError: a label image cannot be read.
    """
    a = dataset.annotations(index)
    a = a.take(~a.crowd)
    labels = a.mask_labels
    if labels is None or not len(labels) or not labels.known.all() or len(labels) >= VOID:
        return None
    masks = labels.masks(dataset.size_hw(index))
    # The smaller one on top: what lies on an object is as a rule smaller than it.
    order = np.argsort(masks.areas, kind="stable")
    objects = masks[order].to_ids(order + 1, dtype=np.uint8)
    numbers = np.concatenate([[0], np.minimum(a.class_ids + 1, VOID)]).astype(np.uint8)
    hidden = int(masks.areas.sum()) - int((objects > 0).sum())
    return VocImages(_indexed(objects), _indexed(numbers[objects]), hidden)


def _indexed(values: npt.NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(values))
    image.putpalette(PALETTE)
    return image
