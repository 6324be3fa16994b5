"""Masks for people: drawn so that objects are told apart, and files that read back to the same pixels."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from phidet.detections.detections import Detections
from phidet.detections.draw import colour
from phidet.detections.draw_masks import draw_masks
from phidet.detections.masks import Masks
from phidet.detections.sinks import open_sinks
from phidet.images.sources import SourceImage

SIZE = (90, 120)


def three(names: tuple[str, ...] = ("cat", "sky")) -> Detections:
    """Two that overlap, one of them with a hole, and one whose mask is empty."""
    full = np.zeros((3, *SIZE), bool)
    full[0, 10:60, 20:70] = True
    full[0, 30:40, 30:45] = False
    full[1, 40:80, 50:110] = True
    boxes = np.array([[20, 10, 70, 60], [50, 40, 110, 80], [1, 2, 9, 8]], np.float32)
    fields = {"masks": Masks.from_full(full), "is_thing": np.array([True, False, True])}
    return Detections(boxes, np.array([0.9, 0.8, 0.7]), np.array([0, 1, 0]), names, SIZE, fields)


def picture(name: str = "a.jpg") -> SourceImage:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    pixels = np.stack([rows * 2, columns * 2, rows + columns], axis=-1).astype(np.uint8)
    return SourceImage(f"in/{name}", PurePosixPath(name), pixels)


def save(kind: str, out: Path, found: Detections, *names: str) -> str:
    [sink] = open_sinks([kind], out, found.names)
    for name in names or ("a.jpg",):
        sink.add(picture(name), found)
    return sink.keep()


# ---- drawing


def drawn(full: np.ndarray, class_ids: list[int], width: int = 2) -> np.ndarray:
    grey = Image.new("RGB", (full.shape[2], full.shape[1]), (128, 128, 128))
    return np.asarray(draw_masks(grey, Masks.from_full(full), class_ids, width)).astype(int)


def test_masks_are_filled_through_which_the_image_shows_and_outlined_in_full_colour() -> None:
    full = np.zeros((1, 60, 60), bool)
    full[0, 10:50, 10:50] = True
    pixels = drawn(full, [0])
    assert (pixels[~full[0]] == 128).all()  # no ink outside
    inside = 128 + (np.array(colour(0)) - 128) * 0.4
    assert np.abs(pixels[30, 30] - inside).max() <= 1
    assert (pixels[30, 11:13] == colour(0)).all()
    assert pixels[30, 10].max() < 90  # the dark edge
    assert np.abs(pixels[30, 13] - inside).max() <= 1


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_dark_line_separates_touching_objects_of_one_class(width: int) -> None:
    full = np.zeros((2, 60, 80), bool)
    full[0, 10:50, 10:40] = full[1, 10:50, 40:70] = True
    pixels = drawn(full, [3, 3], width)
    across = pixels[30, 20:60].sum(-1)
    assert across[19:21].max() < 0.3 * sum(colour(3))  # on both sides of the common border
    assert np.array_equal(across, across[::-1])
    # One object of the same pixels has no such line.
    whole = drawn(full.any(0, keepdims=True), [3], width)
    assert len(np.unique(whole[30, 20:60].sum(-1))) == 1


def test_of_overlapping_masks_the_first_is_on_top() -> None:
    full = np.zeros((2, 60, 60), bool)
    full[0, 10:40, 10:40] = full[1, 20:55, 20:55] = True
    pixels, alone = drawn(full, [0, 1]), drawn(full[:1], [0])
    assert np.array_equal(pixels[full[0]], alone[full[0]])
    assert (pixels[full[1] & ~full[0]] != 128).any(-1).all()


def test_the_image_that_was_given_stays_and_an_object_without_a_mask_keeps_its_frame() -> None:
    ground = Image.new("RGB", SIZE[::-1], (100, 100, 100))
    found = three()
    pixels = np.asarray(found.draw(ground)).astype(int)
    assert ground.getextrema() == ((100, 100),) * 3
    assert (pixels[5, 1:9] != 100).any()
    assert (pixels[10, 70:75] == 100).all()
    assert np.array_equal(np.asarray(draw_masks(ground, Masks.empty(SIZE, 2), [0, 1])), np.asarray(ground))


# ---- files


def test_instances_are_numbered_best_first(tmp_path: Path) -> None:
    assert save("instances", tmp_path, three(), "a.jpg", "b/a.jpg").endswith("instances (2 images)")
    with Image.open(tmp_path / "instances/a.png") as image:
        ids = np.asarray(image)
    masks = three().masks
    assert masks is not None
    assert ids.dtype == np.uint8
    assert np.array_equal(ids, masks.to_ids())
    assert (tmp_path / "instances/b/a.png").is_file()
    many = Masks.from_ids(np.arange(20 * 20).reshape(20, 20), np.arange(1, 400))
    found = Detections(many.boxes_xyxy, np.linspace(1, 0.1, 399), np.zeros(399, int), ("a",), None, {"masks": many})
    save("instances", tmp_path / "many", found)
    with Image.open(tmp_path / "many/instances/a.png") as image:
        assert np.array_equal(np.asarray(image), np.arange(400).reshape(20, 20))


def test_panoptic_files_are_those_of_coco(tmp_path: Path) -> None:
    save("panoptic", tmp_path, three(), "a.jpg", "b.jpg")
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "b.jpg"]
    assert content["categories"] == [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
    for annotation, image in zip(content["annotations"], content["images"], strict=True):
        assert annotation["image_id"] == image["id"]
        with Image.open(tmp_path / "panoptic" / annotation["file_name"]) as file:
            rgb = np.asarray(file.convert("RGB")).astype(int)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]
        segments = annotation["segments_info"]
        assert {s["id"] for s in segments} == set(np.unique(ids)) - {0}  # as the official evaluation demands
        assert [s["category_id"] for s in segments] == [1, 2]
        for segment in segments:
            ys, xs = np.nonzero(ids == segment["id"])
            assert segment["area"] == len(ys)
            assert segment["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]


def test_crops_are_transparent_around_the_object(tmp_path: Path) -> None:
    save("crops", tmp_path, three())
    masks = three().masks
    assert masks is not None
    with Image.open(tmp_path / "crops/cat/a-1.png") as crop:
        rgba = np.asarray(crop)
    assert np.array_equal(rgba[..., 3], masks.to_full()[0, 10:60, 20:70] * 255)
    assert np.array_equal(rgba[..., :3], picture().image[10:60, 20:70])
    with Image.open(tmp_path / "crops/cat/a-3.jpg") as crop:  # without a mask, as before
        assert crop.size == (8, 6)


def test_yolo_lines_are_outlines_that_fill_the_mask_again(tmp_path: Path) -> None:
    save("yolo", tmp_path, three())
    lines = [line.split() for line in (tmp_path / "labels/a.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == ["0", "1", "0"]
    rings = [np.array(line[1:], float).reshape(-1, 2) * SIZE[::-1] for line in lines]
    masks = three().masks
    assert masks is not None
    assert Masks.from_polygons([[ring] for ring in rings[:2]], SIZE) == masks[:2]
    assert np.concatenate([rings[2].min(0), rings[2].max(0)]) == pytest.approx([1, 2, 9, 8], abs=1e-3)
