"""How the files of this folder were made: by phidet 0.1 as of November 2025, before its modules moved.

They show that later versions read, run, resume and serve what that version wrote, so they are never made again: this
script imports that version's paths and is kept as their description. It was run from the root of the repository,

    python tests/data/version-0.1/make.py FOLDER        # everything but the two kinds below
    python tests/data/version-0.1/make.py FOLDER export # in an environment with OpenVINO and TFLite

and then curves.png, report/ and tensorboard/ of the runs were left out, and the folder where it ran was replaced in
run.json by HOME.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from phidet import create_classifier, create_model, load_model, save_model, train
from phidet.config import BackboneConfig, ClassifierConfig, FeatureNetworkConfig, ModelConfig
from phidet.detector import Detector
from phidet.export.export import ExportOptions, export
from phidet.learn import train as training
from phidet.learn.pictures import classifier_input
from phidet.learn.train import RunSettings
from phidet.nms import PostprocessSettings
from phidet.preprocess import prepare
from phidet.serve.publish import publish

HOME = "/home/user"
EPOCHS, DONE = 4, 2
LOOSE = PostprocessSettings(score=0.05, max_detections=20)


def detector() -> ModelConfig:
    """Every kind of part that a detector's file names, as small as they get."""
    return ModelConfig(
        name="tiny-detector",
        backbone=BackboneConfig(architecture="efficientnet", width=0.05, depth=0.05, drop_path=0.1),
        feature_network=FeatureNetworkConfig(channels=8, repeats=1, min_level=3, max_level=5),
        head_layers=1,
        activation="silu",
        image_size_hw=(64, 96),
        class_names=("bolt", "nut"),
    )


def classifier() -> ClassifierConfig:
    """The same of a classifier, on the other EfficientNet."""
    return ClassifierConfig(
        name="tiny-classifier",
        backbone=BackboneConfig(architecture="efficientnet-lite", width=0.05, depth=0.05),
        head_channels=16,
        dropout=0.2,
        image_size_hw=(32, 48),
        class_names=("red", "blue"),
    )


def write_data(root: Path) -> None:
    """Eight images of bright rectangles as COCO, and six reddish and bluish ones in folders, each with a split val."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        images, objects = [], []
        (root / "detect" / split).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((48, 64, 3), rng.integers(0, 60, 3), np.uint8)
            class_id, (h, w) = i % 2, rng.integers(12, 30, 2)
            y, x = (int(rng.integers(0, room)) for room in (48 - h, 64 - w))
            pixels[y : y + h, x : x + w] = (230, 220, 60) if class_id else (90, 200, 240)
            Image.fromarray(pixels).save(root / "detect" / split / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
            box = [x, y, int(w), int(h)]
            objects.append({"id": i, "image_id": i, "category_id": class_id + 1, "bbox": box})
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(detector().class_names)]
        (root / "detect" / "annotations").mkdir(exist_ok=True)
        text = json.dumps({"images": images, "annotations": objects, "categories": categories})
        (root / "detect" / "annotations" / f"instances_{split}.json").write_text(text)
    for split, count in (("train", 3), ("val", 1)):
        for name, colour in (("red", (180, 40, 50)), ("blue", (50, 40, 180))):
            (root / "classify" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((40, 56, 3), colour, np.uint8)
                pixels[rng.integers(0, 20) :, : rng.integers(20, 50)] //= 2
                Image.fromarray(pixels).save(root / "classify" / split / name / f"{i}.png")


def some_image() -> Image.Image:
    """A gradient and two rectangles, (50, 70)."""
    y, x = np.mgrid[:50, :70]
    pixels = np.stack((3 * x, 5 * y, 2 * x + 2 * y), -1).astype(np.uint8)
    pixels[10:30, 20:50] = (230, 220, 60)
    pixels[25:45, 5:25] = (90, 200, 240)
    return Image.fromarray(pixels)


def interrupted(run: Callable[[Path], object], folder: Path) -> None:
    """The run stopped by the user at the start of its epoch ``DONE + 1``."""
    real = training.train_epoch

    def epoch(*args: Any) -> dict[str, float]:
        if args[-1] == DONE:
            raise KeyboardInterrupt
        return real(*args)

    training.train_epoch = epoch
    try:
        run(folder)
    except KeyboardInterrupt:
        pass
    finally:
        training.train_epoch = real


def detect_run(root: Path) -> Callable[[Path], object]:
    changes = {"epochs": EPOCHS, "batch_size": 4, "warmup_epochs": 0.5, "ema_decay": 0.9, "drop_path": 0.2}
    changes |= {"augmentation": {"policy": "v2", "mosaic": 0.25, "grid_mask": 0.3, "hue": 0.1}}
    model, data = root / "tiny-detector.safetensors", root / "data" / "detect"

    def run(out: Path) -> object:
        return train(data, model, changes=changes, settings=RunSettings(out=out, seed=3, workers=0, accelerator="cpu"))

    return run


def classify_run(root: Path) -> Callable[[Path], object]:
    changes = {"epochs": EPOCHS, "batch_size": 3, "optimizer": "sgd", "learning_rate": 0.1, "ema_decay": 0.9}
    changes |= {"augmentation": {"policy": "randaugment", "layers": 2}}
    model, data = root / "tiny-classifier.safetensors", root / "data" / "classify"

    def run(out: Path) -> object:
        return train(data, model, changes=changes, settings=RunSettings(out=out, seed=4, workers=0, accelerator="cpu"))

    return run


def spread(model: torch.nn.Module) -> None:
    """Statistics and factors as training leaves them, not the 0 and 1 of a fresh network."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)


