"""Images put together and turned: boxes and masks go with their pixels; rates and freezing by depth and data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import peers
from phidet import create_model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data
from phidet.training import optim
from phidet.training.augmentation.detection import turned
from phidet.training.augmentation.mask_tensors import UNKNOWN
from phidet.training.augmentation.mixing import MOST_PASTED, mixed, paste_objects
from phidet.training.augmentation.operations import GREY, Sample
from phidet.training.loading import TrainImages
from phidet.training.recipe import SMALL, Augmentation, frozen_for, replace
from test_augment import COLOURS, _whole_ones, check_boxes_lie_on_objects, seen
from test_augment import sample as painted_sample
from test_augment_masks import painted_mask
from test_train_run import write_squares

pytestmark = pytest.mark.usefixtures("unrendered")


def one_object(class_id: int, box: tuple[int, int, int, int], size_hw: tuple[int, int] = (96, 128)) -> Sample:
    """A black image with one coloured rectangle, and its mask."""
    pixels = torch.zeros(3, *size_hw, dtype=torch.uint8)
    mask = torch.zeros(1, *size_hw, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    pixels[:, y1:y2, x1:x2] = torch.from_numpy(COLOURS[class_id])[:, None, None]
    mask[:, y1:y2, x1:x2] = 1
    return Sample(pixels, torch.tensor([box]).float(), torch.tensor([class_id]), mask)


def empty(size_hw: tuple[int, int] = (96, 128), grey: int = 0) -> Sample:
    pixels = torch.full((3, *size_hw), grey, dtype=torch.uint8)
    return Sample(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, *size_hw).byte())


def test_boxes_and_masks_of_pasted_objects_lie_on_them() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x, y = rng.integers(12, 60), rng.integers(12, 40)
        other = one_object(seed % 4, (x, y, x + rng.integers(10, 50), y + rng.integers(10, 40)))
        after = paste_objects(empty((80, 110)), other, rng)
        assert check_boxes_lie_on_objects(after, tolerance=1.6) == 1
        assert after.masks is not None
        x1, y1, x2, y2 = (int(v) for v in after.boxes_xyxy[0])
        assert after.masks[0, y1:y2, x1:x2].all()
        assert after.masks.sum() == (y2 - y1) * (x2 - x1)


def test_a_piece_has_no_seam() -> None:
    """On a ground of another brightness the piece's border takes that brightness."""
    other = one_object(0, (40, 30, 80, 60))
    after = paste_objects(empty(grey=90), other, np.random.default_rng(0))
    outside = after.masks[0] == 0  # type: ignore[index]
    # The rectangle's surroundings were black; nothing of that black is seen.
    assert (after.pixels[:, outside].int() - 90).abs().max() <= 1


def test_little_of_what_is_there_is_hidden() -> None:
    pasted = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        before, other = painted_sample(seed), painted_sample(seed + 1000)
        after = paste_objects(before, other, rng)
        count = len(before.boxes_xyxy)
        assert torch.equal(after.boxes_xyxy[:count], before.boxes_xyxy)
        assert len(after.boxes_xyxy) - count <= MOST_PASTED
        pasted += len(after.boxes_xyxy) - count
        changed = (after.pixels != before.pixels).any(0)
        for box, class_id in zip(before.boxes_xyxy.tolist(), before.class_ids.tolist(), strict=True):
            x1, y1, x2, y2 = (int(v) for v in box)
            assert changed[y1:y2, x1:x2].float().mean() <= 0.3 * MOST_PASTED
            assert seen(after.pixels, class_id) is not None
        limits = torch.tensor([160.0, 120, 160, 120])
        assert (after.boxes_xyxy >= 0).all()
        assert (after.boxes_xyxy <= limits).all()
    assert pasted > 40
    crowded = one_object(0, (0, 0, 128, 96))
    nothing = paste_objects(crowded, one_object(1, (10, 10, 100, 80)), np.random.default_rng(0))
    assert nothing.class_ids.tolist() == [0], "no room"
    assert torch.equal(nothing.pixels, crowded.pixels)


