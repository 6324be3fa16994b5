"""Sliced inference with a detector that knows where the objects are, and sees of them what a tile shows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phidet.core.errors import ConfigError, InputError
from phidet.detections.boxes import area, pairwise_iou
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.inference import tiles
from phidet.inference.tiles import OVERLAP, TileDetections, detect_tiled, merge, tile_rects

Box = tuple[float, float, float, float]
NAMES = ("person", "dog")
seeds = st.integers(0, 2**32 - 1)


class Oracle:
    """Finds in a tile the part of each object that the tile shows, if that is large and not a mere sliver.

    The image's pixels say where the tile lies: red and green are the column and the row in units of 8 pixels.
    """

    def __init__(self, *objects: tuple[Box, int], smallest: float = 20, wobble: float = 0.0) -> None:
        self.objects, self.smallest, self.wobble = objects, smallest, wobble
        self.rng = np.random.default_rng(0)
        self.largest_batch = self.looks = 0

    def detect(
        self, arrays: Sequence[npt.NDArray[np.uint8]], settings: PostprocessSettings | None = None
    ) -> list[Detections]:
        self.largest_batch = max(self.largest_batch, len(arrays))
        self.looks += len(arrays)
        return [self._one(array) for array in arrays]

    def _one(self, array: npt.NDArray[np.uint8]) -> Detections:
        height, width = array.shape[:2]
        left, top = self._corner(array)
        shrink = max(1.0, max(height, width) / 512)  # what the model's input of 512 makes of it
        boxes, scores, class_ids = [], [], []
        for box, class_id in self.objects:
            x1, x2 = (float(np.clip(v - left, 0, width)) for v in (box[0], box[2]))
            y1, y2 = (float(np.clip(v - top, 0, height)) for v in (box[1], box[3]))
            shown = (x2 - x1) * (y2 - y1) / ((box[2] - box[0]) * (box[3] - box[1]))
            if min(x2 - x1, y2 - y1) / shrink < self.smallest or shown < 0.15:
                continue
            jitter = self.rng.normal(0, self.wobble * shrink, 4)
            x1, y1, x2, y2 = np.clip(np.array([x1, y1, x2, y2]) + jitter, 0, [width, height] * 2)
            boxes.append((x1, y1, max(x1, x2), max(y1, y2)))
            scores.append(0.5 + 0.4 * shown)
            class_ids.append(class_id)
        return Detections(
            np.array(boxes).reshape(-1, 4), np.array(scores), np.array(class_ids, np.int64), NAMES, (height, width)
        )

    def _corner(self, array: npt.NDArray[np.uint8]) -> tuple[int, int]:
        across, down, fine = array[0, 0].tolist()
        return across * 8 + fine % 16, down * 8 + fine // 16


def picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Every pixel knows its place."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x // 8, y // 8, x % 8 + y % 8 * 16], axis=-1).astype(np.uint8)


def same(found: Detections, *objects: tuple[Box, int], iou: float = 0.999) -> None:
    """Each object once, and nothing else."""
    assert len(found) == len(objects)
    for box, class_id in objects:
        ious = pairwise_iou(np.array([box]), found.boxes_xyxy)[0]
        best = int(ious.argmax())
        assert ious[best] >= iou
        assert found.class_ids[best] == class_id


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(64, 1000))
def test_tiles_cover_the_image_and_neighbours_share_enough(height: int, width: int, tile: int) -> None:
    rects = tile_rects((height, width), tile)
    assert all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for x1, y1, x2, y2 in rects)
    assert all(x2 - x1 == min(tile, width) and y2 - y1 == min(tile, height) for x1, y1, x2, y2 in rects)
    for low, high, length in ((0, 2, width), (1, 3, height)):
        spans = sorted({(r[low], r[high]) for r in rects})
        assert (spans[0][0], spans[-1][1]) == (0, length)
        for (_, end), (start, _) in pairwise(spans):
            assert end - start >= OVERLAP * tile - 1  # whole pixels


def test_an_object_cut_by_borders_is_the_one_that_a_neighbour_shows_whole() -> None:
    rects = tile_rects((600, 1400), 512)
    border = rects[0][2]
    cut = ((border - 60.0, 200.0, border + 40.0, 300.0), 0)
    same(detect_tiled(Oracle(cut), picture(600, 1400), 512), cut)


def test_a_sliver_at_a_border_goes_even_where_the_whole_box_is_a_few_pixels_off() -> None:
    class Off(Oracle):
        """Sees what the whole image or another tile shows 4 pixels too far down."""

        def _one(self, array: npt.NDArray[np.uint8]) -> Detections:
            found = super()._one(array)
            whole = (found.boxes_xyxy[:, 3] < array.shape[0]).astype(np.float32)
            moved = found.boxes_xyxy + 4 * whole[:, None] * np.array([0, 1, 0, 1], np.float32)
            return Detections(moved, found.scores, found.class_ids, NAMES, found.image_size_hw)

    below = tile_rects((709, 1364), 346)[5][3]  # where the second row of tiles ends
    low = ((134.0, below - 8.0, 193.0, below + 28.0), 0)
    same(detect_tiled(Off(low, smallest=0.0), picture(709, 1364), 346), low, iou=0.7)


def test_an_object_that_no_tile_shows_whole_is_what_the_whole_image_shows() -> None:
    wide = ((100.0, 100.0, 1300.0, 500.0), 1)
    found = detect_tiled(Oracle(wide), picture(600, 1400), 512)
    same(found, wide)
    assert found.scores[0] == pytest.approx(0.9)


def test_parts_that_nobody_saw_whole_are_joined_across_several_tiles() -> None:
    class NearSighted(Oracle):
        """Does not see the object in the whole image."""

        def _one(self, array: npt.NDArray[np.uint8]) -> Detections:
            return Detections.empty(NAMES) if array.shape[1] > 512 else super()._one(array)

    long = ((80.0, 200.0, 1350.0, 300.0), 0)
    found = detect_tiled(NearSighted(long), picture(500, 1400), 512)
    same(found, long)


def test_small_objects_are_found_where_the_whole_image_shows_them_too_small() -> None:
    small = [((x, y, x + 24.0, y + 30.0), 0) for x in (30.0, 500.0, 990.0, 1500.0) for y in (20.0, 700.0)]
    oracle = Oracle(*small)
    assert len(oracle.detect([picture(1000, 1600)])[0]) == 0
    same(detect_tiled(oracle, picture(1000, 1600), 512), *small)


def test_a_small_one_before_a_large_one_stays_also_at_a_border() -> None:
    border = tile_rects((600, 1400), 512)[0][2]
    large = ((border - 250.0, 50.0, border + 250.0, 550.0), 0)
    small = ((border - 40.0, 300.0, border + 40.0, 400.0), 0)
    same(detect_tiled(Oracle(large, small), picture(600, 1400), 512), large, small)


def test_classes_are_apart_unless_suppression_is_across_them() -> None:
    one, other = ((100.0, 100.0, 200.0, 200.0), 0), ((102.0, 100.0, 202.0, 200.0), 1)
    image = picture(600, 1400)
    same(detect_tiled(Oracle(one, other), image, 512), one, other)
    agnostic = detect_tiled(Oracle(one, other), image, 512, PostprocessSettings(per_class=False))
    assert len(agnostic) == 1


def test_one_tile_is_the_whole_image_and_costs_one_look() -> None:
    oracle = Oracle(((10.0, 10.0, 100.0, 100.0), 0))
    image = picture(400, 500)
    assert detect_tiled(oracle, image, 512) == oracle.detect([image])[0]
    assert oracle.looks == 2  # one of them the line above


def test_tiles_come_in_batches_and_the_limit_holds_for_all_together() -> None:
    many = [((x, y, x + 40.0, y + 40.0), 0) for x in range(10, 1300, 60) for y in range(10, 900, 60)]
    oracle = Oracle(*many)
    found = detect_tiled(oracle, picture(1000, 1400), 512, PostprocessSettings(max_detections=200), batch=3)
    assert oracle.largest_batch == 3
    assert len(found) == 200
    for tile, batch, says in (
        (320.5, 4, r"at least 64 pixels, got 320\.5"),
        (320, 0, "a batch of at least 1 tile, got 0"),
    ):
        with pytest.raises(ConfigError, match=says):
            detect_tiled(oracle, picture(1000, 1400), tile, batch=batch)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 64 pixels, got 10"):
        detect_tiled(oracle, picture(10, 10), 10)
    with pytest.raises(ConfigError, match="use hard or soft suppression, or no tiles"):
        detect_tiled(oracle, picture(10, 10), 64, PostprocessSettings(nms="none"))
    with pytest.raises(InputError, match=r"there is no image at nowhere\.png"):
        detect_tiled(oracle, "nowhere.png", 64)


@pytest.mark.repeated
@settings(max_examples=40)
@given(seeds)
def test_every_object_once_wherever_the_borders_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(300, 1500, 2))
    objects: list[tuple[Box, int]] = []
    for _ in range(60):
        w, h = rng.uniform(30, 400, 2)
        x, y = rng.uniform(0, max(1, width - w)), rng.uniform(0, max(1, height - h))
        box = (x, y, min(x + w, float(width)), min(y + h, float(height)))
        boxes = np.array([b for b, _ in objects] + [box])
        common = pairwise_iou(boxes, boxes)[-1, :-1]
        if area(boxes)[-1] > 900 and (not len(common) or common.max() == 0):  # apart, so that each is seen as it is
            objects.append((box, int(rng.integers(2))))
    oracle = Oracle(*objects, smallest=0.0, wobble=1.0)
    found = detect_tiled(oracle, picture(height, width), int(rng.integers(256, 700)))
    same(found, *objects, iou=0.6)


@pytest.mark.repeated
@given(seeds, st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.booleans())
def test_boxes_that_are_looked_up_by_place_merge_as_if_each_was_compared_with_all(
    seed: int, iou: float, per_class: bool
) -> None:
    rng = np.random.default_rng(seed)
    count, size = int(rng.integers(0, 120)), float(rng.integers(100, 3000))
    centres, sides = rng.uniform(0, size, (count, 2)), rng.uniform(1, size * rng.random() + 2, (count, 2))
    corners = rng.integers(0, 8, (count, 2)) * 240.0
    parts = np.empty(count, object)
    parts[:] = [(row,) for row in range(count)]
    seen = TileDetections(
        np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).clip(0, size),
        rng.uniform(0, 1, count),
        rng.integers(0, 3, count),
        np.concatenate([corners, corners + 320], axis=1),
        rng.random(count) < 0.4,
        np.arange(count),
        parts,
    )
    fast = merge(TileDetections(*(column.copy() for column in seen)), iou, per_class)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_Places", Everywhere)
        slow = merge(TileDetections(*(column.copy() for column in seen)), iou, per_class)
    for ours, theirs in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Everywhere:
    """All kept boxes are near."""

    def __init__(self, seen: TileDetections) -> None:
        self.count = 0

    def put(self, row: int, box_xyxy: npt.NDArray[np.float64]) -> None:
        self.count = max(self.count, row + 1)

    def near(self, one: TileDetections) -> npt.NDArray[np.int64]:
        return np.arange(self.count)
