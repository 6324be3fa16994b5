"""Augmentation: boxes stay on their objects, classes on their boxes, and chance is the seed's alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from phidet.architectures.efficientdet.published import detector_config
from phidet.cli.main import main
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Annotations, Dataset
from phidet.data.doctor.sheets import choose_samples
from phidet.data.hold_out import HELD_OUT, hold_out
from phidet.data.layouts import open_data
from phidet.detections.sheet import GAP, STRIP, TILE_H, TILE_W
from phidet.images.prepare import Preprocess, prepare
from phidet.training.augmentation import operations
from phidet.training.augmentation.detection import Labelled, augment, mosaic
from phidet.training.augmentation.operations import (
    GREY,
    INSIDE,
    MIN_VISIBLE,
    WHOLE,
    Sample,
    change_in_boxes,
    rotate,
    shear,
    translate,
)
from phidet.training.augmentation.policies import POLICIES, apply_policy
from phidet.training.augmentation.sheet import augmented_sheet, change_augmentation
from phidet.training.loading import EpochSampler, TrainImages, train_loader
from phidet.training.recipe import SMALL, Augmentation, replace

COLOURS = np.array([[220, 40, 40], [40, 200, 60], [40, 60, 230], [230, 210, 40]], np.uint8)
"""Of the objects by class; neither black nor grey."""
GEOMETRY = ("translate-x", "translate-y", "shear-x", "shear-y", "rotate")
STILL = Augmentation(scale_jitter=(1.0, 1.0), flip=0.0)


def objects_of(boxes: list[tuple[int, int, int, int]], ids: npt.NDArray[np.int64]) -> Annotations:
    no = np.zeros(len(ids), np.bool_)
    return Annotations(np.array(boxes, np.float32), ids, np.ones(len(ids), np.float32), no, no)


def painted(seed: int, size_hw: tuple[int, int] = (120, 160), most: int = 4) -> Labelled:
    """A black image with rectangles, one in each of its quarters, each of another class and colour."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*size_hw, 3), np.uint8)
    height, width = size_hw[0] // 2, size_hw[1] // 2
    boxes, ids = [], rng.permutation(4)[:most]
    for i, class_id in enumerate(ids):
        h, w = int(rng.integers(16, height)), int(rng.integers(16, width))
        y = i // 2 * height + int(rng.integers(0, height - h))
        x = i % 2 * width + int(rng.integers(0, width - w))
        image[y : y + h, x : x + w] = COLOURS[class_id]
        boxes.append((x, y, x + w, y + h))
    n = len(boxes)
    no = np.zeros(n, np.bool_)
    return Labelled(
        image, Annotations(np.array(boxes, np.float32), ids.astype(np.int64), np.ones(n, np.float32), no, no)
    )


def sample(seed: int) -> Sample:
    image, objects = painted(seed)
    return Sample(
        torch.from_numpy(image).permute(2, 0, 1),
        torch.from_numpy(objects.boxes_xyxy),
        torch.from_numpy(objects.class_ids),
    )


def seen(pixels: Tensor, class_id: int) -> tuple[float, float, float, float] | None:
    """The box around what has the colour of a class."""
    distance = (pixels.permute(1, 2, 0).int() - torch.from_numpy(COLOURS[class_id].astype(np.int32))).abs().amax(2)
    where = (distance < 25).nonzero()
    if not len(where):
        return None
    (top, left), (bottom, right) = where.min(0).values.tolist(), (where.max(0).values + 1).tolist()
    return left, top, right, bottom


