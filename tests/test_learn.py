"""Training: deterministic, resumable to the last bit, and right in its small parts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import peers
from phidet import create_model, load_model
from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.architecture import EFFICIENTDET
from phidet.architectures.efficientdet.decode import NetworkOutputs, select, with_best
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.core.errors import CheckpointError, ConfigError, TrainingDivergedError, UnknownNameError
from phidet.core.structs import replace
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Annotations, Dataset
from phidet.detections.boxes import encode
from phidet.evaluation.measure import COCO_SETTINGS
from phidet.images.prepare import Preprocess, prepare
from phidet.training import recipe as recipes
from phidet.training.augmentation.detection import augment
from phidet.training.fit import RunSettings, fit
from phidet.training.loading import EpochSampler, EvalImages, TrainImages, collate, eval_loader, normalise, train_loader
from phidet.training.optim import RunningAverage, peak_rate, rate_at
from phidet.training.recipe import PAPER, SMALL, Augmentation, choose_recipe, recipe_named
from phidet.training.task import Task

pytestmark = pytest.mark.usefixtures("unrendered")
STILL = Augmentation(scale_jitter=(1.0, 1.0), flip=0.0)
CLASSES = ("bolt", "nut", "washer")


@pytest.fixture
def squares(tmp_path: Path) -> Dataset:
    """Eight images with one bright square each; its size decides its class."""
    rng = np.random.default_rng(0)
    collector = Collector("squares", tmp_path, CLASSES)
    for i in range(8):
        pixels = rng.integers(0, 60, (120, 160, 3), dtype=np.uint8)
        side = (24, 40, 64)[i % 3]
        x, y = int(rng.integers(0, 160 - side)), int(rng.integers(0, 120 - side))
        pixels[y : y + side, x : x + side] = 230
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        box = (float(x), float(y), float(x + side), float(y + side))
        collector.add(path.name, path, (120, 160), [RawObject(str(path), box, CLASSES[i % 3])])
    return collector.dataset()


def one_object(box: tuple[float, float, float, float], crowd: bool = False) -> Annotations:
    return Annotations(
        np.array([box], np.float32), np.array([1]), np.array([1.0], np.float32), np.array([crowd]), np.array([False])
    )


def test_without_chance_training_sees_what_evaluation_sees(squares: Dataset) -> None:
    spec = Preprocess()
    image = squares.image(3)
    example = augment(image, squares.annotations(3), (128, 160), STILL, np.random.default_rng(0))
    seen = normalise(collate([example]), spec)[0]
    prepared, scale = prepare(image, (128, 160), spec)
    assert scale == 1.0
    torch.testing.assert_close(seen, torch.from_numpy(prepared))
    np.testing.assert_allclose(example.boxes_xyxy, squares.annotations(3).boxes_xyxy)


def test_boxes_follow_the_pixels() -> None:
    """A bright square stays where its box says, whatever is flipped, resized and cut."""
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:60, 120:180] = 255
    moved = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        example = augment(image, one_object((120, 20, 180, 60)), (96, 128), Augmentation(), rng)
        if not len(example.boxes_xyxy):
            continue
        x1, y1, x2, y2 = example.boxes_xyxy[0].tolist()
        bright = (example.pixels[0] > 127).nonzero()
        (top, left), (bottom, right) = bright.min(0).values.tolist(), (bright.max(0).values + 1).tolist()
        assert max(abs(x1 - left), abs(y1 - top), abs(x2 - right), abs(y2 - bottom)) <= 1.01
        moved += (x1, y1) != (0.0, 0.0)
    assert moved > 30


def test_crowds_are_no_targets() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    example = augment(image, one_object((120, 20, 180, 60), crowd=True), (96, 128), STILL, np.random.default_rng(0))
    assert example.boxes_xyxy.shape == (0, 4)


def test_batches_depend_on_seed_and_epoch_and_not_on_workers(squares: Dataset) -> None:
    def pixels(seed: int, epoch: int, workers: int) -> list[Tensor]:
        sampler = EpochSampler(len(squares), 3, seed)
        sampler.epoch = epoch
        images = TrainImages(squares, (128, 160), Augmentation(), seed)
        return [batch.pixels for batch in train_loader(images, sampler, workers)]

    first = pixels(0, 1, 0)
    assert len(first) == 2  # 8 images in batches of 3; the rest is left out
    assert all(torch.equal(a, b) for a, b in zip(first, pixels(0, 1, 2), strict=True))
    assert not torch.equal(first[0], pixels(0, 2, 0)[0])
    assert not torch.equal(first[0], pixels(1, 1, 0)[0])


def test_processes_share_the_batches_of_one() -> None:
    whole = list(EpochSampler(20, 8, seed=3))
    parts = [list(EpochSampler(20, 8, 3, rank, 2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert sorted(parts[0][step] + parts[1][step]) == sorted(batch)
        assert len(parts[0][step]) == 4


def test_a_broken_image_is_replaced_in_training_and_set_apart_in_evaluation(squares: Dataset, tmp_path: Path) -> None:
    (tmp_path / "2.png").write_bytes(b"not an image")
    images = TrainImages(squares, (128, 160), STILL, seed=0)
    assert torch.equal(images[0, 2].pixels, images[0, 3].pixels)
    config = replace(peers.tiny_detector(CLASSES), {"image_size_hw": (128, 160)})
    batch = next(iter(eval_loader(EvalImages(squares, EFFICIENTDET, config), range(8), 8, 0)))
    assert batch.parts[0].indices == [0, 1, 3, 4, 5, 6, 7]
    assert [index for index, _ in batch.broken] == [2]
    assert "2.png" in batch.broken[0][1]


def test_rate_warms_up_and_falls_to_nothing() -> None:
    recipe = recipes.replace(PAPER, {"epochs": 10, "batch_size": 32})
    assert peak_rate(recipe) == pytest.approx(0.04)  # linear: half of 64 images
    rates = [rate_at(step, 100, recipe) for step in range(1000)]
    assert rates[0] == pytest.approx(0.0004)
    assert max(rates) == rates[100] == pytest.approx(0.04)
    assert rates[550] == pytest.approx(0.02)
    assert 0 < rates[-1] < 1e-6
    adamw = recipes.replace(SMALL, {"batch_size": 16})
    assert peak_rate(adamw) == pytest.approx(SMALL.learning_rate / 2)


def test_running_average_is_its_formula() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    average, expected = RunningAverage(layer, 0.9), 0.0
    with torch.no_grad():
        layer.weight.fill_(0.0)
        average.values["weight"].fill_(0.0)
        for n in range(1, 200):
            layer.weight.fill_(float(n))
            average.update(layer)
            decay = min(0.9, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * n
    assert float(average.values["weight"]) == pytest.approx(expected, rel=1e-5)


def test_decoding_finds_what_was_planted() -> None:
    """Boxes written into the outputs come back in pixels of the image, doubles suppressed within a class only."""
    config = peers.tiny_detector()
    anchors = torch.tensor(generate_anchors((128, 160), config.feature_network.levels, config.anchors))
    logits = torch.full((1, len(anchors), 3), -20.0)
    deltas = torch.zeros(1, len(anchors), 4)
    wanted = torch.tensor([[10.0, 12.0, 40.0, 44.0], [11.0, 12.0, 41.0, 44.0], [60.0, 50.0, 170.0, 120.0]])
    for row, (anchor, class_id, logit) in enumerate([(100, 0, 3.0), (101, 0, 2.0), (700, 2, 1.0)]):
        logits[0, anchor, class_id] = logit
        deltas[0, anchor] = encode(wanted[row], anchors[anchor])
    logits[0, 101, 1] = 0.0
    outputs = NetworkOutputs(*(part[0] for part in with_best(logits.numpy(), deltas.numpy())))
    found, _ = select(outputs, anchors.numpy(), 0.5, (256, 320), COCO_SETTINGS, CLASSES)
    assert found.class_ids.tolist() == [0, 2, 1]
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-z)) for z in (3, 1, 0)], rtol=1e-5)
    np.testing.assert_allclose(found.boxes_xyxy, [[20, 24, 80, 88], [120, 100, 320, 240], [22, 24, 82, 88]], atol=1e-2)


def recipe_for_tests(epochs: int) -> recipes.Recipe:
    return recipes.replace(SMALL, {"epochs": epochs, "batch_size": 4, "warmup_epochs": 0.5})


def fresh(seed: int = 0) -> EfficientDet:
    torch.manual_seed(seed)
    return create_model(replace(peers.tiny_detector(CLASSES), {"image_size_hw": (128, 160)}))


def train(
    model: EfficientDet, data: Dataset, val: Dataset | None, recipe: recipes.Recipe, settings: RunSettings
) -> EfficientDet:
    return fit(model, Task(model.config, data, val), recipe, settings)


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    squares: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for_tests(3)
    whole = train(fresh(), squares, squares, recipe, RunSettings(out=tmp_path / "whole", workers=0, accelerator="cpu"))

    def interrupted(self: EpochSampler) -> object:
        if self.epoch == 2:
            raise KeyboardInterrupt
        return original(self)

    original = EpochSampler.__iter__
    cut = RunSettings(out=tmp_path / "cut", workers=0, accelerator="cpu")
    monkeypatch.setattr(EpochSampler, "__iter__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), squares, squares, recipe, cut)
    monkeypatch.setattr(EpochSampler, "__iter__", original)
    again = RunSettings(out=tmp_path / "cut", workers=0, accelerator="cpu", resume=True)
    resumed = train(fresh(seed=9), squares, squares, recipe, again)  # its own start is overwritten

    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    rows = [(tmp_path / run / "metrics.csv").read_text().splitlines() for run in ("whole", "cut")]
    assert len(rows[0]) == len(rows[1]) == 4
    assert [row.split(",")[:3] for row in rows[0]] == [row.split(",")[:3] for row in rows[1]]
    last = load_model(tmp_path / "cut" / "last.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(last.state_dict().values(), whole.state_dict().values(), strict=True))
    left = {path.name for path in (tmp_path / "cut").iterdir()}
    files = {
        "best.safetensors",
        "last.safetensors",
        "run.json",
        "metrics.csv",
        "metrics.json",
        "curves.png",
        "state.pt",
    }
    assert left == files


def test_a_run_does_not_overwrite_another_and_a_missing_one_cannot_be_resumed(squares: Dataset, tmp_path: Path) -> None:
    settings = RunSettings(out=tmp_path / "run", workers=0, accelerator="cpu")
    train(fresh(), squares, None, recipe_for_tests(1), settings)
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already"):
        train(fresh(), squares, None, recipe_for_tests(1), settings)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before
    nowhere = RunSettings(out=tmp_path / "nowhere", workers=0, accelerator="cpu", resume=True)
    with pytest.raises(CheckpointError, match="no run to resume"):
        train(fresh(), squares, None, recipe_for_tests(1), nowhere)


def test_a_loss_that_is_no_number_ends_the_run_and_says_where(squares: Dataset, tmp_path: Path) -> None:
    model = fresh()
    with torch.no_grad():
        model.box_head.predict.pointwise.bias.fill_(math.nan)
    with pytest.raises(TrainingDivergedError, match="epoch 1, step 1"):
        train(
            model, squares, None, recipe_for_tests(1), RunSettings(out=tmp_path / "run", workers=0, accelerator="cpu")
        )


def test_weights_that_the_last_step_destroyed_are_not_saved(squares: Dataset, tmp_path: Path) -> None:
    changes = {"batch_size": len(squares), "warmup_epochs": 0.0, "learning_rate": 1e300, "optimizer": "sgd"}
    recipe = recipes.replace(recipe_for_tests(1), changes)
    with pytest.raises(TrainingDivergedError, match="became NaN or infinite in epoch 1"):
        train(fresh(), squares, None, recipe, RunSettings(out=tmp_path / "run", workers=0, accelerator="cpu"))
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_recipes() -> None:
    assert choose_recipe(50).epochs == 100
    assert choose_recipe(400).epochs == 50
    assert choose_recipe(100_000).epochs == 30
    assert (PAPER.epochs, PAPER.batch_size, PAPER.learning_rate, PAPER.weight_decay) == (300, 128, 0.08, 4e-5)
    assert recipe_named("paper", 10) is PAPER
    with pytest.raises(UnknownNameError, match="Did you mean paper"):
        recipe_named("papers", 10)
    with pytest.raises(UnknownNameError, match="learning_rate"):
        recipes.replace(PAPER, {"learning_rat": 1})
    with pytest.raises(ConfigError, match="epochs must be"):
        recipes.replace(PAPER, {"epochs": 0})
    with pytest.raises(ConfigError, match="scale_jitter"):
        Augmentation(scale_jitter=(2.0, 1.0))
