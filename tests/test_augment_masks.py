"""Masks through augmentation: they stay on their objects, and boxes around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from phidet.architectures.batch import Batch
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Dataset
from phidet.data.mask_labels import NO_MASK, polygons_label
from phidet.detections.masks import Masks
from phidet.training.augmentation.mask_tensors import UNKNOWN, shrunk, tight_boxes
from phidet.training.augmentation.operations import INSIDE, WHOLE, Sample, change_in_boxes, rotate
from phidet.training.augmentation.policies import POLICIES
from phidet.training.loading import TrainImages, collate
from phidet.training.recipe import Augmentation

COLOURS = ((220, 40, 40), (40, 200, 60), (40, 60, 230), (230, 210, 40))
SIZE = (128, 160)


def outlines(seed: int, size_hw: tuple[int, int]) -> list[npt.NDArray[np.float64]]:
    """A blob in each quarter, so that none hides another."""
    rng = np.random.default_rng(seed)
    found = []
    for quarter in range(4):
        centre = np.array([size_hw[1] * (0.25 + 0.5 * (quarter % 2)), size_hw[0] * (0.25 + 0.5 * (quarter // 2))])
        angles = np.arange(8) * np.pi / 4
        radii = rng.uniform(0.08, 0.2, 8) * min(size_hw)
        found.append(centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None])
    return found


def write(root: Path, count: int = 3, unknown: int = -1) -> Dataset:
    """Images on which each object has its class's colour, so that the image itself says where its mask must be.

    ``unknown`` is the class of objects that have boxes only.
    """
    collector = Collector("painted", root, ["a", "b", "c", "d"])
    for seed in range(count):
        size_hw = (150 + 20 * seed, 210)
        image = np.full((*size_hw, 3), 10, np.uint8)
        objects = []
        for k, ring in enumerate(outlines(seed, size_hw)):
            label = polygons_label([ring])
            inside = painted_mask(ring, size_hw)
            image[inside] = COLOURS[k]
            ys, xs = np.nonzero(inside)
            box = (float(xs.min()), float(ys.min()), xs.max() + 1.0, ys.max() + 1.0)
            objects.append(RawObject(f"{seed}", box, "abcd"[k], mask=NO_MASK if k == unknown else label))
        Image.fromarray(image).save(root / f"{seed}.png")
        collector.add(f"{seed}.png", root / f"{seed}.png", size_hw, objects)
    return collector.dataset()


def painted_mask(ring: npt.NDArray[np.float64], size_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    return np.asarray(Masks.from_polygons([[ring]], size_hw).to_full()[0])


def coloured(pixels: Tensor, class_id: int) -> Tensor:
    """(H, W) bool, what has the colour of a class, but for mixtures at borders."""
    distance = (pixels.int() - torch.tensor(COLOURS[class_id])[:, None, None]).abs().amax(0)
    return distance < 12


def grown(mask: Tensor, reach: int = 1) -> Tensor:
    return torch.nn.functional.max_pool2d(mask[None].float(), 2 * reach + 1, 1, reach)[0] > 0


GEOMETRY = {
    "flip and jitter": Augmentation(scale_jitter=(0.4, 2.0), flip=0.5),
    "mosaic": Augmentation(scale_jitter=(0.5, 1.5), flip=0.5, mosaic=1.0),
    "large": Augmentation(scale_jitter=(2.0, 3.0), flip=0.0),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_masks_lie_where_their_objects_are_seen(tmp_path: Path, name: str) -> None:
    images = TrainImages(write(tmp_path), SIZE, GEOMETRY[name], seed=5, mask_stride=1)
    seen = 0
    for epoch in range(8):
        for index in range(3):
            example = images[epoch, index]
            assert example.masks is not None
            assert example.masks.shape == (len(example.class_ids), *SIZE)
            for mask, box, class_id in zip(example.masks, example.boxes_xyxy, example.class_ids.tolist(), strict=True):
                inside = mask == 1
                colour = coloured(example.pixels, class_id)
                if name != "mosaic":  # in which several objects have one colour
                    assert not (colour & ~grown(inside)).any()
                # Inside the mask, but for its border, which enlarging mixes, nothing but its colour is seen.
                core = torch.zeros_like(inside)
                core[3:-3, 3:-3] = ~grown(~inside, 3)[3:-3, 3:-3]
                assert not (core & ~colour).any()
                tight, _ = tight_boxes(mask[None])
                assert (tight[0] - box).abs().max() <= 1
                seen += 1
    assert seen > 20


def test_masks_are_a_full_size_label_image_after_the_same_changes(tmp_path: Path) -> None:
    """The masks of an example are those of an image of ids that went through the same flip, scaling and window."""
    dataset = write(tmp_path, count=1)
    settings = Augmentation(scale_jitter=(0.6, 1.8), flip=0.5)
    masks = dataset.masks(0)
    assert masks is not None
    full = torch.from_numpy(masks.to_full().view(np.uint8))
    for epoch in range(10):
        example = TrainImages(dataset, SIZE, settings, seed=2, mask_stride=1)[epoch, 0]
        rng = np.random.default_rng((2, epoch, 0))
        # As documented: the flip first, then a factor on the scale that fits, then the window.
        flipped = rng.random() < 0.5
        scale = min(SIZE[0] / 150, SIZE[1] / 210) * rng.uniform(0.6, 1.8)
        height, width = int(150 * scale), int(210 * scale)
        top, left = (
            int(rng.uniform() * max(side - room, 0) + 0.5) for side, room in ((height, SIZE[0]), (width, SIZE[1]))
        )
        resized = F.resize(tv_tensors.Mask(full), [height, width], interpolation=F.InterpolationMode.NEAREST_EXACT)
        resized = F.horizontal_flip(resized) if flipped else resized
        window = F.crop(resized, top, left, min(height, SIZE[0]), min(width, SIZE[1])).as_subclass(Tensor)
        expected = torch.zeros(4, *SIZE, dtype=torch.uint8)
        expected[:, : window.shape[1], : window.shape[2]] = window
        assert example.masks is not None
        assert torch.equal(example.masks, expected[example.class_ids])


@pytest.mark.parametrize("name", ["translate-x", "translate-y", "shear-x", "shear-y", "rotate"])
def test_policies_move_masks_with_their_pixels(name: str) -> None:
    moved = 0
    for seed in range(12):
        before = sample(seed)
        after = WHOLE[name](before, float(seed % 11), np.random.default_rng(seed))
        assert after.masks is not None
        for mask, box, class_id in zip(after.masks, after.boxes_xyxy, after.class_ids.tolist(), strict=True):
            # Both are read at the nearest pixel, so that they agree exactly.
            assert torch.equal(mask == 1, coloured(after.pixels, class_id))
            tight, seen = tight_boxes(mask[None])
            assert not seen.any() or (tight[0] - box).abs().max() <= 1
        moved += int(not torch.equal(before.pixels, after.pixels))
    assert moved > 5


def test_a_turned_box_is_drawn_in_to_its_mask_unless_it_was_larger_before() -> None:
    before = sample(0)
    assert before.masks is not None
    wide = before.boxes_xyxy.clone()
    wide[0] += torch.tensor([-8.0, -8, 8, 8])  # around parts that nobody sees
    turned, as_wide = rotate(before, 25.0), rotate(before._replace(boxes_xyxy=wide), 25.0)
    plain = rotate(before._replace(masks=None), 25.0)
    area = lambda s: (s.boxes_xyxy[0, 2:] - s.boxes_xyxy[0, :2]).prod()  # noqa: E731
    assert area(turned) < area(plain) < area(as_wide)
    assert torch.equal(as_wide.boxes_xyxy[0], rotate(before._replace(boxes_xyxy=wide, masks=None), 25.0).boxes_xyxy[0])


@pytest.mark.parametrize("name", sorted(INSIDE))
def test_what_moves_in_a_box_moves_in_its_mask(name: str) -> None:
    for seed in range(6):
        before = sample(seed)
        after = change_in_boxes(before, INSIDE[name], 8.0, 3.0, np.random.default_rng(seed))
        assert before.masks is not None
        assert after.masks is not None
        without = change_in_boxes(before._replace(masks=None), INSIDE[name], 8.0, 3.0, np.random.default_rng(seed))
        assert torch.equal(after.pixels, without.pixels)  # masks take no part in chance
        if any(word in name for word in ("translate", "flip", "shear", "rotate")):
            for mask, class_id in zip(after.masks, after.class_ids.tolist(), strict=True):
                assert torch.equal(mask == 1, coloured(after.pixels, class_id))
        else:
            assert torch.equal(after.masks, before.masks)


@pytest.mark.parametrize("policy", [*POLICIES, "randaugment"])
def test_every_policy_keeps_a_mask_for_each_box(tmp_path: Path, policy: str) -> None:
    settings = Augmentation(scale_jitter=(0.8, 1.2), policy=policy, mosaic=0.3)  # type: ignore[arg-type]
    images = TrainImages(write(tmp_path), SIZE, settings, seed=1, mask_stride=4)
    for epoch in range(12):
        example = images[epoch, epoch % 3]
        assert example.masks is not None
        assert example.masks.shape == (len(example.boxes_xyxy), SIZE[0] // 4, SIZE[1] // 4)
        assert set(example.masks.unique().tolist()) <= {0, 1}


def test_objects_without_a_mask_are_not_known_anywhere(tmp_path: Path) -> None:
    for settings in (*GEOMETRY.values(), Augmentation(policy="v2", scale_jitter=(0.5, 1.0))):
        images = TrainImages(write(tmp_path, unknown=2), SIZE, settings, seed=3, mask_stride=4)
        for epoch in range(4):
            example = images[epoch, 0]
            assert example.masks is not None
            for mask, class_id in zip(example.masks, example.class_ids.tolist(), strict=True):
                assert (mask == UNKNOWN).all() if class_id == 2 else not (mask == UNKNOWN).any()


def test_the_same_images_are_seen_with_masks_and_without(tmp_path: Path) -> None:
    dataset = write(tmp_path)
    settings = Augmentation(scale_jitter=(0.4, 1.5), policy="v3", mosaic=0.5, colour=0.3, grid_mask=0.5)
    for epoch in range(8):
        plain = TrainImages(dataset, SIZE, settings, seed=4)[epoch, 1]
        masked = TrainImages(dataset, SIZE, settings, seed=4, mask_stride=4)[epoch, 1]
        assert plain.masks is None
        assert torch.equal(plain.class_ids, masked.class_ids)
        # Boxes are drawn in to masks, and only so; but for erasing about one, chance does not depend on them.
        corners = masked.boxes_xyxy - plain.boxes_xyxy
        assert (corners[:, :2] >= -1).all()
        assert (corners[:, 2:] <= 1).all()


def test_a_batch_pads_masks_and_moves_them(tmp_path: Path) -> None:
    images = TrainImages(write(tmp_path), SIZE, GEOMETRY["flip and jitter"], seed=5, mask_stride=4)
    examples = [images[0, i] for i in range(3)]
    batch = collate(examples).to(torch.device("cpu"))
    assert isinstance(batch, Batch)
    assert batch.masks is not None
    assert batch.masks.shape == (*batch.class_ids.shape, SIZE[0] // 4, SIZE[1] // 4)
    for i, example in enumerate(examples):
        assert torch.equal(batch.masks[i, : len(example.class_ids)], example.masks)
        assert not batch.masks[i, len(example.class_ids) :].any()
    assert batch.soft is None


def test_shrinking_by_hand() -> None:
    masks = torch.zeros(2, 4, 8, dtype=torch.uint8)
    masks[0, :2, :4] = masks[0, :, 4:7] = 1
    masks[1] = UNKNOWN
    assert shrunk(masks, 4).tolist() == [[[1, 1]], [[UNKNOWN, UNKNOWN]]]
    masks[0, 0, 0] = 0
    assert shrunk(masks, 4)[0].tolist() == [[0, 1]]
    assert shrunk(masks, 1) is masks
    assert shrunk(masks[:0], 4).shape == (0, 1, 2)


def sample(seed: int) -> Sample:
    size_hw = (120, 160)
    pixels = torch.full((3, *size_hw), 10, dtype=torch.uint8)
    masks = torch.stack([torch.from_numpy(painted_mask(ring, size_hw)) for ring in outlines(seed, size_hw)])
    for mask, colour in zip(masks, COLOURS, strict=True):
        pixels[:, mask] = torch.tensor(colour, dtype=torch.uint8)[:, None]
    boxes, _ = tight_boxes(masks.to(torch.uint8))
    return Sample(pixels, boxes, torch.arange(4), masks.to(torch.uint8))