def check_boxes_lie_on_objects(after: Sample | object, tolerance: float) -> int:
    """Each box is the box of its class's colour; returns how many there were."""
    assert isinstance(after, Sample)
    height, width = after.pixels.shape[1:]
    for box, class_id in zip(after.boxes_xyxy.tolist(), after.class_ids.tolist(), strict=True):
        colour = seen(after.pixels, class_id)
        assert colour is not None
        assert max(abs(a - b) for a, b in zip(box, colour, strict=True)) <= tolerance
        assert 0 <= box[0] < box[2] <= width
        assert 0 <= box[1] < box[3] <= height
    return len(after.boxes_xyxy)


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_carries_boxes_with_their_objects(name: str) -> None:
    """Of rectangles at the border only a part may be left, and then the box around that part is no box of corners."""
    found, moved = 0, 0
    for seed in range(40):
        before = sample(seed)
        after = WHOLE[name](before, float(seed % 11), np.random.default_rng(seed))
        inner = _whole_ones(before, after, name)
        found += check_boxes_lie_on_objects(inner, tolerance=1.6)
        moved += int(not torch.equal(before.pixels, after.pixels))
    assert found > 60
    assert moved > 20


def _whole_ones(before: Sample, after: Sample, name: str) -> Sample:
    """The objects of ``after`` that the border does not cut; translations cut right angles, so there all of them."""
    if name.startswith("translate"):
        return after
    height, width = after.pixels.shape[1:]
    limits = after.boxes_xyxy.new_tensor([width, height, width, height])
    free = ((after.boxes_xyxy > 0.0) & (after.boxes_xyxy < limits)).all(1)
    return Sample(after.pixels, after.boxes_xyxy[free], after.class_ids[free])


def test_translation_by_hand() -> None:
    pixels = torch.zeros(3, 10, 20, dtype=torch.uint8)
    pixels[:, 2:6, 4:8] = 200
    after = translate(Sample(pixels, torch.tensor([[4.0, 2.0, 8.0, 6.0]]), torch.tensor([7])), -6, 3)
    assert after.boxes_xyxy.tolist() == [[0.0, 5.0, 2.0, 9.0]]
    assert after.class_ids.tolist() == [7]
    assert (after.pixels[:, 5:9, 0:2] == 200).all()
    assert (after.pixels[:, :3] == GREY).all()  # above, nothing was there to come down
    assert (after.pixels[:, :, 14:] == GREY).all()
    gone = translate(after, -40, 0)
    assert (gone.pixels == GREY).all()
    assert len(gone.class_ids) == 0


def test_quarter_turn_and_shear_by_hand() -> None:
    square = Sample(torch.zeros(3, 20, 20, dtype=torch.uint8), torch.tensor([[2.0, 4.0, 8.0, 6.0]]), torch.tensor([0]))
    torch.testing.assert_close(rotate(square, 90).boxes_xyxy, torch.tensor([[14.0, 2.0, 16.0, 8.0]]))
    # y moves x by half of itself: corners (2,4) → 0, (8,4) → 6, (2,6) → −1, (8,6) → 5; cut at 0
    torch.testing.assert_close(shear(square, 0.5, 0.0).boxes_xyxy, torch.tensor([[0.0, 4.0, 6.0, 6.0]]))
    torch.testing.assert_close(shear(square, 0.0, -0.5).boxes_xyxy, torch.tensor([[2.0, 5.0, 8.0, 10.0]]))


def test_boxes_are_torchvisions_where_nothing_is_cut() -> None:
    boxes = torch.tensor([[70.0, 50.0, 90.0, 64.0], [60.0, 40.0, 66.0, 80.0]])
    before = Sample(torch.zeros(3, 120, 160, dtype=torch.uint8), boxes, torch.tensor([0, 1]))
    known = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(120, 160))  # type: ignore[call-overload]
    for degrees in (-30.0, 11.0):
        theirs = F.affine(known, degrees, [0, 0], 1.0, [0.0, 0.0])
        torch.testing.assert_close(rotate(before, degrees).boxes_xyxy, theirs.as_subclass(Tensor), atol=1e-3, rtol=0)
    for slope in (-0.3, 0.2):
        theirs = F.affine(known, 0.0, [0, 0], 1.0, [math.degrees(math.atan(slope)), 0.0], center=[0.0, 0.0])
        torch.testing.assert_close(shear(before, slope, 0.0).boxes_xyxy, theirs.as_subclass(Tensor), atol=1e-3, rtol=0)