def test_what_is_hidden_is_no_longer_in_its_mask() -> None:
    below, above = one_object(1, (0, 0, 128, 96)), one_object(0, (40, 30, 60, 45))
    after = paste_objects(below, above, np.random.default_rng(0))
    assert after.masks is not None
    assert after.masks.shape[0] == 2
    assert not ((after.masks[0] == 1) & (after.masks[1] == 1)).any()
    assert ((after.masks[0] == 1) | (after.masks[1] == 1)).all()
    # Of an object whose mask is not known, the box hides.
    boxed = above._replace(masks=torch.full_like(above.masks, UNKNOWN))  # type: ignore[arg-type]
    after = paste_objects(below, boxed, np.random.default_rng(0))
    assert after.masks is not None
    assert (after.masks[1] == UNKNOWN).all()
    assert (after.masks[0] == 0).sum() == 20 * 15
    kept = paste_objects(
        below._replace(masks=torch.full((1, 96, 128), UNKNOWN).byte()), above, np.random.default_rng(0)
    )
    assert kept.masks is not None
    assert (kept.masks[0] == UNKNOWN).all()


def test_mixup_is_a_weighted_mean_of_pixels_with_the_objects_of_both() -> None:
    rng = np.random.default_rng(0)
    first, second = one_object(0, (10, 10, 60, 50)), one_object(1, (30, 20, 90, 70), (110, 100))
    shares = []
    for _ in range(200):
        after = mixed(first, second, rng)
        assert after.pixels.shape == (3, 110, 128)
        assert after.boxes_xyxy.tolist() == [[10, 10, 60, 50], [30, 20, 90, 70]]
        assert after.class_ids.tolist() == [0, 1]
        share = float(after.pixels[0, 12, 12]) / 220  # of the first alone, over black
        shares.append(share)
        both = share * torch.from_numpy(COLOURS[0]).float() + (1 - share) * torch.from_numpy(COLOURS[1]).float()
        assert (after.pixels[:, 30, 40] - both).abs().max() <= 1.5
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.std(shares) == pytest.approx(np.sqrt(64 / (16**2 * 17)), abs=0.02)
    assert after.masks is not None
    assert after.masks[1, 20:70, 30:90].all()
    assert after.masks.sum() == 50 * 40 + 60 * 50
    # Where only one image reaches it is seen alone, and where none does all is grey.
    bright = Sample(torch.full((3, 20, 100), 200).byte(), first.boxes_xyxy[:0], first.class_ids[:0])
    tall = Sample(torch.full((3, 60, 30), 100).byte(), first.boxes_xyxy[:0], first.class_ids[:0])
    after = mixed(bright, tall, rng)
    assert (after.pixels[:, :20, 30:] == 200).all()
    assert (after.pixels[:, 20:, :30] == 100).all()
    assert (after.pixels[:, 20:, 30:] == GREY).all()
    inside = after.pixels[:, :20, :30]
    assert 100 < inside.min() <= inside.max() < 200


def test_boxes_and_masks_turn_with_their_objects() -> None:
    settings = Augmentation(rotate=25, shear=0.2)
    found = 0
    for seed in range(40):
        before = painted_sample(seed)
        after = turned(before, settings, np.random.default_rng(seed))
        found += check_boxes_lie_on_objects(_whole_ones(before, after, "rotate"), tolerance=40)
        ring = np.array([[50.0, 30], [80, 35], [85, 60], [55, 62]])
        mask = torch.from_numpy(painted_mask(ring, (96, 128)))
        pixels = torch.where(mask, torch.from_numpy(COLOURS[2])[:, None, None], 0).byte()
        box = torch.tensor([[50.0, 30, 85, 62]])
        solid = Sample(pixels, box, torch.tensor([2]), mask[None].byte())
        turned_one = turned(solid, settings, np.random.default_rng(seed))
        assert turned_one.masks is not None
        colour = (turned_one.pixels.int() - torch.from_numpy(COLOURS[2].astype(np.int32))[:, None, None]).abs().amax(
            0
        ) < 12
        assert (colour == (turned_one.masks[0] == 1)).float().mean() > 0.995
        around = seen(turned_one.pixels, 2)
        assert around is not None
        # With a mask the box is drawn in to the object, which a box of turned corners is not.
        assert np.abs(np.array(around) - turned_one.boxes_xyxy[0].numpy()).max() <= 1.6
    assert found > 60


