"""Classification: image folders, metrics, images, and the same trainer."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor

from phidet import create_classifier, load_model, save_model
from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.middle import classifier_input, middle
from phidet.architectures.classifier.network import Classifier
from phidet.cli.main import main
from phidet.core.errors import InputError, UnknownNameError
from phidet.data.class_folders import open_class_folders, split_by_class
from phidet.data.dataset import Dataset
from phidet.detections.sheet import GAP, STRIP, TILE_H, TILE_W
from phidet.evaluation.classification import classification_report
from phidet.evaluation.classification_report import Answers, answers_of, write_classification
from phidet.training import recipe as recipes
from phidet.training.about import Request
from phidet.training.augmentation.classification import TrainWholeImages, random_window
from phidet.training.evaluate import detect
from phidet.training.fit import RunSettings, fit
from phidet.training.loading import EpochSampler, train_loader
from phidet.training.recipe import CLASSIFY, Augmentation, choose_classify_recipe
from phidet.training.run_data import RunData, read_run_data
from phidet.training.task import Task

CPU = Fabric(accelerator="cpu", devices=1)
CLASSES = ("bolt", "nut", "washer")
TABLES = ("classes.csv", "confusion.csv")
COLOURS = ((200, 60, 60), (60, 190, 70), (70, 70, 210))


def read_classes(folder: Path) -> RunData:
    return read_run_data(Request(data=str(folder)), seed=0, classify=True)


def write_pictures(folder: Path, per_class: int, seed: int = 0) -> None:
    """Noisy images of one colour for each class, of all shapes."""
    rng = np.random.default_rng(seed)
    for name, colour in zip(CLASSES, COLOURS, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            size = tuple(rng.integers(40, 90, 2))
            pixels = np.array(colour) + rng.integers(-50, 50, (*size, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")


def tiny(class_names: tuple[str, ...] = CLASSES) -> Classifier:
    torch.manual_seed(0)
    backbone = BackboneConfig(architecture="efficientnet-lite", width=0.25, depth=0.3)
    return create_classifier(
        ClassifierConfig(
            name="tiny",
            backbone=backbone,
            head_channels=32,
            dropout=0.1,
            image_size_hw=(48, 64),
            class_names=class_names,
        )
    )


def classify(model: Classifier, dataset: Dataset) -> Answers:
    """What ``model`` says of each image, all of which can be decoded."""
    return answers_of(*detect(model, dataset, CPU, batch_size=4, workers=0))


def test_folders_are_classes_with_splits_and_without(tmp_path: Path) -> None:
    write_pictures(tmp_path / "bare", 3)
    bare = open_class_folders(tmp_path / "bare")
    assert bare.splits == ("all",)
    dataset = bare.read("all")
    assert dataset.class_names == CLASSES
    assert dataset.all_annotations.class_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert dataset.names[4] == "nut/1.png"
    height, width = dataset.size_hw(4)
    assert dataset.annotations(4).boxes_xyxy.tolist() == [[0.0, 0.0, width, height]]

    write_pictures(tmp_path / "split" / "train", 2)
    write_pictures(tmp_path / "split" / "val", 1, seed=1)
    (tmp_path / "split" / "val" / "gear").mkdir()
    (tmp_path / "split" / "val" / "nut" / "0.png").rename(tmp_path / "split" / "val" / "gear" / "0.png")
    folder = open_class_folders(tmp_path / "split")
    assert folder.splits == ("train", "val")
    assert (folder.train_split(), folder.val_split()) == ("train", "val")
    val = folder.read("val")
    assert val.class_names == CLASSES  # of the training split, whatever the other one has
    assert val.all_annotations.class_ids.tolist() == [0, 2]
    assert sorted((p.kind, Path(p.where).name) for p in val.problems) == [
        ("class unknown", "0.png"),
        ("image missing", "nut"),
    ]


def test_a_broken_image_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(tmp_path, 4)
    (tmp_path / "nut" / "2.png").write_bytes(b"no picture")
    (tmp_path / "nut" / "notes.txt").write_text("not meant as a picture")
    with caplog.at_level(logging.WARNING, "phidet"):
        train, val = read_classes(tmp_path)
    assert len(train) + len(val) == 11
    assert [record.message.count("2.png") > 0 for record in caplog.records] == [True]
    # Its header is fine but its pixels are not: seen when it is decoded.
    whole = (tmp_path / "nut" / "1.png").read_bytes()
    (tmp_path / "nut" / "1.png").write_bytes(whole[: len(whole) // 2])
    dataset = open_class_folders(tmp_path).read("all")
    found = detect(tiny(), dataset, CPU, workers=0)
    report = answers_of(*found).report(found.dataset)
    assert report.images == 10
    assert report.summary is not None
    assert [(lost.kind, lost.count) for lost in report.summary.left_out] == [("image unreadable", 2)]
    index = dataset.names.tolist().index("nut/1.png")
    pictures = TrainWholeImages(dataset, (48, 64), Augmentation(), 0)
    assert pictures[0, index].class_ids.tolist() == [1]  # the next one takes its place, with its own class


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, classes: int) -> None:
    if classes:
        (tmp_path / "cat").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "1.png")
    with pytest.raises(InputError, match="two classes or more, found " + ("only 'cat'" if classes else "none")):
        open_class_folders(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        open_class_folders(tmp_path / "nowhere")


def test_each_class_gives_its_share_to_validation(tmp_path: Path) -> None:
    write_pictures(tmp_path, 10)
    for i in range(1, 10):
        (tmp_path / "washer" / f"{i}.png").unlink()  # one is left: it stays in training
    dataset = open_class_folders(tmp_path).read("all")
    train, val = split_by_class(dataset, 0.2, seed=3)
    assert np.bincount(train.all_annotations.class_ids).tolist() == [8, 8, 1]
    assert np.bincount(val.all_annotations.class_ids, minlength=3).tolist() == [2, 2, 0]
    assert sorted([*train.names, *val.names]) == sorted(dataset.names)
    assert split_by_class(dataset, 0.2, seed=3)[1].names.tolist() == val.names.tolist()
    assert split_by_class(dataset, 0.2, seed=4)[1].names.tolist() != val.names.tolist()


def test_metrics_by_hand() -> None:
    ranked = np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [5, 4, 3, 2, 1], [2, 1, 0, 5, 4]])
    report = classification_report(np.array([0, 0, 0, 2]), ranked, "abcdef")
    assert (report.images, report.top1, report.top5) == (4, 0.5, 0.75)  # the third has no 0 among its five
    assert report.per_class == {"a": pytest.approx(1 / 3), "b": None, "c": 1.0, "d": None, "e": None, "f": None}
    assert report.confusion[0] == [1, 1, 0, 0, 0, 1]
    assert report.confusion[2] == [0, 0, 1, 0, 0, 0]
    empty = classification_report(np.zeros(0, np.int64), np.zeros((0, 5), np.int64), "abcdef")
    assert (empty.images, empty.top1, empty.top5) == (0, None, None)


def test_the_middle_of_an_image_is_what_imagenet_evaluation_takes() -> None:
    """224 of 256 pixels of the shorter side, undistorted: a column painted there comes out where it should."""
    image = np.zeros((256, 400, 3), np.uint8)
    image[:, 88:90] = 255  # the window's first two columns: (400 − 224) / 2
    pixels = middle(image, (224, 224))
    assert pixels.shape == (3, 224, 224)
    assert (pixels[:, :, :2] == 255).all()
    assert (pixels[:, :, 2:] == 0).all()
    tall = np.zeros((600, 300, 3), np.uint8)
    tall[300:] = 255
    halves = middle(tall, (64, 64))
    assert (halves[:, :31] < 40).all()
    assert (halves[:, 33:] > 215).all()


def test_random_windows_lie_inside_and_zoom() -> None:
    """A ramp's slope in the window says how large the window was."""
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 120, 0).repeat(3, 2)
    spans = []
    for seed in range(60):
        pixels = random_window(ramp, (50, 50), (1.0, 2.0), np.random.default_rng(seed))
        row = pixels[0, 25].float()
        assert 0 <= row.min() < row.max() <= 199
        spans.append(float(row[-1] - row[0]) * 50 / 49)
    assert 45 < min(spans) < 70  # half of 120, a little distorted
    assert 100 < max(spans) <= 140


