"""Masks as run lengths: equal to COCO's tools and to full arrays, whatever is done to them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as peer

from blobs import BlobDetector, painted
from phidet.core.errors import InputError
from phidet.detections import rle
from phidet.detections.detections import Detections
from phidet.detections.masks import Masks, nearest
from phidet.detections.outlines import outlines, single_outlines
from phidet.detections.settings import PostprocessSettings
from phidet.inference.tiles import detect_tiled

Full = npt.NDArray[np.bool_]
SEEDS = st.integers(0, 2**32 - 1)


def some(seed: int, most: int = 5, side: int = 14) -> Full:
    """Random masks of one image: empty, full, noisy, and in pieces that touch at corners and borders."""
    rng = np.random.default_rng(seed)
    count, height, width = rng.integers(0, most + 1), *rng.integers(1, side, 2)
    return rng.random((count, height, width)) < rng.choice([0, 0.1, 0.5, 0.9, 1], (count, 1, 1))


# ---- COCO's code


@given(SEEDS)
def test_text_counts_areas_and_boxes_are_those_of_cocos_tools(seed: int) -> None:
    full = some(seed)
    masks = Masks.from_full(full)
    theirs = [peer.encode(np.asfortranarray(one.astype(np.uint8))) for one in full]
    assert [row["counts"].encode() for row in masks.to_list()] == [one["counts"] for one in theirs]
    assert [row["size"] for row in masks.to_list()] == [one["size"] for one in theirs]
    assert masks.areas.tolist() == [int(peer.area(one)) for one in theirs]
    for box, one in zip(masks.boxes_xyxy.tolist(), theirs, strict=True):
        x, y, w, h = peer.toBbox(one).tolist()
        assert box == [x, y, x + w, y + h]
    size_hw = full.shape[1], full.shape[2]
    counts = [{"size": size_hw, "counts": one.tolist()} for one in rle.to_counts(masks.runs, size_hw)]
    assert Masks.from_coco(counts, size_hw) == Masks.from_coco(theirs, size_hw) == masks
    assert np.array_equal(masks.to_full(), full)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=30))
def test_the_text_of_any_numbers_is_theirs_and_reads_back(values: list[int]) -> None:
    counts = np.abs(np.array(values, np.int64))
    text = rle.encode_text(counts)
    assert rle.decode_text(text).tolist() == counts.tolist()
    total = int(counts.sum())
    # Their buffer has six letters for a number and ends with a zero; a seventh would be written behind it.
    if 0 < total < 2**31 and len(text) < 6 * len(values):
        wanted = peer.frPyObjects({"size": [total, 1], "counts": counts.tolist()}, total, 1)["counts"]
        assert text == wanted


@given(SEEDS, st.sampled_from(["whole", "tenths", "repeated", "far", "any"]))
def test_polygons_are_filled_as_by_cocos_tools(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 40, 2))
    rings = [rng.random((rng.integers(3, 9), 2)) * [width, height] * 1.6 - [5, 5] for _ in range(rng.integers(1, 4))]
    for ring in rings:
        ring[:] = {"whole": np.round(ring), "tenths": np.round(ring, 1), "far": ring * 9}.get(kind, ring)
        ring[1] = ring[0] if kind == "repeated" else ring[1]
    theirs = peer.merge(peer.frPyObjects([ring.reshape(-1).tolist() for ring in rings], height, width))
    ours = Masks.from_polygons([rings], (height, width))
    assert ours.to_list() == [{"size": [height, width], "counts": theirs["counts"].decode()}]
    # Many objects at once are what each of them is by itself.
    several = Masks.from_polygons([rings[:1], [], rings[1:], rings], (height, width))
    alone = [Masks.from_polygons([some], (height, width)) for some in (rings[:1], [], rings[1:], rings)]
    assert several == alone[0].joined(alone[1:])


@given(SEEDS, SEEDS)
def test_overlaps_are_those_of_cocos_tools(one: int, other: int) -> None:
    a = some(one)
    b = np.random.default_rng(other).random((3, *a.shape[1:])) < 0.4
    ours, theirs = Masks.from_full(a), Masks.from_full(b)
    assert np.array_equal(ours.intersections(theirs), (a[:, None] & b[None]).sum((2, 3)))
    if len(a):
        codes = [[peer.encode(np.asfortranarray(m.astype(np.uint8))) for m in group] for group in (a, b)]
        expected = np.where(a.any((1, 2))[:, None] | b.any((1, 2))[None], peer.iou(*codes, [0] * 3), 0)
        assert ours.iou(theirs) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 4], "counts": [3, 2]}, "cover 5 pixels, expected 4×4"),
        ({"size": [4, 4], "counts": [20, -4]}, "cover 16 pixels, expected 4×4"),
        ({"size": [5, 4], "counts": [20]}, "has 4×5 pixels, its image 4×4"),
        ({"counts": [16]}, "expected a mask with size and counts"),
        ({"size": [4, 4], "counts": "0\x7f"}, "letters that COCO's code does not have"),
        ({"size": [4, 4], "counts": "0T"}, "letters that COCO's code does not have, or is cut off"),
        ([[0, 0, 1, 1]], "at least 3 finite corners"),
        ([[0, 0, 1, float("nan"), 2, 2]], "at least 3 finite corners"),
        ([[0, 0, 1]], "expected a list of polygons"),
        (7, "expected a list of polygons"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Masks.from_coco([segmentation], (4, 4))


# ---- the column


@given(SEEDS, st.data())
def test_taking_joining_and_pickling_are_those_of_full_masks(seed: int, data: st.DataObject) -> None:
    full = some(seed)
    masks, count = Masks.from_full(full), len(full)
    start, stop = data.draw(st.tuples(st.integers(-6, 6), st.integers(-6, 6)))
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    order = np.random.default_rng(seed).permutation(count)
    for index in (slice(start, stop), chosen, order, order.tolist() or slice(0)):
        assert np.array_equal(masks[index].to_full(), full[index])
    assert masks[order].joined([masks, masks[:0]]) == Masks.from_full(np.concatenate([full[order], full]))
    assert pickle.loads(pickle.dumps(masks)) == masks
    if full.any():
        assert masks != Masks.from_full(np.roll(full, 1, axis=1) & ~full)
    assert masks != Masks.empty((99, 99), count)


@given(SEEDS, st.integers(-9, 9), st.integers(-9, 9))
def test_moved_masks_are_moved_pixels(seed: int, x: int, y: int) -> None:
    full = some(seed)
    _, height, width = full.shape
    size_hw = (int(side) for side in np.random.default_rng(seed + 1).integers(1, 20, 2))
    new = np.zeros((len(full), *size_hw), bool)
    canvas = np.zeros((len(full), height + new.shape[1] + 40, width + new.shape[2] + 40), bool)
    canvas[:, 20 + y : 20 + y + height, 20 + x : 20 + x + width] = full
    new[:] = canvas[:, 20 : 20 + new.shape[1], 20 : 20 + new.shape[2]]
    assert Masks.from_full(full).moved((x, y), (new.shape[1], new.shape[2])) == Masks.from_full(new)


@given(SEEDS)
def test_unions_ids_and_crops_are_those_of_full_masks(seed: int) -> None:
    full = some(seed)
    rng, masks = np.random.default_rng(seed), Masks.from_full(full)
    groups = rng.integers(0, 3, len(full))
    assert masks.union(groups, 3) == Masks.from_full(np.stack([full[groups == g].any(0) for g in range(3)]))
    expected = np.zeros(full.shape[1:], int)
    for i in range(len(full))[::-1]:
        expected[full[i]] = i + 7
    assert np.array_equal(masks.to_ids(np.arange(len(full)) + 7), expected)
    ids = rng.integers(0, 4, full.shape[1:])
    assert Masks.from_ids(ids, [3, 0, 9]) == Masks.from_full(np.stack([ids == i for i in (3, 0, 9)]))
    crops = list(masks.crops())
    again = Masks.from_crops([box[:2] for box, _ in crops], [crop for _, crop in crops], masks.size_hw)
    assert again == masks
    # A piece that reaches out of the image is cut at its borders.
    shifted = Masks.from_crops([(x1 - 2, y1 + 3) for (x1, y1, _, _), _ in crops], [c for _, c in crops], masks.size_hw)
    assert shifted == masks.moved((-2, 3), masks.size_hw)


@given(SEEDS)
def test_other_sizes_show_the_pixel_under_the_middle_of_each(seed: int) -> None:
    full = some(seed)
    masks, (_, height, width) = Masks.from_full(full), full.shape
    assert np.array_equal(masks.to_full((3 * height, 2 * width)), full.repeat(3, axis=1).repeat(2, axis=2))
    rows, columns = nearest(height, 5)[::-1], nearest(width, 7)
    assert np.array_equal(masks.sampled(rows, columns), full[:, rows][:, :, columns])
    assert nearest(10, 5).tolist() == [1, 3, 5, 7, 9]
    assert not masks.sampled(np.array([-1, height]), np.arange(width)).any()


@given(SEEDS)
def test_outlines_enclose_the_mask_again(seed: int) -> None:
    full = some(seed, side=10)
    masks = Masks.from_full(full)
    for one, rings, single in zip(full, outlines(masks), single_outlines(masks), strict=True):
        filled = np.zeros(one.shape, bool)
        for ring in rings:  # even-odd: a hole in a part is a ring in a ring
            filled ^= Masks.from_polygons([[ring]], masks.size_hw).to_full()[0]
        assert np.array_equal(filled, one)
        x, y = (np.concatenate([ring[:, i] for ring in rings]) if rings else np.zeros(1) for i in (0, 1))
        assert (
            not one.any() or [x.min(), y.min(), x.max(), y.max()] == Masks.from_full(one[None]).boxes_xyxy[0].tolist()
        )
        if one.any():
            assert np.array_equal(Masks.from_polygons([[single]], masks.size_hw).to_full()[0], one)


def test_images_of_other_sizes_and_shapes_are_refused() -> None:
    square = Masks.empty((4, 4), 1)
    with pytest.raises(InputError, match="images of different sizes"):
        square.joined([Masks.empty((4, 5), 1)])
    with pytest.raises(InputError, match="images of different sizes"):
        square.iou(Masks.empty((4, 5), 1))
    with pytest.raises(InputError, match=r"expected masks \(N, H, W\)"):
        Masks.from_full(np.zeros((4, 4)))
    with pytest.raises(InputError, match="not one by one"):
        square[0]
    with pytest.raises(ValueError, match="read-only"):
        square.runs.starts[0] = 1
    with pytest.raises(InputError, match="ids of masks must differ"):
        Masks.from_ids(np.zeros((2, 2), int), [1, 1])


# ---- detections


def found(seed: int = 3) -> Detections:
    rng = np.random.default_rng(seed)
    full = rng.random((6, 20, 30)) < 0.3
    masks = Masks.from_full(full)
    return Detections(masks.boxes_xyxy, rng.random(6), rng.integers(0, 2, 6), ("a", "b"), (20, 30), {"masks": masks})


def test_detections_keep_each_mask_with_its_object_and_write_it() -> None:
    all_of_them = found()
    assert all_of_them.masks is not None
    for part in (
        all_of_them,
        all_of_them.filter(0.3, ["a"]),
        all_of_them[1:4],
        pickle.loads(pickle.dumps(all_of_them)),
    ):
        assert part.masks is not None
        assert np.array_equal(part.masks.boxes_xyxy, part.boxes_xyxy)
    assert pickle.loads(pickle.dumps(all_of_them)) == all_of_them != found(4)
    rows = json.loads(all_of_them.to_json())["detections"]
    assert Masks.from_coco([row["mask"] for row in rows], (20, 30)) == all_of_them.masks
    results = json.loads(json.dumps(all_of_them.to_coco(1)))
    assert Masks.from_coco([row["segmentation"] for row in results], (20, 30)) == all_of_them.masks
    assert not any("masks" in row for row in [*rows, *results])
    with pytest.raises(InputError, match="masks have 30×20 pixels, the image 20×30"):
        Detections(
            all_of_them.boxes_xyxy, all_of_them.scores, all_of_them.class_ids, (), (20, 30)[::-1], all_of_them.fields
        )
    with pytest.raises(InputError, match="the field 'masks' has 1 rows: expected 6"):
        all_of_them.with_fields({"masks": Masks.empty((20, 30), 1)})


def test_supervision_gets_full_masks() -> None:
    pytest.importorskip("supervision")
    theirs = found().to_supervision()
    masks = found().masks
    assert masks is not None
    assert np.array_equal(np.asarray(theirs.mask), masks.to_full())
    assert list(theirs.data) == ["class_name"]


class MaskedBlobs(BlobDetector):
    """Marks the painted pixels of each object."""

    def detect(
        self, arrays: Sequence[npt.NDArray[np.uint8]], settings: PostprocessSettings | None = None
    ) -> list[Detections]:
        return [self.marked(image, one) for image, one in zip(arrays, super().detect(arrays, settings), strict=True)]

    @staticmethod
    def marked(image: npt.NDArray[np.uint8], one: Detections) -> Detections:
        channel = np.array([0, 2])[one.class_ids]
        return one.with_fields({"masks": Masks.from_full(image[..., channel].transpose(2, 0, 1) > 200)})


class CutBlobs(MaskedBlobs):
    """Finds nothing in the whole image, so that all it knows are parts cut by tiles."""

    def detect(
        self, arrays: Sequence[npt.NDArray[np.uint8]], settings: PostprocessSettings | None = None
    ) -> list[Detections]:
        parts = super().detect(arrays, settings)
        return [p[:0] if a.shape[0] > 128 else p for a, p in zip(arrays, parts, strict=True)]


@pytest.mark.parametrize("detector", [MaskedBlobs(), CutBlobs()], ids=["one is whole", "all are cut"])
def test_tiles_join_the_masks_that_their_borders_cut(detector: BlobDetector) -> None:
    image = painted(300, 400, ((10, 20, 60, 70), 0), ((180, 100, 330, 280), 1))
    image[150:200, 200:260] = 120  # a hole that a box does not show
    tiled = detect_tiled(detector, image, 128)
    assert sorted(tiled.labels) == ["dog", "person"]
    assert tiled.masks is not None
    for class_id, mask in zip(tiled.class_ids, tiled.masks.to_full(), strict=True):
        assert np.array_equal(mask, image[..., [0, 2][class_id]] > 200)