@pytest.fixture
def squares(tmp_path: Path) -> Dataset:
    return open_data(write_squares(tmp_path)).read("train")


def differing(one: TrainImages, other: TrainImages, epoch: int) -> int:
    return sum(not torch.equal(one[epoch, i].pixels, other[epoch, i].pixels) for i in range(len(one.dataset)))


def test_the_last_epochs_are_plain(squares: Dataset) -> None:
    plain = Augmentation(rotate=10)
    busy = replace(SMALL, {"augmentation": {"mosaic": 1, "copy_paste": 1, "mixup": 1, "rotate": 10, "plain_epochs": 2}})
    settings = replace(busy, {"augmentation": {"scale_jitter": plain.scale_jitter, "colour": 0}}).augmentation
    mixing, alone = TrainImages(squares, (96, 96), settings, 7), TrainImages(squares, (96, 96), plain, 7)
    assert [differing(mixing, alone, epoch) for epoch in (0, 3, 4)] == [8, 8, 8], "how many epochs is not known"
    mixing.epochs = 5
    assert [differing(mixing, alone, epoch) for epoch in (0, 2, 3, 4)] == [8, 8, 0, 0]


def test_it_happens_as_often_as_it_should(squares: Dataset) -> None:
    still = Augmentation(scale_jitter=(1, 1), flip=0)
    images = TrainImages(squares, (64, 64), Augmentation(scale_jitter=(1, 1), flip=0, mixup=0.5), 1)
    alone = TrainImages(squares, (64, 64), still, 1)
    share = sum(differing(images, alone, epoch) for epoch in range(25)) / 200
    assert share == pytest.approx(0.5 * 7 / 8, abs=0.1), "an eighth is mixed with itself, which shows nothing"


def test_rates_fall_with_depth() -> None:
    torch.manual_seed(0)
    model = create_model(peers.tiny_detector())
    recipe = replace(SMALL, {"backbone_rate": 0.5, "layer_decay": 0.8, "weight_decay": 0.1})
    optimizer = optim.build_optimizer(model, recipe, torch.device("cpu"))
    names = {p: name for name, p in model.named_parameters()}
    factors = {names[p]: group["factor"] for group in optimizer.param_groups for p in group["params"]}
    decays = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert factors.keys() == set(names.values()), "every parameter, once"
    blocks = len(model.backbone.blocks)  # type: ignore[union-attr,arg-type]
    assert blocks > 3
    for name, factor in factors.items():
        if name.startswith("backbone.blocks."):
            k = int(name.split(".")[2]) + 1
            assert factor == pytest.approx(0.5 * 0.8 ** (blocks - k)), name
        elif name.startswith("backbone.stem"):
            assert factor == pytest.approx(0.5 * 0.8**blocks), name
        else:
            assert factor == 1, name
        assert decays[name] == (0.1 if dict(model.named_parameters())[name].ndim > 1 else 0)
    usual = optim.build_optimizer(model, SMALL, torch.device("cpu"))
    assert [group["factor"] for group in usual.param_groups] == [0.5, 0.5, 1, 1], "as before"


def test_rates_by_depth_need_blocks() -> None:
    torch.manual_seed(0)
    model = create_model(peers.tiny_detector())
    architecture = architecture_of(model.config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(architecture), "recomputed_blocks", lambda self, model: [])
        with pytest.raises(ConfigError, match="no backbone of blocks: train it with layer_decay=1"):
            optim.build_optimizer(model, replace(SMALL, {"layer_decay": 0.9}), torch.device("cpu"))


def test_what_is_frozen_by_the_number_of_images() -> None:
    assert [frozen_for(n, pretrained=True) for n in (1, 99, 100, 499, 500, 10**6)] == [
        *("backbone", "backbone", "early", "early", "none", "none"),
    ]
    assert frozen_for(10, pretrained=False) == "none"