def detector_answers(model: Any) -> dict[str, Any]:
    """What the network says of ``image.png``, and what is found there."""
    image = np.asarray(some_image())
    prepared, _ = prepare(image, model.config.image_size_hw, model.config.preprocess)
    with torch.no_grad():
        outputs = model(torch.from_numpy(prepared)[None])
    return {"class_logits": outputs.class_logits[0].numpy(), "box_deltas": outputs.box_deltas[0].numpy()}


def classifier_answers(model: Any) -> dict[str, Any]:
    """Logits of ``image.png``."""
    with torch.no_grad():
        return {"logits": model(classifier_input(np.asarray(some_image()), model.config)[None])[0].numpy()}


def found(name: str, detections: Any) -> dict[str, Any]:
    values = {key: getattr(detections, key) for key in ("boxes_xyxy", "scores", "class_ids")}
    return {f"{name}/{key}": value for key, value in values.items()}


def main(root: Path) -> None:
    """Everything that the train extra can make."""
    write_data(root / "data")
    some_image().save(root / "image.png")
    torch.manual_seed(0)
    model, other = create_model(detector()).eval(), create_classifier(classifier()).eval()
    with torch.no_grad():
        spread(model)
        spread(other)
        model.class_head.predict.pointwise.bias.fill_(0.0)
    save_model(model, root / "tiny-detector.safetensors")
    save_model(other, root / "tiny-classifier.safetensors")
    export(model, root / "tiny-detector.onnx")
    export(model, root / "tiny-detector-fp16.onnx", ExportOptions(precision="fp16"))
    publish(root / "tiny-detector.onnx", root / "served")

    answers = {f"detector/{key}": value for key, value in detector_answers(model).items()}
    answers |= {f"classifier/{key}": value for key, value in classifier_answers(other).items()}
    for name in ("tiny-detector.safetensors", "tiny-detector.onnx", "tiny-detector-fp16.onnx"):
        answers |= found(name, Detector(root / name)(some_image(), LOOSE))

    rows = {}
    for name, run in (("detect", detect_run(root)), ("classify", classify_run(root))):
        interrupted(run, root / f"run-{name}")
        run(root / f"whole-{name}")
        rows[name] = json.loads((root / f"whole-{name}" / "metrics.json").read_text())
        about = root / f"run-{name}" / "run.json"
        about.write_text(about.read_text().replace(str(root), HOME))
    for name, ask in (("detect", detector_answers), ("classify", classifier_answers)):
        last = load_model(root / f"whole-{name}" / "last.safetensors")
        answers |= {f"resumed-{name}/{key}": value for key, value in ask(last).items()}
    np.savez_compressed(root / "expected.npz", **answers)
    (root / "expected-metrics.json").write_text(json.dumps(rows, indent=1))


def other_exports(root: Path) -> None:
    """The kinds that need runtimes of their own, with what is found by them."""
    model = load_model(root / "tiny-detector.safetensors")
    export(model, root / "tiny-detector.xml", ExportOptions(to="openvino"))
    export(model, root / "tiny-detector.tflite", ExportOptions(to="tflite"))
    answers: dict[str, Any] = {}
    for name in ("tiny-detector.xml", "tiny-detector.tflite"):
        answers |= found(name, Detector(root / name)(some_image(), LOOSE))
    np.savez_compressed(root / "expected-exports.npz", **answers)


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    main(folder) if sys.argv[2:] == [] else other_exports(folder)