def test_images_depend_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path, 4)
    dataset = open_class_folders(tmp_path).read("all")
    settings = Augmentation(scale_jitter=(1.0, 2.0), colour=0.2, policy="randaugment")

    def batches(workers: int, epoch: int) -> list[tuple[Tensor, ...]]:
        sampler = EpochSampler(len(dataset), 4, 0)
        sampler.epoch = epoch
        return [tuple(b) for b in train_loader(TrainWholeImages(dataset, (48, 64), settings, 0), sampler, workers)]

    first = batches(0, 0)
    for ours, theirs in zip(first, batches(2, 0), strict=True):
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(first[0][0], batches(0, 1)[0][0])
    order = np.random.default_rng((0, 0)).permutation(len(dataset))
    assert first[0][3][:, 0].tolist() == dataset.all_annotations.class_ids[order[:4]].tolist()


def test_loss_is_smoothed_cross_entropy(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    dataset = open_class_folders(tmp_path).read("all")
    model = tiny().eval()
    task = Task(model.config, dataset, None)
    recipe = recipes.replace(CLASSIFY, {"batch_size": 6})
    batch = next(iter(task.loader(recipe, 0, EpochSampler(6, 6, 0), 0)))
    loss = task.losses(Fabric(accelerator="cpu", devices=1), model, batch, recipe)["loss"]
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (model.config.preprocess.mean_rgb, model.config.preprocess.std_rgb)
    )
    logs = model((batch.pixels - mean) / std).log_softmax(1).double()
    wanted = 0.9 * torch.nn.functional.one_hot(batch.class_ids[:, 0], 3) + 0.1 / 3
    torch.testing.assert_close(loss.double(), -(wanted * logs).sum(1).mean(), rtol=1e-5, atol=0)