@pytest.mark.skipif(not operations._CAN_STAY_UNCLAMPED, reason="torchvision before 0.23 clamps boxes on the way")
def test_what_hardly_remains_is_left_out() -> None:
    pixels, ids = torch.zeros(3, 100, 100, dtype=torch.uint8), torch.tensor([3, 5])
    boxes = torch.tensor([[60.0, 10.0, 70.0, 20.0], [50.0, 10.0, 60.0, 20.0]])
    after = translate(Sample(pixels, boxes, ids), -68, 0)
    assert after.class_ids.tolist() == [3]  # 2 of 10 columns are just MIN_VISIBLE; the other one is gone
    assert pytest.approx(0.2) == MIN_VISIBLE
    assert translate(Sample(pixels, boxes, ids), -69, 0).class_ids.tolist() == []


@pytest.mark.parametrize("name", sorted(INSIDE))
def test_what_changes_in_boxes_changes_nothing_else(name: str) -> None:
    changed = 0
    for seed in range(6):
        before = sample(seed)
        noise = np.random.default_rng(seed).integers(0, 256, before.pixels.shape, dtype=np.uint8)
        before = before._replace(pixels=torch.from_numpy(noise))
        after = change_in_boxes(before, INSIDE[name], 10.0, 3.0, np.random.default_rng(seed))  # each box for certain
        assert torch.equal(after.boxes_xyxy, before.boxes_xyxy)
        assert torch.equal(after.class_ids, before.class_ids)
        outside = torch.ones(before.pixels.shape[1:], dtype=torch.bool)
        for x1, y1, x2, y2 in before.boxes_xyxy.int().tolist():
            outside[y1:y2, x1:x2] = False
            inside = after.pixels[:, y1:y2, x1:x2]
            assert (inside == GREY).all(0).float().mean() < 0.75  # something of each object stays
            changed += int(not torch.equal(inside, before.pixels[:, y1:y2, x1:x2]))
        assert torch.equal(after.pixels[:, outside], before.pixels[:, outside])
    assert changed >= 12 if name != "solarize-in-boxes" else changed == 0  # its threshold at level 10 is 256


def test_boxes_change_with_a_third_of_the_probability() -> None:
    pixels = torch.zeros(3, 10, 3000, dtype=torch.uint8)
    boxes = torch.tensor([[float(x), 0.0, x + 2.0, 10.0] for x in range(0, 3000, 3)])
    before = Sample(pixels, boxes, torch.zeros(1000, dtype=torch.int64))
    after = change_in_boxes(before, lambda p, *_: p + 1, 0.0, 0.6, np.random.default_rng(0))
    assert int(after.pixels[0, 0].sum()) / 2 == pytest.approx(200, abs=40)


