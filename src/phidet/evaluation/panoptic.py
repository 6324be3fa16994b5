"""Panoptic quality (A. Kirillov et al., arXiv 1801.00868, section 4.1), and mean IoU of classes.

Panoptic quality as the official evaluation computes it: a detected segment is found if its IoU with a labelled one of
its class is above 0.5, which at most one can have. Pixels that belong to no labelled segment are void: they count in no
union. A detected segment that lies by more than half in void pixels, or in a crowd of its class, is no mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.detections.masks import Masks

_FOUND = 0.5  # IoU above which a segment is found, and share of a segment in void or crowd above which it is no mistake
VOID = 0
"""Id of pixels that belong to no segment."""


class Segments(NamedTuple):
    """The segments of one image, which do not overlap.

    Attributes:
        ids: (H, W), 1…N for the pixels of each segment, 0 for void.
        class_ids: (N,).
        crowd: (N,) bool, regions of many things.
    """

    ids: npt.NDArray[np.int32]
    class_ids: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Panoptic quality of some classes, the mean over those that are there; 0…1, ``None`` where none is.

    Attributes:
        pq: sum of the IoUs of found segments over found ones plus half of the false and half of the missed ones.
        sq: mean IoU of found segments; 0 for a class of which none is found.
        rq: the F1 of finding; pq is sq · rq, class by class.
        classes: number of classes that are labelled or detected.
    """

    pq: float | None
    sq: float | None
    rq: float | None
    classes: int


class ClassQuality(msgspec.Struct, frozen=True, kw_only=True):
    """One class: its qualities, and its segments that were found, falsely detected and missed."""

    name: str
    thing: bool
    pq: float | None
    sq: float | None
    rq: float | None
    found: int
    false: int
    missed: int


class PanopticReport(msgspec.Struct, frozen=True, kw_only=True):
    """Panoptic quality of all classes, of things and of stuff, and class by class."""

    all: Quality
    things: Quality
    stuff: Quality
    classes: tuple[ClassQuality, ...]


class SemanticReport(msgspec.Struct, frozen=True, kw_only=True):
    """Which class every pixel is given.

    Attributes:
        miou: mean IoU over the classes that are labelled or detected; the background is one unless labels are panoptic.
        accuracy: share of the labelled pixels that are given their class.
        ious: of each class by its name.
    """

    miou: float | None
    accuracy: float | None
    ious: dict[str, float | None]


class _Sums(NamedTuple):
    """Of each class: summed IoUs of found segments, and numbers of found, false and missed ones."""

    iou: npt.NDArray[np.float64]
    found: npt.NDArray[np.int64]
    false: npt.NDArray[np.int64]
    missed: npt.NDArray[np.int64]


def evaluate_panoptic(dataset: Dataset, detections: Sequence[Detections]) -> PanopticReport:
    """Panoptic quality of ``detections``, one for each image of ``dataset``, whose labels are panoptic.

    That of their segments where a network finds them; else of their masks, of which the better one keeps the pixels
    that several have.

    Raises:
        InputError: a label image cannot be read.
    """
    return panoptic_quality(_pairs(dataset, detections), dataset.class_names, dataset.stuff)


def panoptic_quality(
    pairs: Iterable[tuple[Segments, Segments]], class_names: Sequence[str], stuff: Iterable[int]
) -> PanopticReport:
    """Panoptic quality of pairs of labelled and detected segments of the same image."""
    count = len(class_names)
    sums = _Sums(np.zeros(count), *(np.zeros(count, np.int64) for _ in range(3)))
    for truth, found in pairs:
        _add_image(sums, truth, found)
    things = np.ones(count, np.bool_)
    things[list(stuff)] = False
    some = sums.found + sums.false + sums.missed > 0
    # Of a class without any segment, 0 / 0: kept finite here, and None below.
    rated = sums.found + (sums.false + sums.missed) / 2
    pq, rq = (values / np.maximum(rated, 0.5) for values in (sums.iou, sums.found))
    sq = sums.iou / np.maximum(sums.found, 1)
    classes = tuple(
        ClassQuality(
            name=name,
            thing=bool(things[c]),
            pq=float(pq[c]) if some[c] else None,
            sq=float(sq[c]) if some[c] else None,
            rq=float(rq[c]) if some[c] else None,
            found=int(sums.found[c]),
            false=int(sums.false[c]),
            missed=int(sums.missed[c]),
        )
        for c, name in enumerate(class_names)
    )
    everything, of_things, of_stuff = (_quality((pq, sq, rq), some & kind) for kind in (things | True, things, ~things))
    return PanopticReport(all=everything, things=of_things, stuff=of_stuff, classes=classes)


