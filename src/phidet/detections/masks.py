"""Masks of the objects in one image: which pixels belong to each, stored as run lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.detections import rle
from phidet.detections.fields import Column
from phidet.detections.rle import Ints, Runs

_PARTS = 3  # samples in either direction of a cell
FIELD = "masks"
"""Name of the field of :class:`~phidet.detections.detections.Detections` that holds them."""


class Masks(Column):
    """N masks of one image; immutable. Masks may overlap, and may be empty.

    Stored as the runs of :mod:`phidet.detections.rle`: 8 bytes for each column that an object covers, about 1 % of a
    full bool mask (``docs/decisions/0023-masks-as-runs.md``).

    Attributes:
        size_hw: of the image, in pixels.
        runs: what is stored.
    """

    __slots__ = ("runs", "size_hw")

    def __init__(self, runs: Runs, size_hw: tuple[int, int]) -> None:
        height, width = (int(side) for side in size_hw)
        if not (height >= 0 and width >= 0 and height * width <= rle.MOST_PIXELS):
            raise InputError(f"masks of {width}×{height} pixels: expected an image of at most 2³² pixels")
        if len(runs.bounds) and int(runs.bounds.max()) > height * width:
            raise InputError(f"a mask reaches out of its image of {width}×{height} pixels")
        for array in runs:
            array.flags.writeable = False
        self.runs, self.size_hw = runs, (height, width)

    # Ways in

    @classmethod
    def empty(cls, size_hw: tuple[int, int], count: int = 0) -> Masks:
        """``count`` masks without a pixel."""
        return cls(Runs(np.zeros(0, np.uint32), np.zeros(count + 1, np.int64)), size_hw)

    @classmethod
    def from_full(cls, masks: npt.NDArray[Any]) -> Masks:
        """From (N, H, W) of bool, or of numbers, where all but 0 belong to the object."""
        masks = np.asarray(masks)
        if masks.ndim != 3:
            raise InputError(f"expected masks (N, H, W), got shape {masks.shape}")
        size_hw = masks.shape[1], masks.shape[2]
        return cls.from_crops([(0, 0)] * len(masks), masks, size_hw)

    @classmethod
    def from_crops(
        cls, corners_xy: Iterable[tuple[int, int]], crops: Iterable[npt.NDArray[Any]], size_hw: tuple[int, int]
    ) -> Masks:
        """From pieces of the image, (h, w) each, whose upper left corners are given; what reaches out is cut."""
        height, width = size_hw
        bounds, owners = [], []
        for i, ((left, top), crop) in enumerate(zip(corners_xy, crops, strict=True)):
            x, y = max(-left, 0), max(-top, 0)
            inside = np.asarray(crop)[y : max(height - top, 0), x : max(width - left, 0)] != 0
            # Changes along each column, with nothing above and below it.
            padded = np.zeros((inside.shape[1], inside.shape[0] + 2), np.bool_)
            padded[:, 1:-1] = inside.T
            column, row = np.nonzero(padded[:, 1:] != padded[:, :-1])
            # A run that ends at the bottom goes on where the next one begins at the top.
            keys = rle.cancel_pairs((column + left + x) * height + row + top + y)
            bounds.append(keys)
            owners.append(np.full(len(keys), i))
        joined = [np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (bounds, owners)]
        return cls(rle.pack(joined[0], joined[1], len(bounds)), size_hw)

    @classmethod
    def from_ids(cls, image: npt.NDArray[Any], ids: Sequence[int] | npt.NDArray[Any]) -> Masks:
        """The pixels of (H, W) that hold each of ``ids``, which differ: an image of instances or of segments."""
        height, width = image.shape
        wanted = np.asarray(ids, np.int64)
        if len(np.unique(wanted)) < len(wanted):
            raise InputError("ids of masks must differ")
        # The image as runs of equal values, column by column; each run belongs to one mask or to none.
        flat = np.ascontiguousarray(image.T).reshape(-1)
        begins = np.concatenate([np.zeros(min(len(flat), 1), np.int64), 1 + np.flatnonzero(flat[1:] != flat[:-1])])
        ends = np.append(begins[1:], len(flat))[: len(begins)]
        order = np.argsort(wanted)
        place = np.minimum(np.searchsorted(wanted, flat[begins], sorter=order), max(len(wanted) - 1, 0))
        owner = order[place] if len(wanted) else np.zeros(len(begins), np.int64)
        kept = flat[begins] == wanted[owner] if len(wanted) else np.zeros(len(begins), np.bool_)
        by_owner = np.argsort(owner[kept], kind="stable")
        pairs = np.stack([begins[kept], ends[kept]], axis=1)[by_owner]
        runs = rle.pack(pairs.reshape(-1), np.repeat(owner[kept][by_owner], 2), len(wanted))
        return cls(runs, (height, width))

    @classmethod
    def from_polygons(cls, objects: Sequence[Sequence[npt.NDArray[Any]]], size_hw: tuple[int, int]) -> Masks:
        """From the polygons of each object, (P, 2) x and y in pixels each; filled exactly as COCO's tools fill them.

        Raises:
            InputError: a polygon of fewer than 3 corners, or with coordinates that are not finite.
        """
        rings = [np.asarray(ring, np.float64) for rings in objects for ring in rings]
        for ring in rings:
            if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3 or not np.isfinite(ring).all():
                raise InputError(f"expected polygons of at least 3 finite corners (P, 2), got shape {ring.shape}")
        owners = np.repeat(np.arange(len(objects)), [len(rings) for rings in objects])
        return cls(rle.from_polygons(rings, owners, len(objects), size_hw), size_hw)

    @classmethod
    def from_coco(cls, segmentations: Sequence[Any], size_hw: tuple[int, int]) -> Masks:
        """From what COCO's files hold under ``segmentation``: lists of polygons, counts, or compressed counts.

        Raises:
            InputError: something else, or a mask of another size.
        """
        # Each file may mix its three forms, so one by one.
        parts = [_from_coco(one, size_hw) for one in segmentations]
        return cls.empty(size_hw) if not parts else parts[0].joined(parts[1:])

    # The column

    def __len__(self) -> int:
        return len(self.runs.starts) - 1

    def __getitem__(self, index: Any) -> Masks:
        """Some of the masks; ``index`` as NumPy takes it for one dimension, but not a single number."""
        # NumPy itself says what an index means, and refuses what is none.
        rows = np.arange(len(self))[index]
        if rows.ndim != 1:
            raise InputError("masks are taken by slices, lists and masks, not one by one: use masks[i : i + 1]")
        values, starts = rle.take_ragged(self.runs.starts, rows)
        return Masks(Runs(self.runs.bounds[values], starts), self.size_hw)

    def __iter__(self) -> Iterator[Masks]:
        return (self[i : i + 1] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        same = np.array_equal(self.runs.starts, other.runs.starts) and self.size_hw == other.size_hw
        return same and np.array_equal(self.runs.bounds, other.runs.bounds)

    __hash__ = None

    def __reduce__(self) -> tuple[type[Masks], tuple[Runs, tuple[int, int]]]:
        return Masks, (self.runs, self.size_hw)

    def __repr__(self) -> str:
        height, width = self.size_hw
        return f"<Masks: {len(self)} of {width}×{height} pixels>"

    def joined(self, others: Sequence[Masks]) -> Masks:
        """These and the masks of others of the same image.

        Raises:
            InputError: masks of images of different sizes.
        """
        parts = [self, *others]
        if len({part.size_hw for part in parts}) > 1:
            raise InputError(f"masks of images of different sizes: {sorted({part.size_hw for part in parts})}")
        lengths = np.concatenate([np.diff(part.runs.starts) for part in parts])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return Masks(Runs(np.concatenate([part.runs.bounds for part in parts]), starts), self.size_hw)

    def to_list(self) -> list[dict[str, Any]]:
        """COCO's compressed masks as JSON holds them: ``{"size": [height, width], "counts": "…"}`` each."""
        counts = rle.to_counts(self.runs, self.size_hw)
        return [{"size": list(self.size_hw), "counts": rle.encode_text(one).decode("ascii")} for one in counts]

    # Measures

    @property
    def areas(self) -> Ints:
        """(N,) int64, pixels."""
        lengths = self._lengths()
        total = np.concatenate([[0], np.cumsum(lengths)])
        return np.diff(total[self.runs.starts // 2])

    @property
    def boxes_xyxy(self) -> npt.NDArray[np.float32]:
        """(N, 4) float32, the smallest box around each mask; zeros for an empty one."""
        height = max(self.size_hw[0], 1)
        first, last = self._pairs()
        # A run over several columns reaches the bottom of one and the top of the next.
        wraps = first // height != last // height
        columns = (
            (np.minimum, first // height),
            (np.minimum, np.where(wraps, 0, first % height)),
            (np.maximum, last // height + 1),
            (np.maximum, np.where(wraps, height, last % height + 1)),
        )
        # reduceat has no answer for an empty mask, so only the others are asked.
        boxes = np.zeros((len(self), 4), np.float32)
        full = np.diff(self.runs.starts) > 0
        at = self.runs.starts[:-1][full] // 2
        if len(at):
            for i, (reduce, values) in enumerate(columns):
                boxes[full, i] = reduce.reduceat(values, at)
        return boxes

    def intersections(self, other: Masks) -> Ints:
        """(N, M) int64, pixels that each mask has in common with each of M others."""
        if self.size_hw != other.size_hw:
            raise InputError(f"masks of images of different sizes: {self.size_hw} and {other.size_hw}")
        common = np.zeros((len(self), len(other)), np.int64)
        ours, theirs = self.boxes_xyxy, other.boxes_xyxy
        for i in range(len(self)):
            bounds = self.runs.bounds[self.runs.starts[i] : self.runs.starts[i + 1]].astype(np.int64)
            near = np.flatnonzero((theirs[:, :2] < ours[i, 2:]).all(1) & (theirs[:, 2:] > ours[i, :2]).all(1))
            if not (len(bounds) and len(near)):
                continue
            # How many of our pixels lie before each of their bounds: whole runs, and a part of one.
            values, starts = rle.take_ragged(other.runs.starts, near)
            at = other.runs.bounds[values].astype(np.int64)
            place = np.searchsorted(bounds, at, side="right")
            before = np.concatenate([[0], np.cumsum(bounds[1::2] - bounds[::2])])[place // 2]
            before += np.where(place % 2 == 1, at - bounds[np.maximum(place - 1, 0)], 0)
            common[i, near] = np.add.reduceat(before[1::2] - before[::2], starts[:-1] // 2)
        return common

    def iou(self, other: Masks) -> npt.NDArray[np.float64]:
        """(N, M) intersection over union of pixels; 0 where both are empty."""
        common = self.intersections(other)
        union = self.areas[:, None] + other.areas[None] - common
        return np.asarray(common / np.maximum(union, 1), np.float64)

    # Pixels

    def crops(self) -> Iterator[tuple[tuple[int, int, int, int], npt.NDArray[np.bool_]]]:
        """Of each mask the smallest box around it, (x1, y1, x2, y2), and the (h, w) bool pixels in it."""
        height = max(self.size_hw[0], 1)
        boxes = self.boxes_xyxy.astype(np.int64)
        first, last = self._pairs()
        owners = self.runs.owners[::2]
        left, top = boxes[owners, 0], boxes[owners, 1]
        inner = boxes[owners, 3] - top
        # Indices in the box instead of the image. A run over several columns has a box as high as the image.
        begins = (first // height - left) * inner + first % height - top
        ends = (last // height - left) * inner + last % height - top + 1
        flat = np.stack([begins, ends], axis=1).reshape(-1)
        for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            bounds = flat[self.runs.starts[i] : self.runs.starts[i + 1]]
            lengths = np.diff(bounds, prepend=0, append=(x2 - x1) * (y2 - y1))
            values = np.zeros(len(lengths), np.bool_)
            values[1::2] = True
            yield (x1, y1, x2, y2), np.repeat(values, lengths).reshape(x2 - x1, y2 - y1).T

    def to_full(self, size_hw: tuple[int, int] | None = None) -> npt.NDArray[np.bool_]:
        """(N, H, W) bool: N full images, which may take much memory; scaled to the nearest pixel if a size is given."""
        height, width = size_hw = self.size_hw if size_hw is None else size_hw
        rows, columns = (nearest(own, wanted) for own, wanted in zip(self.size_hw, (height, width), strict=True))
        return self.sampled(rows, columns)

    def sampled(self, rows: Ints, columns: Ints) -> npt.NDArray[np.bool_]:
        """(N, len(rows), len(columns)) bool, the pixels at these rows and columns; False outside the image.

        Scaling, flipping and cropping are a choice of rows and columns, so that no full mask is made for them.
        """
        full = np.zeros((len(self), len(rows), len(columns)), np.bool_)
        for out, ((x1, y1, x2, y2), crop) in zip(full, self.crops(), strict=True):
            at = [np.flatnonzero((place >= low) & (place < high)) for place, low, high in
                  ((rows, y1, y2), (columns, x1, x2))]  # fmt: skip
            if len(at[0]) and len(at[1]):
                out[np.ix_(*at)] = crop[np.ix_(rows[at[0]] - y1, columns[at[1]] - x1)]
        return full

    def in_boxes(self, boxes_xyxy: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
        """(N, side, side) float32, the share of the object in each cell of a grid over its box, as in TensorFlow.

        Args:
            boxes_xyxy: (N, 4) in pixels of the image.
            side: cells in either direction.
        """
        # Nine samples of each cell give its share, without scaling the mask.
        grid = np.zeros((len(self), side, side), np.float32)
        steps = (np.arange(_PARTS * side) + 0.5) / (_PARTS * side)
        for out, ((left, top, right, bottom), crop), box in zip(grid, self.crops(), boxes_xyxy, strict=True):
            x1, y1, x2, y2 = box.tolist()
            columns = np.floor(x1 + steps * (x2 - x1)).astype(np.int64)
            rows = np.floor(y1 + steps * (y2 - y1)).astype(np.int64)
            inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
            if inside.any():
                at = np.ix_(np.clip(rows - top, 0, bottom - top - 1), np.clip(columns - left, 0, right - left - 1))
                out[:] = (crop[at] & inside).reshape(side, _PARTS, side, _PARTS).mean((1, 3))
        return grid

    def moved(self, offset_xy: tuple[int, int], size_hw: tuple[int, int]) -> Masks:
        """In an image of ``size_hw`` in which the upper left corner of this one is at ``offset_xy``; cut to it."""
        (old, _), (height, width) = self.size_hw, size_hw
        first, last = self._pairs()
        # One run for each column, as only within a column it stays one when rows are cut.
        columns = last // max(old, 1) - first // max(old, 1) + 1
        run = np.repeat(np.arange(len(first)), columns)
        number = np.arange(len(run)) - np.repeat(np.cumsum(columns) - columns, columns)
        x = first[run] // max(old, 1) + number
        top = np.where(number == 0, first[run] % max(old, 1), 0)
        bottom = np.where(number == columns[run] - 1, last[run] % max(old, 1) + 1, old)
        x, top, bottom = x + offset_xy[0], np.maximum(top + offset_xy[1], 0), np.minimum(bottom + offset_xy[1], height)
        kept = (x >= 0) & (x < width) & (top < bottom)
        pairs = (np.stack([top, bottom], axis=1) + (x * height)[:, None])[kept]
        span = rle.MOST_PIXELS + 1
        keys = rle.cancel_pairs((pairs + (self.runs.owners[::2][run][kept] * span)[:, None]).reshape(-1))
        return Masks(rle.pack(keys % span, keys // span, len(self)), size_hw)

    def union(self, groups: Sequence[int] | Ints, count: int) -> Masks:
        """``count`` masks, the union of those of each group; ``groups`` has the group of every mask, 0…count−1."""
        return Masks(rle.union(self.runs, np.asarray(groups, np.int64), count), self.size_hw)

    def to_ids(
        self, ids: Sequence[int] | Ints | None = None, background: int = 0, dtype: npt.DTypeLike = np.int32
    ) -> npt.NDArray[Any]:
        """(H, W), the id of the mask that covers each pixel, the first one where several do.

        Args:
            ids: of the masks; 1, 2, … unless given.
            background: value of pixels that no mask covers.
            dtype: a type of whole numbers that holds the ids.
        """
        values = (np.arange(1, len(self) + 1) if ids is None else np.asarray(ids)).tolist()
        image = np.full((self.size_hw[1], self.size_hw[0]), background, dtype)
        flat = image.reshape(-1)
        bounds = self.runs.bounds.reshape(-1, 2)
        # Written run by run from the last mask to the first, so that the first ones lie on top.
        for (begin, end), owner in zip(bounds[::-1].tolist(), self.runs.owners[::-2].tolist(), strict=True):
            flat[begin:end] = values[owner]
        return image.T

    def _pairs(self) -> tuple[Ints, Ints]:
        """The first and the last index of every run."""
        bounds = self.runs.bounds.astype(np.int64)
        return bounds[::2], bounds[1::2] - 1

    def _lengths(self) -> Ints:
        first, last = self._pairs()
        return last - first + 1


def nearest(side: int, wanted: int) -> Ints:
    """(wanted,) int64, for each pixel along a scaled side the pixel of the original side under its middle."""
    return np.minimum(((np.arange(wanted) + 0.5) * (side / max(wanted, 1))).astype(np.int64), max(side - 1, 0))


def _from_coco(value: Any, size_hw: tuple[int, int]) -> Masks:
    """One mask from COCO's ``segmentation``."""
    if isinstance(value, Mapping):
        try:
            height, width = (int(side) for side in value["size"])
            counts = value["counts"]
            text = counts.encode("ascii") if isinstance(counts, str) else counts
            lengths = rle.decode_text(text) if isinstance(text, bytes) else np.asarray(text, np.int64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"expected a mask with size and counts, got {error}") from error
        if (height, width) != tuple(size_hw):
            raise InputError(f"a mask has {width}×{height} pixels, its image {size_hw[1]}×{size_hw[0]}")
        return Masks(rle.from_counts([lengths], [size_hw]), size_hw)
    try:
        rings = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in value]
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a list of polygons [x1, y1, x2, y2, …], got {error}") from error
    return Masks.from_polygons([rings], size_hw)