def on_pixels(name: str, level: float, values: list[int]) -> list[int]:
    pixels = torch.tensor(values, dtype=torch.uint8).expand(3, 1, -1).contiguous()
    before = Sample(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    return WHOLE[name](before, level, np.random.default_rng(0)).pixels[0, 0].tolist()


def test_colour_operations_by_hand() -> None:
    assert on_pixels("brightness", 5, [0, 100, 250]) == [0, 100, 250]  # 5 · 1.8 / 10 + 0.1 = 1
    assert on_pixels("brightness", 10, [0, 100, 250]) == [0, 190, 255]
    assert on_pixels("brightness", 0, [0, 100, 250]) == [0, 10, 25]
    assert on_pixels("solarize", 8, [203, 204, 255]) == [203, 51, 0]  # from int(0.8 · 256) = 204 on
    assert on_pixels("solarize", 10, [0, 255]) == [0, 255]
    assert on_pixels("solarize-add", 6, [0, 100, 127, 128]) == [66, 166, 193, 128]
    assert on_pixels("posterize", 2, [127, 128, 255]) == [0, 128, 128]  # one bit
    assert on_pixels("posterize", 10, [15, 16, 255]) == [0, 16, 240]
    assert on_pixels("autocontrast", 3, [10, 40, 95]) == [0, 90, 255]


def test_cutouts_are_grey_and_in_proportion() -> None:
    white = Sample(
        torch.full((3, 64, 64), 255, dtype=torch.uint8), torch.tensor([[16.0, 16.0, 48.0, 48.0]]), torch.tensor([0])
    )
    most = 0.0
    for seed in range(30):
        grey = WHOLE["cutout"](white, 10.0, np.random.default_rng(seed)).pixels[0] == GREY
        most = max(most, float(grey.sum()))
        in_box = WHOLE["box-cutout"](white, 10.0, np.random.default_rng(seed)).pixels[0] == GREY
        rows, columns = in_box.any(1).nonzero(), in_box.any(0).nonzero()
        assert 22 <= len(rows) <= 25  # 0.75 of 32
        assert 22 <= len(columns) <= 25
        assert in_box.sum() == len(rows) * len(columns)
        assert in_box[16:48, 16:48].any()
    assert 18**2 <= most <= 22**2  # twice 100 / 640 of the longer side
    no_boxes = white._replace(boxes_xyxy=torch.zeros(0, 4), class_ids=torch.zeros(0, dtype=torch.int64))
    assert torch.equal(WHOLE["box-cutout"](no_boxes, 10.0, np.random.default_rng(0)).pixels, white.pixels)


def test_policies_are_the_official_tables() -> None:
    assert {name: len(policy) for name, policy in POLICIES.items()} == {"v0": 5, "v1": 20, "v2": 15, "v3": 15}
    for policy in POLICIES.values():
        for row in policy:
            for name, probability, level in row:
                assert name in WHOLE or name in INSIDE
                assert 0 <= probability <= 1
                assert 0 <= level <= 10
    assert POLICIES["v1"][:5] == POLICIES["v0"]
    # What a policy does most: the share of rows' steps that turn, by its probabilities.
    turned = {n: sum(p for row in policy for op, p, _ in row if op == "rotate") for n, policy in POLICIES.items()}
    assert turned == pytest.approx({"v0": 0.6, "v1": 3.2, "v2": 3.2, "v3": 3.4})


@pytest.mark.parametrize("policy", ["v0", "v1", "v2", "v3", "randaugment"])
def test_policies_keep_boxes_inside_and_ids_aligned(policy: str) -> None:
    settings = replace(SMALL, {"augmentation": {"policy": policy, "layers": 2, "magnitude": 8.0}}).augmentation
    changed = 0
    for seed in range(40):
        before = sample(seed)
        kept_pixels = before.pixels.clone()
        after = apply_policy(before, settings, np.random.default_rng(seed))
        assert torch.equal(before.pixels, kept_pixels)  # inputs are never written to
        assert after.pixels.dtype == torch.uint8
        assert after.pixels.shape == before.pixels.shape
        assert len(after.boxes_xyxy) == len(after.class_ids)
        assert set(after.class_ids.tolist()) <= set(before.class_ids.tolist())
        assert (after.boxes_xyxy[:, :2] >= 0).all()
        assert (after.boxes_xyxy[:, 2:] <= torch.tensor([160.0, 120.0])).all()
        changed += int(not torch.equal(after.pixels, before.pixels))
    assert changed > 20


def test_a_mosaic_shows_four_images_around_a_point() -> None:
    """Every object lies where its colour is; each image has a class of its own."""
    images = []
    for class_id in range(4):
        image = np.zeros((120, 160, 3), np.uint8)
        image[30:90, 40:120] = COLOURS[class_id]
        images.append(Labelled(image, objects_of([(40, 30, 120, 90)], np.array([class_id]))))
    settings, classes = Augmentation(scale_jitter=(0.4, 1.2)), []
    for seed in range(25):
        example = mosaic(images, (128, 128), settings, np.random.default_rng(seed))
        assert example.valid_hw == (128, 128)
        after = Sample(example.pixels, example.boxes_xyxy, example.class_ids)
        assert check_boxes_lie_on_objects(after, tolerance=1.6) == len(set(example.class_ids.tolist()))
        classes += example.class_ids.tolist()
        centres = (example.boxes_xyxy[:, :2] + example.boxes_xyxy[:, 2:]) / 2
        for centre, class_id in zip(centres.tolist(), example.class_ids.tolist(), strict=True):
            assert centre[0] < 96 if class_id % 2 == 0 else centre[0] > 32  # splits are between a quarter and three
            assert centre[1] < 96 if class_id < 2 else centre[1] > 32
    assert min(classes.count(i) for i in range(4)) > 10


def test_a_grid_mask_hides_a_quarter_in_squares() -> None:
    shares = []
    for seed in range(20):
        image, objects = np.full((128, 128, 3), 255, np.uint8), painted(0).annotations
        masked = Augmentation(scale_jitter=(1.0, 1.0), flip=0.0, grid_mask=1.0)
        example = augment(image, objects, (128, 128), masked, np.random.default_rng(seed))
        grey = example.pixels[0] == GREY
        assert torch.equal(grey, grey.any(1)[:, None] & grey.any(0))  # rows and columns cross
        shares.append(float(grey.float().mean()))
    assert np.mean(shares) == pytest.approx(0.25, abs=0.03)
    assert max(shares) < 0.5


def test_hue_turns_colours_and_leaves_grey() -> None:
    image, objects = painted(1)
    turned = augment(
        image, objects, (120, 160), Augmentation(scale_jitter=(1.0, 1.0), flip=0.0, hue=0.5), np.random.default_rng(3)
    )
    still = augment(image, objects, (120, 160), STILL, np.random.default_rng(3))
    assert not torch.equal(turned.pixels, still.pixels)
    assert torch.equal(turned.pixels.amax(0), still.pixels.amax(0))  # a colour's value stays
    torch.testing.assert_close(turned.boxes_xyxy, still.boxes_xyxy)


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset:
    """Ten painted images on disk, the fourth of them broken."""
    collector = Collector("painted", tmp_path, tuple("abcd"))
    for i in range(10):
        image, objects = painted(i, most=3)
        path = tmp_path / f"{i}.png"
        Image.fromarray(image).save(path)
        rows = zip(objects.boxes_xyxy.tolist(), objects.class_ids.tolist(), strict=True)
        collector.add(path.name, path, (120, 160), [RawObject(str(path), tuple(b), "abcd"[c]) for b, c in rows])
    (tmp_path / "3.png").write_bytes(b"not an image")
    return collector.dataset()


@pytest.mark.parametrize("antialias", [False, True])
def test_training_resizes_as_the_network_does(antialias: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    spec = Preprocess(mean_rgb=(0, 0, 0), std_rgb=(1, 1, 1), antialias=antialias)
    prepared, _ = prepare(image, (96, 128), spec)
    settings = Augmentation(scale_jitter=(1, 1), flip=0, antialias=antialias)
    objects = Annotations.of_boxes(np.array([[9, 9, 90, 90]], np.float32), np.zeros(1, np.int64))
    example = augment(image, objects, (96, 128), settings, np.random.default_rng(0))
    np.testing.assert_allclose(example.pixels.numpy(), prepared, atol=1.01)  # whole levels
    other, _ = prepare(image, (96, 128), msgspec.structs.replace(spec, antialias=not antialias))
    assert np.abs(other - prepared).max() > 50


EVERYTHING = Augmentation(scale_jitter=(0.5, 1.5), colour=0.3, hue=0.1, policy="v2", mosaic=0.5, grid_mask=0.3)


def test_chance_is_the_seeds_whatever_the_number_of_workers(pictures: Dataset) -> None:
    def batches(seed: int, workers: int) -> list[tuple[Tensor, ...]]:
        sampler = EpochSampler(len(pictures), 3, seed)
        sampler.epoch = 1
        loader = train_loader(TrainImages(pictures, (96, 128), EVERYTHING, seed), sampler, workers)
        return [tuple(part for part in batch if part is not None) for batch in loader]

    alone = batches(5, 0)
    for workers in (1, 2):
        for ours, theirs in zip(alone, batches(5, workers), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(alone[0][0], batches(6, 0)[0][0])
    images = TrainImages(pictures, (96, 128), EVERYTHING, 5)
    assert torch.equal(images[2, 7].pixels, images[2, 7].pixels)
    assert not torch.equal(images[2, 7].pixels, images[3, 7].pixels)


def test_mosaics_are_made_of_what_can_be_decoded(pictures: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    images = TrainImages(pictures, (96, 128), replace(SMALL, {"augmentation": {"mosaic": 1.0}}).augmentation, 0)
    for index in range(len(pictures)):
        example = images[0, index]
        assert example.valid_hw == (96, 128)
        assert len(example.boxes_xyxy) == len(example.class_ids)
    assert [record.message.count("3.png") for record in caplog.records] == [1]  # named once, not by each mosaic


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mosaic": 1.5}, "mosaic must be a probability"),
        ({"grid_mask": -0.1}, "grid_mask must be a probability"),
        ({"hue": 0.7}, "hue must be in"),
        ({"layers": 0}, "layers must be"),
        ({"magnitude": 11.0}, "magnitude must be"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, float], message: str) -> None:
    make: Callable[..., Augmentation] = Augmentation
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_a_policy_that_is_not_known_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="randaugment"):
        Augmentation(policy="randaugmen")  # type: ignore[arg-type]


def test_doctor_draws_what_training_sees(pictures: Dataset, tmp_path: Path) -> None:
    """A row for each of five images: as it is, and the same examples that a run of the seed trains on."""
    images = TrainImages(pictures, (320, 320), EVERYTHING, 4)
    config = detector_config("efficientdet-lite0")
    sheet = np.asarray(augmented_sheet(pictures, config, EVERYTHING, 4))
    assert sheet.shape[1] == GAP + 4 * (TILE_W + GAP)
    for row, index in enumerate(choose_samples(pictures, set(), 4, 5)):
        for epoch in range(3):
            example = images[epoch, index]
            top = 64 + row * (TILE_H + STRIP + GAP)
            left = GAP + (1 + epoch) * (TILE_W + GAP) + (TILE_W - TILE_H) // 2
            tile = sheet[top : top + TILE_H, left : left + TILE_H].astype(int)
            pixels = example.pixels.permute(1, 2, 0).numpy()
            pixels = np.asarray(Image.fromarray(pixels).resize((TILE_H, TILE_H), Image.Resampling.LANCZOS)).astype(int)
            alike = (np.abs(tile - pixels).max(2) < 12)[: example.valid_hw[0] * TILE_H // 320 - 2]
            alike = alike[:, : example.valid_hw[1] * TILE_H // 320 - 2]
            assert alike.mean() > 0.8  # the rest are boxes


def test_doctor_says_what_it_drew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "labels").mkdir()
    for i in range(6):
        Image.fromarray(painted(i).image).save(data / "images" / f"{i}.png")
        (data / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    command = ["doctor", str(data), "--fast", "--out", str(tmp_path / "look"), "--augmented", "--augment"]
    assert main([*command, "policy=v2", "mosaic=0.5", "scale_jitter=0.8,1.25"]) == 0
    said = capsys.readouterr().err
    assert "augmented.png: size ×0.8–1.25, flip 0.5, colour 0.2, mosaic 0.5, AutoAugment v2" in said
    with Image.open(tmp_path / "look" / "augmented.png") as sheet:
        assert sheet.height == 64 + 5 * (TILE_H + STRIP + GAP)
        # A run holds one of the six out; what the others become depends on their numbers among the rest.
        kept, _ = hold_out(open_data(data).read("all"), HELD_OUT, 0)
        changed = change_augmentation(SMALL.augmentation, ["policy=v2", "mosaic=0.5", "scale_jitter=0.8,1.25"])
        wanted = augmented_sheet(kept, detector_config("efficientdet-lite0"), changed, 0)
        assert np.array_equal(np.asarray(sheet.convert("RGB")), np.asarray(wanted))
    assert main([*command, "polcy=v2"]) == 2
    assert "Did you mean policy" in capsys.readouterr().err
    assert main([*command, "mosaic=often"]) == 2
    assert "mosaic" in capsys.readouterr().err
    assert main([*command, "mosaic"]) == 2
    assert "expected KEY=VALUE" in capsys.readouterr().err
