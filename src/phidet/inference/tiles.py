"""Sliced inference: a large image as overlapping tiles and as a whole, so that small objects reach the network large.

Every box is kept with the tile that it was detected in. Two boxes are one object if they agree in the intersection of
their tiles: if their parts there have at least the IoU of the suppression. So a person cut by a tile's border is
matched with the complete one in the next tile or in the whole image, and two halves without a complete one are joined;
a child in front of an adult is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import ConfigError
from phidet.detections.boxes import area, elementwise_iou
from phidet.detections.detections import Detections
from phidet.detections.fields import Fields, Values, join_fields, take_fields
from phidet.detections.masks import FIELD as MASKS
from phidet.detections.masks import Masks
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.images.decode import ImageLike, as_pixels

OVERLAP = 0.25  # minimum share of a tile's side that its neighbour covers too
SMALLEST = 64  # pixels
_NEAR_BORDER = 0.015  # of a tile's side: a box that ends this near to a tile's border is taken as cut by it
_COVERED = 0.8  # minimum share of a part's area inside another box
_MOST_CELLS = 256  # in either direction of the grid used to find nearby boxes

Rect = tuple[int, int, int, int]  # x1, y1, x2, y2
Pixels = npt.NDArray[np.uint8]


class TileDetections(NamedTuple):
    """N boxes with the tiles that they come from.

    Attributes:
        boxes_xyxy: (N, 4) float64 in pixels of the whole image.
        scores: (N,) float64.
        class_ids: (N,) int64.
        rects_xyxy: (N, 4) float64, the tile, in pixels of the whole image.
        cut: (N,) bool, the box ends at a border of its tile that is inside the image.
        rows: (N,) int64, index among the detections of all tiles, from which the fields are taken.
        parts: (N,) object, tuples of such indices: what the box was joined from, whose masks make up the object's.
    """

    boxes_xyxy: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    class_ids: npt.NDArray[np.int64]
    rects_xyxy: npt.NDArray[np.float64]
    cut: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.int64]
    parts: npt.NDArray[np.object_]


def tile_rects(size_hw: tuple[int, int], tile: int, overlap: float = OVERLAP) -> list[Rect]:
    """Tiles of ``tile`` pixels a side (less where the image is smaller) that cover the image, evenly spaced.

    Neighbours share at least ``overlap`` of a side.
    """
    rows, columns = (_starts(length, tile, overlap) for length in size_hw)
    height, width = size_hw
    return [(x, y, min(x + tile, width), min(y + tile, height)) for y in rows for x in columns]


def detect_tiled(
    detector: SupportsDetect, image: ImageLike, tile: int, settings: PostprocessSettings | None = None, batch: int = 4
) -> Detections:
    """Detects objects in the whole ``image`` and tile by tile; only in the whole if it fits one tile.

    Args:
        detector: a :class:`~phidet.inference.detector.Detector`.
        image: a path, a PIL image, or (H, W, 3) uint8 RGB.
        tile: side of the tiles in pixels; with about the model's input size an object is as large for the model as
            in the image.
        settings: of each tile and of the whole; ``iou`` and ``per_class`` decide which boxes of different tiles are one
            object, and ``max_detections`` limits the result.
        batch: number of tiles that go through the network at once.

    Raises:
        ConfigError: tiles below 64 pixels, batches below 1, or no suppression: duplicates could not be merged.
        InputError: an image that cannot be read, or an array of another shape or dtype.
    """
    settings = settings or PostprocessSettings()
    check_tile(tile, settings)
    if not (isinstance(batch, int | np.integer) and batch >= 1):
        raise ConfigError(f"expected a batch of at least 1 tile, got {batch!r}")
    image = as_pixels(image)
    height, width = image.shape[:2]
    whole = detector.detect([image], settings)[0]
    if max(height, width) <= tile:
        return whole
    # max_detections limits the merged result, so a low limit must not already cut the single tiles.
    each = msgspec.structs.replace(settings, max_detections=max(settings.max_detections, 100))
    rects = tile_rects((height, width), tile)
    found = [whole]
    seen = [_seen(whole, (0, 0, width, height), (height, width))]
    for start in range(0, len(rects), batch):
        group = rects[start : start + batch]
        parts = [np.ascontiguousarray(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in group]
        tiles = detector.detect(parts, each)
        found += tiles
        seen += [_seen(f, rect, (height, width)) for f, rect in zip(tiles, group, strict=True)]
    merged = merge(_concatenate(seen), settings.iou, settings.per_class)
    fields = _merged_fields(found, merged, [(0, 0), *(rect[:2] for rect in rects)], (height, width))
    boxes, scores = merged.boxes_xyxy.astype(np.float32), merged.scores.astype(np.float32)
    objects = Detections(boxes, scores, merged.class_ids, whole.names, (height, width), fields, whole.segments)
    return objects[: settings.max_detections]


def detect_one(
    detector: SupportsDetect, image: Pixels, tile: int | None, settings: PostprocessSettings, batch: int = 4
) -> Detections:
    """Detects objects in one image, (H, W, 3) uint8 RGB; also tile by tile unless ``tile`` is ``None``."""
    if tile is None:
        return detector.detect([image], settings)[0]
    return detect_tiled(detector, image, tile, settings, batch)


def check_tile(tile: int | None, settings: PostprocessSettings) -> None:
    """Raises ConfigError unless tiles, where there are any, may have that side, and suppression can merge them."""
    if tile is None:
        return
    if settings.nms == "none":
        raise ConfigError("tiles overlap, so what they see is merged: use hard or soft suppression, or no tiles")
    if not (isinstance(tile, int | np.integer) and tile >= SMALLEST):
        raise ConfigError(f"expected tiles of at least {SMALLEST} pixels, got {tile!r}")


def merge(seen: TileDetections, iou: float, per_class: bool = True) -> TileDetections:
    """Each object once: complete boxes are preferred to cut ones, then higher scores; parts are joined.

    A cut box inside another box of its class is the same object; a small object that another tile shows whole is not
    cut there, and so is not lost.
    """
    while True:
        kept = _merged_once(seen, iou, per_class)
        if len(kept.scores) == len(seen.scores):
            return kept
        seen = kept  # a joined box may match one that neither part matched


def _merged_once(seen: TileDetections, iou: float, per_class: bool) -> TileDetections:
    seen = _rows(seen, np.lexsort((-seen.scores, seen.cut)))
    places = _Places(seen)
    count = 0  # rows before this are kept, the others are not processed yet
    for i in range(len(seen.scores)):
        one = _rows(seen, slice(i, i + 1))
        near = places.near(one)
        kept = _rows(seen, near)
        same = _same_object(one, kept, iou)
        if per_class:
            same &= kept.class_ids == one.class_ids
        if same.any():
            at = int(near[same.argmax()])
            _join(seen, at, one)
            places.put(at, seen.boxes_xyxy[at])
        else:
            # Kept rows are compacted to the front of the same arrays, which is safe as count ≤ i.
            for column in seen:
                column[count] = column[i]
            places.put(count, seen.boxes_xyxy[count])
            count += 1
    return _rows(seen, slice(0, count))


class _Places:
    """A grid over the kept boxes, so that each box is compared only with those near it."""

    def __init__(self, seen: TileDetections) -> None:
        sides = (seen.boxes_xyxy[:, 2:] - seen.boxes_xyxy[:, :2]).max(axis=1, initial=1.0)
        extent = float(seen.boxes_xyxy.max(initial=1.0))
        self._side = max(2 * float(np.median(sides)) if len(sides) else 1.0, extent / _MOST_CELLS)
        self._cells: dict[tuple[int, int], list[int]] = defaultdict(list)

    def put(self, row: int, box_xyxy: npt.NDArray[np.float64]) -> None:
        """Enters the box of that row, again if it has grown."""
        for cell in self._of(box_xyxy):
            if row not in self._cells[cell][-1:]:
                self._cells[cell].append(row)

    def near(self, one: TileDetections) -> npt.NDArray[np.int64]:
        """Rows of boxes that may intersect the one, grown by the slack, in rising order."""
        slack = _slack(one)[0]
        grown = one.boxes_xyxy[0] + np.concatenate([-slack, slack])
        rows = {row for cell in self._of(grown) for row in self._cells.get(cell, ())}
        return np.array(sorted(rows), np.int64)

    def _of(self, box_xyxy: npt.NDArray[np.float64]) -> Iterator[tuple[int, int]]:
        x1, y1, x2, y2 = (int(value // self._side) for value in box_xyxy)
        return product(range(x1, x2 + 1), range(y1, y2 + 1))


def _slack(one: TileDetections) -> npt.NDArray[np.float64]:
    """(1, 2) pixels of tolerance for inexact boxes."""
    return _NEAR_BORDER * (one.rects_xyxy[:, 2:] - one.rects_xyxy[:, :2])


def _rows(seen: TileDetections, rows: slice | npt.NDArray[np.int64]) -> TileDetections:
    columns: tuple[npt.NDArray[Any], ...] = seen
    return TileDetections(*(column[rows] for column in columns))


def _same_object(one: TileDetections, others: TileDetections, iou: float) -> npt.NDArray[np.bool_]:
    """(N,) whether the one box is the same object as each of N others."""
    both = _intersection(others.rects_xyxy, one.rects_xyxy)
    ious = elementwise_iou(_intersection(others.boxes_xyxy, both), _intersection(both, one.boxes_xyxy), "iou")
    slack = _slack(one)  # tolerance by which the other box is enlarged
    grown = others.boxes_xyxy + np.concatenate([-slack, slack], axis=1)
    inside = area(_intersection(grown, one.boxes_xyxy)) > _COVERED * area(one.boxes_xyxy)
    return (ious > iou) | (one.cut & inside)


def _join(kept: TileDetections, at: int, other: TileDetections) -> None:
    """Joins two boxes of one object: a complete one is kept, two parts become their hull. The better score is used."""
    if other.scores[0] > kept.scores[at]:
        kept.scores[at], kept.rows[at] = other.scores[0], other.rows[0]
    if kept.cut[at]:
        kept.parts[at] += other.parts[0]
        for ours, theirs in ((kept.boxes_xyxy, other.boxes_xyxy), (kept.rects_xyxy, other.rects_xyxy)):
            ours[at] = np.concatenate(
                [np.minimum(ours[at, :2], theirs[0, :2]), np.maximum(ours[at, 2:], theirs[0, 2:])]
            )


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    if length <= tile:
        return [0]
    count = int(np.ceil((length - tile) / (tile * (1 - overlap)))) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _seen(found: Detections, rect: Rect, size_hw: tuple[int, int]) -> TileDetections:
    """The detections of one tile, in pixels of the whole image."""
    x1, y1, x2, y2 = rect
    boxes = found.boxes_xyxy.astype(np.float64) + np.array([x1, y1, x1, y1])
    near_x, near_y = _NEAR_BORDER * (x2 - x1), _NEAR_BORDER * (y2 - y1)
    at_borders = [
        (x1 > 0) & (boxes[:, 0] < x1 + near_x),
        (y1 > 0) & (boxes[:, 1] < y1 + near_y),
        (x2 < size_hw[1]) & (boxes[:, 2] > x2 - near_x),
        (y2 < size_hw[0]) & (boxes[:, 3] > y2 - near_y),
    ]
    rects = np.tile(np.array(rect, np.float64), (len(found), 1))
    cut, rows = np.logical_or.reduce(at_borders), np.arange(len(found))
    parts = np.empty(len(found), np.object_)
    return TileDetections(boxes, found.scores.astype(np.float64), found.class_ids, rects, cut, rows, parts)


def _concatenate(parts: Sequence[TileDetections]) -> TileDetections:
    """The detections of all tiles, numbered consecutively."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    rows = np.arange(len(columns[0]))
    alone = np.empty(len(rows), np.object_)
    alone[:] = [(row,) for row in rows.tolist()]
    return TileDetections(*columns)._replace(rows=rows, parts=alone)


def _merged_fields(
    found: Sequence[Detections], merged: TileDetections, corners_xy: Sequence[tuple[int, int]], size_hw: tuple[int, int]
) -> dict[str, Values]:
    """The fields of the merged objects: of each the row of its best part, but of masks the union of all parts."""
    placed: list[tuple[Fields, int]] = []
    for one, corner in zip(found, corners_xy, strict=True):
        moved = {} if one.masks is None else {MASKS: one.masks.moved(corner, size_hw)}
        placed.append(({**one.fields, **moved}, len(one)))
    joined = join_fields(placed)
    fields = take_fields(joined, merged.rows)
    if isinstance(masks := joined.get(MASKS), Masks):
        groups = np.repeat(np.arange(len(merged.parts)), [len(part) for part in merged.parts])
        rows = np.array([row for part in merged.parts for row in part], np.int64)
        fields[MASKS] = masks[rows].union(groups, len(merged.parts))
    return fields


def _intersection(a_xyxy: npt.NDArray[np.float64], b_xyxy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersections of rectangles; an empty one (area 0) if they do not intersect."""
    corners = np.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    return np.concatenate([corners, np.maximum(corners, np.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]))], axis=-1)
