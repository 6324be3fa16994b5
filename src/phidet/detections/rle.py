"""Run lengths of masks: NumPy arrays for many masks at once, and COCO's codes (compressed text, counts, polygons).

A mask is the sorted flat indices at which it begins and ends, column by column as in COCO (``x · height + y``): pairs
of a first pixel and the one after the last. Many masks are one flat array and the place at which each begins in it, so
that every operation is a few NumPy calls however many masks there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError

MOST_PIXELS = 2**32 - 1  # of an image, so that indices fit 32 bits
_SUBPIXELS = 5  # COCO draws polygons on a grid that is this much finer
_LIMIT = 2.0**17  # of a polygon's coordinates in pixels: far outside, an edge would cost a point for each step

Ints = npt.NDArray[np.int64]


class Runs(NamedTuple):
    """N masks.

    Attributes:
        bounds: (R,) uint32, of all masks: of each, an even number of strictly rising indices.
        starts: (N + 1,) int64, where each mask begins in ``bounds``; the last one is where the last mask ends.
    """

    bounds: npt.NDArray[np.uint32]
    starts: Ints

    @property
    def owners(self) -> Ints:
        """(R,) the mask of each index."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def pack(bounds: npt.NDArray[Any], owners: Ints, count: int) -> Runs:
    """Runs of ``count`` masks from indices in the order of their owners."""
    return Runs(bounds.astype(np.uint32), np.searchsorted(owners, np.arange(count + 1)))