def test_evaluation_sees_what_the_model_says(tmp_path: Path) -> None:
    """A linear layer set by hand, on top of features of a fixed network, against a loop over the images."""
    write_pictures(tmp_path, 3)
    dataset = open_class_folders(tmp_path).read("all")
    model = tiny()
    report = classify(model, dataset).report(dataset)
    assert model.training  # as it was before
    model.eval()
    right = 0
    with torch.inference_mode():
        for i in range(len(dataset)):
            logits = model(classifier_input(dataset.image(i), model.config)[None])
            right += int(logits.argmax()) == int(dataset.annotations(i).class_ids[0])
    assert report.top1 == pytest.approx(right / 9)
    assert report.top5 == 1.0  # of three classes


def test_answers_are_the_models_best_classes_with_their_probabilities(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    dataset, model = open_class_folders(tmp_path).read("all"), tiny().eval()
    answers = classify(model, dataset)
    assert len(answers.class_ids) == 9
    with torch.inference_mode():
        images = torch.stack([classifier_input(dataset.image(i), model.config) for i in range(9)])
        wanted = model(images).softmax(1)
    chosen = np.take_along_axis(wanted.numpy(), answers.ranked, 1)
    np.testing.assert_allclose(answers.probabilities, chosen, rtol=1e-5)
    assert (np.diff(answers.probabilities) <= 0).all()
    assert answers.class_ids.tolist() == [dataset.class_names.index(str(n).split("/")[0]) for n in dataset.names]


def test_the_most_certain_mistakes_come_first(tmp_path: Path) -> None:
    """Three classes of one colour each: the tiles show which images were chosen, in which order."""
    write_pictures(tmp_path, 2)
    dataset = open_class_folders(tmp_path).read("all")
    class_ids = np.array([0, 0, 1, 1, 2, 2])
    ranked = np.array([[0, 1, 2], [1, 0, 2], [1, 0, 2], [2, 0, 1], [0, 1, 2], [2, 1, 0]])  # 1, 3 and 4 are wrong
    certain = np.array([0.99, 0.5, 0.99, 0.6, 0.9, 0.99], np.float32)
    probabilities = np.stack([certain, (1 - certain) / 2, (1 - certain) / 2], 1)
    answers = Answers(class_ids, ranked, probabilities.astype(np.float32))
    written = write_classification(tmp_path / "out", answers.report(dataset), dataset, answers)
    assert [path.name for path in written] == ["report.json", *TABLES, "confusion.png", "mistakes.png", "samples.png"]
    assert json.loads(written[0].read_bytes())["top1"] == 0.5

    def colours(path: Path) -> list[int]:
        sheet = np.asarray(Image.open(path).convert("RGB"), float)
        boxes = [(GAP + i % 4 * (TILE_W + GAP), 64 + i // 4 * (TILE_H + STRIP + GAP)) for i in range(8)]
        seen = [sheet[y + TILE_H - 30 : y + TILE_H - 20, x + TILE_W // 2 - 9 : x + TILE_W // 2 + 9] for x, y in boxes
                if y + TILE_H < len(sheet)]  # fmt: skip
        means = [part.mean((0, 1)) for part in seen if part.mean() < 250]
        return [int(np.abs(np.array(COLOURS) - mean).sum(1).argmin()) for mean in means]

    assert colours(written[4]) == [2, 1, 0], "pictures 4, 3 and 1"
    assert colours(written[5]) == [0, 0, 1, 1, 2, 2]


def test_a_report_without_images_or_mistakes_is_whole(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    dataset = open_class_folders(tmp_path).read("all")
    none = Answers(*(np.zeros(s, np.int64) for s in (0, (0, 3))), np.zeros((0, 3), np.float32))
    assert (
        json.loads(write_classification(tmp_path / "none", none.report(dataset), dataset, none)[0].read_bytes())["top1"]
        is None
    )
    right = Answers(np.arange(3), (np.arange(3)[:, None] + np.arange(3)) % 3, np.ones((3, 3), np.float32))
    assert len(write_classification(tmp_path / "right", right.report(dataset), dataset, right)) == 6


def test_a_run_learns_colours_and_leaves_a_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 24)
    train, val = read_classes(tmp_path / "data")
    model = tiny()
    recipe = recipes.replace(CLASSIFY, {"epochs": 6, "batch_size": 8, "learning_rate": 0.03, "warmup_epochs": 0.5})
    settings = RunSettings(out=tmp_path / "run", workers=0, accelerator="cpu")
    averaged = fit(model, Task(model.config, train, val), recipe, settings)
    report = classify(averaged, val).report(val)
    assert report.top1 == 1.0
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"best.safetensors", "last.safetensors", "run.json", "metrics.csv", "curves.png", "state.pt"} <= left
    header, *rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert {"loss", "top1", "top5"} <= set(header.split(","))
    assert len(rows) == 6
    best = load_model(tmp_path / "run" / "best.safetensors")
    assert isinstance(best, Classifier)
    assert best.config.class_names == CLASSES


def test_eval_measures_what_a_run_held_out_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_pictures(tmp_path / "data", 10)
    save_model(tiny(), tmp_path / "tiny.safetensors")
    words = ["train", str(tmp_path / "data"), "--task", "classify", "--model", str(tmp_path / "tiny.safetensors")]
    words += ["--epochs", "1", "--workers", "0", "--accelerator", "cpu", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 0
    assert "split held out by the run: 6 images" in capsys.readouterr().out
    all_of_them = ["--val-split", "none", "--out", str(tmp_path / "other")]
    assert main([*words[:-2], *all_of_them]) == 0
    (tmp_path / "data" / "axle").mkdir()
    shutil.copy(tmp_path / "data" / "nut" / "1.png", tmp_path / "data" / "axle" / "1.png")
    with caplog.at_level("INFO", "phidet"):
        assert main(["eval", str(tmp_path / "run"), str(tmp_path / "data")]) == 0
    assert "split held out by the run: 6 images" in capsys.readouterr().out, "a folder more changes nothing"
    assert "class 'axle' is not one of the classes; left out" in caplog.text
    shutil.rmtree(tmp_path / "data" / "axle")
    assert json.loads((tmp_path / "other" / "run.json").read_text())["num_images"] == 30, "none is left out"
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "other"), str(tmp_path / "data")]) == 0
    assert "split all: 30 images" in capsys.readouterr().out, "where nothing was held out"
    of_run, of_eval = (json.loads((tmp_path / f / "report.json").read_text()) for f in ("run/report", "out"))
    assert of_run == of_eval
    pictures = {"report.json", *TABLES, "confusion.png", "mistakes.png", "samples.png"}
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} == pictures


