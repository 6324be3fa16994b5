"""Boxes of COCO JSON that are corners and should have widths and heights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice

from phidet.core.errors import InputError
from phidet.data.collector import TOLERANCE, Collector, RawObject, box_text

# Of all boxes, how many must reach out of their images and how many must fit as corners to be taken for corners.
_OUTSIDE, _AS_CORNERS = 0.2, 0.95
_FEWEST_FOR_CORNERS = 4  # boxes; of fewer, all may fit by chance
_AREAS_SAMPLED = 100  # objects


def refuse_corners(read: Sequence[tuple[tuple[int, int], Sequence[RawObject]]], collector: Collector) -> None:
    """Raises InputError if the boxes are [x1, y1, x2, y2], which as [x, y, width, height] reach out of their images.

    Both are four numbers. As corners, the third is always larger than the first, and the fourth than the second; widths
    and heights are that now and then. So it takes two signs: all boxes fit as corners, and either many do not fit
    otherwise, or the areas in the file are those of corners.

    Args:
        read: size and objects of the images.
        collector: that they were given to.
    """
    outside = sum(problem.kind == "box clipped" for problem in collector.problems)
    total = sum(len(objects) for _, objects in read)
    many_outside = total >= _FEWEST_FOR_CORNERS and outside >= _OUTSIDE * total
    if not many_outside and not _areas_are_of_corners(raw for _, objects in read for raw in objects):
        return
    # Rejected rather than converted: a guess about somebody's boxes could be wrong for a few of them.
    corners = [raw for size_hw, objects in read for raw in objects if _fits_as_corners(raw, size_hw)]
    if len(corners) >= _AS_CORNERS * total:
        what = f"{outside} of {total} boxes reach out of their images" if many_outside else "the areas do not fit"
        raise InputError(
            f"{corners[0].where}: {what} as [x, y, width, height], and {len(corners)} of {total} boxes fit as corners "
            f"[x1, y1, x2, y2], for example {box_text(_as_written(corners[0]))}. COCO's boxes have widths and heights: "
            "write [x1, y1, x2 - x1, y2 - y1]"
        )


def _as_written(raw: RawObject) -> tuple[float, float, float, float]:
    """The four numbers of the file, of which the reader made corners."""
    x, y, right, bottom = raw.box_xyxy
    return x, y, right - x, bottom - y


def _fits_as_corners(raw: RawObject, size_hw: tuple[int, int]) -> bool:
    """Whether the four numbers are corners of a box in the image."""
    x1, y1, x2, y2 = _as_written(raw)
    return x1 < x2 <= size_hw[1] + TOLERANCE and y1 < y2 <= size_hw[0] + TOLERANCE


def _areas_are_of_corners(objects: Iterable[RawObject]) -> bool:
    """Whether the first objects with an area have that of corners and not that of width and height.

    Areas of segments are neither.
    """
    sample = list(islice((raw for raw in objects if raw.area is not None), _AREAS_SAMPLED))
    matching = 0
    for raw in sample:
        x1, y1, x2, y2 = _as_written(raw)
        area = raw.area or 0.0
        matching += math.isclose(area, (x2 - x1) * (y2 - y1), rel_tol=1e-3) and not math.isclose(area, x2 * y2)
    return matching > 1 and matching >= _AS_CORNERS * len(sample)