def take_ragged(starts: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Index of the values of some rows of a ragged array, and where each of these rows then begins."""
    lengths = np.diff(starts)[rows]
    begins = np.concatenate([[0], np.cumsum(lengths)])
    return np.arange(begins[-1]) + np.repeat(starts[:-1][rows] - begins[:-1], lengths), begins


def cancel_pairs(keys: Ints) -> Ints:
    """Sorted values without pairs of equal ones, which end and begin a run at the same place."""
    change = np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, bool)
    first = np.flatnonzero(change)
    odd = np.diff(np.append(first, len(keys))) % 2 == 1
    kept: Ints = keys[first[odd]]
    return kept


def union(runs: Runs, groups: Ints, count: int) -> Runs:
    """The union of the masks of each of ``count`` groups; ``groups`` has the group of every mask."""
    return _combine(runs, groups, count, 1)


def _combine(runs: Runs, groups: Ints, count: int, depth: int) -> Runs:
    """Where at least ``depth`` masks of a group overlap."""
    span = MOST_PIXELS + 1
    keys = groups[runs.owners] * span + runs.bounds.astype(np.int64)
    steps = np.where((np.arange(len(keys)) - runs.starts[runs.owners]) % 2 == 0, 1, -1)
    order = np.argsort(keys, kind="stable")
    keys, covered = keys[order], np.cumsum(steps[order])
    # Of steps at one place only their sum counts; every group ends with none open.
    last = np.append(keys[1:] != keys[:-1], True) if len(keys) else np.zeros(0, bool)
    keys, inside = keys[last], covered[last] >= depth
    kept = inside != np.concatenate([[False], inside[:-1]])
    return pack(keys[kept] % span, keys[kept] // span, count)


def from_counts(counts: Sequence[npt.NDArray[Any]], sizes_hw: Sequence[tuple[int, int]]) -> Runs:
    """Masks from COCO's counts: lengths of runs, in turn outside and inside.

    Raises:
        InputError: negative lengths, or a sum that is not the image's number of pixels.
    """
    bounds, owners = [], []
    for i, (values, (height, width)) in enumerate(zip(counts, sizes_hw, strict=True)):
        values = np.asarray(values, np.int64)
        if height * width > MOST_PIXELS:
            raise InputError(f"a mask of {width}×{height} pixels is too large: expected at most {MOST_PIXELS:,} pixels")
        total = int(values.sum())
        if total != height * width or (values < 0).any():
            raise InputError(f"the runs of a mask cover {total:,} pixels, expected {width}×{height}")
        ends = np.cumsum(values)
        # A last run inside ends at the image's end, where an outer one only ends there.
        ends = cancel_pairs(ends if len(ends) % 2 == 0 else ends[:-1])
        bounds.append(ends)
        owners.append(np.full(len(ends), i))
    return pack(_joined(bounds), _joined(owners), len(counts))


def to_counts(runs: Runs, size_hw: tuple[int, int]) -> list[Ints]:
    """COCO's counts of each mask, as :func:`from_counts` takes them."""
    total = size_hw[0] * size_hw[1]
    found = []
    for first, end in zip(runs.starts[:-1], runs.starts[1:], strict=True):
        bounds = runs.bounds[first:end].astype(np.int64)
        counts = np.diff(bounds, prepend=0, append=total)
        found.append(counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts)
    return found


def decode_text(text: bytes) -> Ints:
    """Counts from COCO's compressed text.

    Each number is written in groups of five bits, the lowest first, six bits to a letter from "0" on: the sixth says
    that more follow. From the fourth on, a number is the difference to the last but one.

    Raises:
        InputError: letters that the code does not have, or an end inside a number.
    """
    letters = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(letters):
        return np.zeros(0, np.int64)
    more = letters & 32 != 0
    if letters.min() < 0 or letters.max() > 63 or more[-1]:
        raise InputError("a compressed mask has letters that COCO's code does not have, or is cut off")
    ends = np.flatnonzero(~more)
    begins = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - begins + 1
    if lengths.max() > 12:
        raise InputError("a compressed mask has a number that is too long")
    shifts = 5 * (np.arange(len(letters)) - np.repeat(begins, lengths))
    values = np.add.reduceat((letters & 31) << shifts, begins)
    values -= np.where(letters[ends] & 16 != 0, np.int64(1) << (5 * lengths), 0)
    # The differences run over every other number; the first and the third begin them anew.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def encode_text(counts: Ints) -> bytes:
    """COCO's compressed text of counts; the inverse of :func:`decode_text`."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    # A number takes as many groups as hold it with its sign: −2^(5k−1) ≤ value < 2^(5k−1).
    magnitude = np.where(values < 0, -values - 1, values)
    lengths = np.ones(len(values), np.int64)
    for groups in range(1, 8):
        lengths += magnitude >= np.int64(1) << (5 * groups - 1)
    begins = np.cumsum(lengths) - lengths
    place = np.arange(lengths.sum()) - np.repeat(begins, lengths)
    letters = (np.repeat(values, lengths) >> (5 * place)) & 31
    letters[place < np.repeat(lengths, lengths) - 1] |= 32
    return bytes((letters + 48).astype(np.uint8))


def from_polygons(rings: Sequence[npt.NDArray[np.float64]], owners: Ints, count: int, size_hw: tuple[int, int]) -> Runs:
    """``count`` masks from polygons, pixel by pixel as COCO's tools fill them.

    The edges are drawn on a grid of a fifth of a pixel; a column's pixels are inside between those of its crossings
    with the edges, each at the column's middle (the rule of COCO's mask API).

    Args:
        rings: of each polygon, (P, 2) x and y in pixels, P ≥ 3; may reach out of the image.
        owners: the mask of each polygon, in rising order; a mask is the union of its polygons.
        count: number of masks; those without a polygon are empty.
        size_hw: of the image.
    """
    height, width = size_hw
    if not len(rings):
        return Runs(np.zeros(0, np.uint32), np.zeros(count + 1, np.int64))
    grid = [np.trunc(np.clip(ring, -_LIMIT, _LIMIT) * _SUBPIXELS + 0.5).astype(np.int64) for ring in rings]
    begin, end = np.concatenate(grid), np.concatenate([np.roll(ring, -1, axis=0) for ring in grid])
    ring_of_edge = np.repeat(np.arange(len(rings)), [len(ring) for ring in grid])
    x, y, edge = _crossings(begin, end, width)
    keys = ring_of_edge[edge] * (MOST_PIXELS + 1) + x * height + np.clip(y, 0, height)
    keys = cancel_pairs(np.sort(keys))
    ring = keys // (MOST_PIXELS + 1)
    return union(pack(keys % (MOST_PIXELS + 1), ring, len(rings)), owners, count)


def _crossings(begin: Ints, end: Ints, width: int) -> tuple[Ints, Ints, Ints]:
    """Where edges on the fine grid cross the middles of columns: column, first row below, edge."""
    # Only edges that pass from one fine column to another cross anything. Each is drawn from left to right where it is
    # flat, and from top to bottom where it is steep, so that an edge and its reverse have the same points.
    steep = np.abs(end[:, 1] - begin[:, 1]) > np.abs(end[:, 0] - begin[:, 0])
    reverse = np.where(steep, begin[:, 1] > end[:, 1], begin[:, 0] > end[:, 0])
    low, high = np.where(reverse[:, None], end, begin), np.where(reverse[:, None], begin, end)
    delta = high - low
    long = np.where(steep, delta[:, 1], delta[:, 0])
    slope = np.where(steep, delta[:, 0], delta[:, 1]) / np.maximum(long, 1)
    # A coordinate far outside the image must not cost a point for each step to it: flat edges are cut to its columns.
    first = np.where(steep, 0, np.clip(-_SUBPIXELS - low[:, 0], 0, long))
    last = np.where(steep, long, np.clip(_SUBPIXELS * (width + 1) - low[:, 0], 0, long))
    points = np.where(delta[:, 0] != 0, np.maximum(last - first, 0) + 1, 0)
    edge = np.repeat(np.arange(len(low)), points)
    along = np.arange(points.sum()) - np.repeat(np.cumsum(points) - points - first, points)
    across = np.where(steep, low[:, 0], low[:, 1])[edge] + slope[edge] * along + 0.5
    across = np.trunc(across).astype(np.int64)
    along = along + np.where(steep, low[:, 1], low[:, 0])[edge]
    u, v = np.where(steep[edge], across, along), np.where(steep[edge], along, across)
    crosses = (edge[1:] == edge[:-1]) & (u[1:] != u[:-1])
    left, top = np.minimum(u[1:], u[:-1])[crosses], np.minimum(v[1:], v[:-1])[crosses]
    # The middle of pixel x lies between the fine columns 5x + 2 and 5x + 3.
    middle = (left % _SUBPIXELS == _SUBPIXELS // 2) & (left >= 0) & (left < _SUBPIXELS * width)
    row = np.ceil((top[middle] + 0.5) / _SUBPIXELS - 0.5).astype(np.int64)
    return left[middle] // _SUBPIXELS, row, edge[1:][crosses][middle]


def _joined(parts: Iterable[npt.NDArray[Any]]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts])