def test_recipe_follows_the_amount_of_data() -> None:
    assert choose_classify_recipe(300).epochs == 50
    assert choose_classify_recipe(2000).epochs == 10
    assert choose_classify_recipe(100_000).epochs == 5
    assert choose_classify_recipe(40).batch_size == 5
    assert choose_classify_recipe(1000).batch_size == 32


def test_a_classifier_for_new_classes_keeps_what_it_knows() -> None:
    known = create_classifier("efficientnet-lite0", pretrained="imagenet")
    fresh = create_classifier(
        "efficientnet-lite0", class_names=CLASSES, image_size=96, pretrained="imagenet", replace_head=True
    )
    assert fresh.config.class_names == CLASSES
    assert fresh.config.image_size_hw == (96, 96)
    assert torch.equal(fresh.backbone.stem.conv.weight, known.backbone.stem.conv.weight)  # type: ignore[union-attr]
    assert fresh.linear.weight.shape == (3, 1280)
    # Its first answers are nearly even, whatever the features: that is what a fresh predictor knows.
    with torch.inference_mode():
        scores = fresh.eval()(torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))).softmax(1)
    assert float(scores.max()) < 0.7
    with pytest.raises(UnknownNameError, match="efficientnet-lite0"):
        create_classifier("efficientnet-lit0", class_names=CLASSES)


