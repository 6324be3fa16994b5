"""How DETR is trained: its crops and scales, its optimizer and schedule, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

import detr_reference as reference
import processes
from phidet import create_model, load_model, save_model, train
from phidet.architectures.detr.architecture import DETR
from phidet.data.dataset import Annotations
from phidet.images.prepare import IMAGENET, shorter_side_size
from phidet.training import recipe as recipes
from phidet.training.augmentation.detection import Example, augment
from phidet.training.augmentation.multi_scale import CROP_SCALES, SCALES, crop, flip, resize
from phidet.training.augmentation.operations import Sample
from phidet.training.fit import RunSettings
from phidet.training.loading import EpochSampler, collate, normalise
from phidet.training.optim import build_optimizer, frozen_parts, rate_at
from phidet.training.recipe import Augmentation, recipe_named
from phidet.training.run import resume
from test_detr_dialects import small
from test_train_run import write_squares

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture(scope="module")
def values(shared: Path) -> dict[str, Any]:
    return reference.values(shared, "transforms")


def sample_of(values: dict[str, Any]) -> Sample:
    pixels = torch.from_numpy(values["image"]).permute(2, 0, 1)
    return Sample(pixels, torch.from_numpy(values["boxes_xyxy"]), torch.arange(len(values["boxes_xyxy"])))


# ---- images


def test_sizes_are_the_official_ones(values: dict[str, Any]) -> None:
    for width, height, shorter, longest, new_width, new_height in values["resize"].tolist():
        assert shorter_side_size((height, width), shorter, longest or None) == (new_height, new_width)


def test_boxes_after_a_flip_a_crop_and_a_resize(values: dict[str, Any]) -> None:
    sample = sample_of(values)
    np.testing.assert_allclose(flip(sample).boxes_xyxy, values["hflip_boxes"], atol=1e-4)
    assert torch.equal(flip(sample).pixels[:, :, 0], sample.pixels[:, :, -1])
    top, left, height, width = values["crop_top_left_h_w"].tolist()
    cropped = crop(sample, (top, left), (height, width))
    np.testing.assert_allclose(cropped.boxes_xyxy, values["crop_boxes"], atol=1e-4)
    np.testing.assert_array_equal(cropped.class_ids, values["crop_labels"])
    assert torch.equal(cropped.pixels, sample.pixels[:, top : top + height, left : left + width])
    size_hw = tuple(values["resize35_size_hw"].tolist())
    assert shorter_side_size(sample.pixels.shape[1:], 35) == size_hw  # type: ignore[arg-type]
    resized = resize(sample, size_hw)
    np.testing.assert_allclose(resized.boxes_xyxy, values["resize35_boxes"], atol=1e-4)
    assert resized.pixels.shape[1:] == size_hw


def test_normalisation(values: dict[str, Any]) -> None:
    pixels = torch.from_numpy(values["image"]).permute(2, 0, 1)
    empty = Example(pixels, (70, 90), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    images = normalise(collate([empty]), IMAGENET)
    np.testing.assert_allclose(images[0].numpy(), values["normalized_image"], atol=1e-5)


def objects_at(*boxes_xyxy: tuple[float, float, float, float]) -> Annotations:
    boxes = np.array(boxes_xyxy, np.float32).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Annotations(boxes, np.full(len(boxes), 3), areas, *(np.zeros(len(boxes), bool) for _ in range(2)))


def test_published_sizes_are_those_of_the_official_training() -> None:
    assert [round(800 * scale) for scale in SCALES] == list(range(480, 801, 32))
    assert [round(800 * scale) for scale in CROP_SCALES] == [400, 500, 600]


@pytest.mark.parametrize("varying", [True, False])
@pytest.mark.parametrize("cropped", [0.0, 1.0])
def test_multi_scale_examples_keep_their_objects_in_place(varying: bool, cropped: float) -> None:
    """One bright rectangle: its box is where it is bright, whatever was drawn."""
    pixels = np.full((120, 160, 3), 20, np.uint8)
    pixels[40:80, 60:130] = 230
    objects = objects_at((60, 40, 130, 80))
    settings = Augmentation(sizes="multi-scale", crop=cropped, flip=0.5)
    sizes = set()
    for seed in range(40):
        example = augment(pixels, objects, (200, 300), settings, np.random.default_rng(seed), varying)
        height, width = example.valid_hw
        sizes.add((height, width))
        assert example.pixels.shape[1:] == ((height, width) if varying else (200, 300))
        assert not example.pixels[:, height:].any()
        assert max(height, width) <= 301
        assert varying or (height <= 200 and width <= 300)
        if not len(example.boxes_xyxy):
            continue
        x1, y1, x2, y2 = example.boxes_xyxy[0].tolist()
        rows, columns = np.nonzero(example.pixels[0, :height, :width].numpy() > 125)
        found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose(found, (x1, y1, x2, y2), atol=1.6)
    assert len(sizes) > 5


def test_crops_have_the_official_limits() -> None:
    pixels, objects = np.zeros((480, 640, 3), np.uint8), objects_at()
    settings = Augmentation(sizes="multi-scale", crop=1.0)
    aspects = []
    for seed in range(60):
        example = augment(pixels, objects, (800, 1333), settings, np.random.default_rng(seed), True)
        height, width = example.valid_hw
        assert min(height, width) in range(480, 801, 32)
        aspects.append(width / height)
    # Sides of a crop are drawn apart, each from 384 to 600, so it is never longer than this.
    assert 384 / 600 - 0.01 <= min(aspects) < 0.95
    assert 1.2 < max(aspects) <= 600 / 384 + 0.01


# ---- the recipe


def test_the_recipe_is_the_papers() -> None:
    recipe = recipe_named("detr", 118_000, DETR)
    model = create_model(small()).train()
    for part in frozen_parts(model, recipe):
        part.requires_grad_(False)
    optimizer = build_optimizer(model, recipe, torch.device("cpu"))
    assert isinstance(optimizer, torch.optim.AdamW)
    rate = rate_at(0, 100, recipe)
    assert rate == pytest.approx(1e-4)
    in_groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if name.startswith(("backbone.conv1", "backbone.layer1")):
            assert id(parameter) not in in_groups
            continue
        group = in_groups[id(parameter)]
        assert group["weight_decay"] == 1e-4, name
        assert group["factor"] * rate == pytest.approx(1e-5 if name.startswith("backbone.") else 1e-4), name
    assert (recipe.clip_norm, recipe.epochs, recipe.ema_decay) == (0.1, 300, 0)
    assert recipe.augmentation == Augmentation(sizes="multi-scale", crop=0.5, flip=0.5)
    assert [rate_at(epoch * 100, 100, recipe) for epoch in (0, 199)] == [pytest.approx(1e-4)] * 2
    assert [rate_at(epoch * 100, 100, recipe) for epoch in (200, 299)] == [pytest.approx(1e-5)] * 2
    shorter = recipes.replace(recipe, {"epochs": 150, "batch_size": 64})
    assert rate_at(99 * 7, 7, shorter) == pytest.approx(2e-4)
    assert rate_at(100 * 7, 7, shorter) == pytest.approx(2e-5)


def test_batch_norms_never_learn() -> None:
    model = create_model(small()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" in name}
    model(torch.randn(2, 3, 64, 64)).class_logits.sum().backward()
    assert not [name for name, _ in model.named_parameters() if ".bn" in name]
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


# ---- runs


def tiny(folder: Path) -> Path:
    """A model file to begin from."""
    torch.manual_seed(0)
    narrow = msgspec.structs.replace(small(), class_names=processes.CLASSES, image_size_hw=(64, 96))
    backbone = msgspec.structs.replace(narrow.backbone, width=0.25)
    save_model(create_model(msgspec.structs.replace(narrow, backbone=backbone)), folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


def test_an_interrupted_run_goes_on_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, crops and scales are chance, too; the images of a batch differ in size."""
    write_squares(tmp_path / "data", 6)
    model = tiny(tmp_path)

    def run(folder: str) -> None:
        settings = RunSettings(out=tmp_path / folder, accelerator="cpu", workers=0)
        changes = {"epochs": 2, "batch_size": 3}
        train(tmp_path / "data", model, recipe="detr", changes=changes, splits=("train", "none"), settings=settings)

    def interrupted(self: EpochSampler) -> object:
        if self.epoch == 1:
            raise KeyboardInterrupt
        return original(self)

    original = EpochSampler.__iter__
    run("whole")
    monkeypatch.setattr(EpochSampler, "__iter__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    monkeypatch.setattr(EpochSampler, "__iter__", original)
    resume(tmp_path / "cut", RunSettings(out=tmp_path / "cut", accelerator="cpu", workers=0))
    whole, cut = (load_model(tmp_path / run / "last.safetensors").state_dict() for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    begun = load_model(model).state_dict()
    changed = {name for name in whole if not torch.equal(whole[name], begun[name])}
    assert not [name for name in changed if name.startswith(("backbone.conv1", "backbone.layer1", "backbone.bn1"))]
    assert {"backbone.layer4.0.conv1.weight", "queries.weight", "class_head.bias"} <= changed