def evaluate_semantic(dataset: Dataset, detections: Sequence[Detections]) -> SemanticReport:
    """IoU of classes, pixel by pixel, of ``detections`` with segments or masks, one for each image of ``dataset``.

    Pixels of crowds do not count, nor do those without a segment in panoptic labels; in other labels these are the
    background. Where masks overlap, the first one is on top. Images with objects that have a box only do not count.

    Raises:
        InputError: a label image cannot be read.
    """
    count = len(dataset.class_names)
    # Class C is the background.
    confusion = np.zeros((count + 1, count + 1), np.int64)
    for truth, found in _pairs(dataset, detections):
        # −1 for pixels that do not count.
        classes = np.where(truth.crowd, -1, truth.class_ids)
        wanted = np.concatenate([[-1 if dataset.stuff else count], classes])[truth.ids]
        given = np.concatenate([[count], found.class_ids])[found.ids]
        known = wanted >= 0
        keys = wanted[known] * (count + 1) + given[known]
        confusion += np.bincount(keys, minlength=(count + 1) ** 2).reshape(count + 1, count + 1)
    right = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - right
    ious = right / np.maximum(union, 1)
    # In panoptic labels nothing is background, and what is left out counts as missed only.
    last = count if dataset.stuff else count + 1
    some = union[:last] > 0
    total = int(confusion.sum())
    return SemanticReport(
        miou=float(ious[:last][some].mean()) if some.any() else None,
        accuracy=float(right.sum() / total) if total else None,
        ious={name: float(ious[c]) if union[c] else None for c, name in enumerate(dataset.class_names)},
    )


def _pairs(dataset: Dataset, detections: Sequence[Detections]) -> Iterator[tuple[Segments, Segments]]:
    """Labelled and detected segments of each image whose objects all have masks."""
    for index, found in enumerate(detections):
        a, nothing = dataset.annotations(index), Masks.empty(dataset.size_hw(index))
        if a.mask_labels is not None and not a.mask_labels.known.all():
            continue  # what its pixels are is not known
        # Of a network that finds objects only, their masks are the segments.
        whole = found if found.segments is None else found.segments
        truth_ids, found_ids = ((masks or nothing).to_ids() for masks in (dataset.masks(index), whole.masks))
        no_crowd = np.zeros(len(whole), np.bool_)
        yield Segments(truth_ids, a.class_ids, a.crowd), Segments(found_ids, whole.class_ids, no_crowd)


def _add_image(sums: _Sums, truth: Segments, found: Segments) -> None:
    """Adds the segments of one image."""
    rows, columns = len(truth.class_ids) + 1, len(found.class_ids) + 1
    # Every pixel is a pair of a labelled and a detected segment: one count gives all areas and intersections.
    keys = truth.ids.reshape(-1).astype(np.int64) * columns + found.ids.reshape(-1)
    common = np.bincount(keys, minlength=rows * columns).reshape(rows, columns)
    areas, found_areas = common.sum(1)[1:], common.sum(0)[1:]
    # Void takes no part in unions.
    union = areas[:, None] + found_areas[None] - common[1:, 1:] - common[VOID, 1:]
    ious = common[1:, 1:] / np.maximum(union, 1)
    alike = truth.class_ids[:, None] == found.class_ids[None]
    i, j = np.nonzero((ious > _FOUND) & alike & ~truth.crowd[:, None])
    # add.at, as an image may have several segments of a class.
    np.add.at(sums.iou, truth.class_ids[i], ious[i, j])
    np.add.at(sums.found, truth.class_ids[i], 1)
    missed = ~truth.crowd
    missed[i] = False
    np.add.at(sums.missed, truth.class_ids[missed], 1)
    # What lies in void or in a crowd of its class is no mistake; of several crowds of a class, the last one counts.
    forgiven = common[VOID, 1:].copy()
    for crowd in {int(truth.class_ids[k]): k for k in np.flatnonzero(truth.crowd)}.values():
        forgiven += np.where(found.class_ids == truth.class_ids[crowd], common[1 + crowd, 1:], 0)
    false = (found_areas > 0) & ~(forgiven / np.maximum(found_areas, 1) > _FOUND)
    false[j] = False
    np.add.at(sums.false, found.class_ids[false], 1)


def _quality(qualities: Sequence[npt.NDArray[np.float64]], some: npt.NDArray[np.bool_]) -> Quality:
    """The means of pq, sq and rq over ``some`` of the classes."""
    if not some.any():
        return Quality(pq=None, sq=None, rq=None, classes=0)
    pq, sq, rq = (float(values[some].mean()) for values in qualities)
    return Quality(pq=pq, sq=sq, rq=rq, classes=int(some.sum()))