@pytest.mark.slow
def test_blood_cells_are_told_apart(shared: Path, tmp_path: Path) -> None:
    """Cells cut out of BCCD by their boxes: from ImageNet weights, 98 % of the test split's are named right."""
    from phidet.data.layouts import open_data  # noqa: PLC0415

    folder = open_data(shared / "data" / "bccd")
    for split, most in (("train", 80), ("val", 30), ("test", 60)):
        write_cells(folder.read(split), tmp_path / "cells" / split, most)
    train, val = read_classes(tmp_path / "cells")
    names = train.class_names
    model = create_classifier(
        "efficientnet-lite0", class_names=names, image_size=96, pretrained="imagenet", replace_head=True
    )
    recipe = recipes.replace(choose_classify_recipe(len(train)), {"epochs": 8})
    settings = RunSettings(out=tmp_path / "run", accelerator="cpu")
    averaged = fit(model, Task(model.config, train, val), recipe, settings)
    test = open_class_folders(tmp_path / "cells").read("test", train.class_names)
    report = classify(averaged, test).report(test)
    print(report)
    assert report.top1 is not None
    assert report.top1 >= 0.95


def write_cells(dataset: Dataset, out: Path, most: int) -> None:
    """Up to ``most`` objects of each class, cut out, as an image folder."""
    counts = dict.fromkeys(dataset.class_names, 0)
    for i in range(len(dataset)):
        image, objects = Image.fromarray(dataset.image(i)), dataset.annotations(i)
        for box, class_id in zip(objects.boxes_xyxy, objects.class_ids, strict=True):
            name = dataset.class_names[class_id]
            if counts[name] < most and min(box[2:] - box[:2]) >= 12:
                counts[name] += 1
                (out / name).mkdir(parents=True, exist_ok=True)
                image.crop(tuple(int(v) for v in box)).save(out / name / f"{counts[name]}.png")
