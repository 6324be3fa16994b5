"""From a folder of data to a trained model: what ``phidet train`` and :func:`phidet.train` do."""

from __future__ import annotations

import logging
import os
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import torch
import torch.distributed as dist

from phidet.config import ClassifierConfig, ModelConfig
from phidet.config import replace as replace_config
from phidet.data.dataset import Dataset
from phidet.data.hold_out import HELD_OUT, hold_out
from phidet.data.layouts import open_data
from phidet.errors import ConfigError, InputError
from phidet.family import CLASSIFIER_NAMES
from phidet.learn.classify import (
    ClassifyTask,
    choose_classify_recipe,
    classifier_for,
    quicken_statistics,
    read_class_folders,
)
from phidet.learn.detection import DetectionTask
from phidet.learn.recipe import Recipe, recipe_named, replace
from phidet.learn.report import report_on
from phidet.learn.run_folder import RunFolder
from phidet.learn.task import Network, Task
from phidet.learn.train import RunSettings, fit
from phidet.models import create_classifier, create_model, parse_image_size
from phidet.nn.detector import Classifier, EfficientDet
from phidet.weights.native import load_model

log = logging.getLogger("phidet")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to train, on what; ``run.json`` keeps it, so that ``--resume`` needs nothing else.

    Attributes:
        data: a folder or file in any layout; for classification a folder with one folder for each class.
        model: a published name, a model file (.safetensors) or the folder of a run.
        pretrained: where the weights of a published model start: "backbone" (ImageNet), "coco", a weight file, or
            "none". A classifier's ImageNet weights are "backbone", too.
        image_size: input side or (height, width) in pixels; the model's own unless given.
        train_split, val_split: names; found by looking unless given. ``val_split`` "none" trains without evaluation.
        recipe: a recipe's name; "auto" chooses by the number of images.
        changes: of the recipe's fields.
    """

    data: str
    model: str = "efficientdet-lite0"
    pretrained: str = "backbone"
    image_size: int | tuple[int, int] | None = None
    train_split: str | None = None
    val_split: str | None = None
    recipe: str = "auto"
    changes: dict[str, Any] = {}


class TrainedRun(NamedTuple):
    """What training left.

    Attributes:
        folder: everything on disk.
        model: the best one, in evaluation mode.
        figures: of that model on the validation data, by name; empty without such data.
    """

    folder: Path
    model: Network
    figures: dict[str, float]


def train(
    data: str | Path,
    model: str | Path = "efficientdet-lite0",
    *,
    pretrained: str | Path = "backbone",
    image_size: int | tuple[int, int] | None = None,
    splits: tuple[str | None, str | None] = (None, None),
    recipe: str = "auto",
    changes: dict[str, Any] | None = None,
    settings: RunSettings | None = None,
) -> TrainedRun:
    """Trains a model on a folder of labelled images.

    Args:
        data, model, pretrained, image_size, recipe: see :class:`Request`.
        splits: names of the training and validation split; found by looking where ``None``.
        changes: of the recipe's fields, for instance ``{"epochs": 50}``.
        settings: where the run goes, seed, devices; a new folder under ``runs`` unless given. With ``resume``, what
            the run itself says counts, and not the other arguments.

    Raises:
        InputError: the data cannot be used.
        ConfigError: settings that cannot be, or a folder that holds a run already.
        CheckpointError: weights that do not fit, or a disk that is full.
        TrainingDivergedError: the loss is no longer a number.
    """
    request = Request(
        data=str(data),
        model=str(model),
        pretrained=str(pretrained),
        image_size=image_size,
        train_split=splits[0],
        val_split=splits[1],
        recipe=recipe,
        changes=changes or {},
    )
    return run(request, settings or RunSettings(out=next_folder(Path("runs"), Path(request.model).stem)))


def resume(folder: Path, settings: RunSettings) -> TrainedRun:
    """Continues the run in ``folder`` to its end; its own request, recipe and seed count.

    Raises:
        CheckpointError: there is no run, or it is damaged.
    """
    about = RunFolder(folder).read_about()
    request = msgspec.convert(about["request"], Request)
    own = {"out": folder, "seed": about["seed"], "resume": True}
    for key in ("save_memory", "compile"):  # once needed, needed again
        own[key] = getattr(settings, key) or about.get(key, False)
    return run(request, msgspec.structs.replace(settings, **own))


def run(request: Request, settings: RunSettings) -> TrainedRun:
    """Reads the data, builds the model, trains it, and reports on the best one."""
    classify = kind_of(request.model) == "classify"
    datasets = _class_folders(request, settings.seed) if classify else _read(request, settings.seed)
    _check_objects(datasets[0])
    recipe = _recipe(request, len(datasets[0]), classify)
    torch.manual_seed(settings.seed)  # of fresh weights, in every process the same
    model = _with_drop_path(_build(request, datasets[0].class_names), recipe.drop_path)
    task: Task
    if isinstance(model, Classifier):
        quicken_statistics(model)
        task = ClassifyTask(model.config, *datasets)
    else:
        task = DetectionTask(model.config, *datasets)
    _say(request, recipe, task, settings)
    kept = msgspec.structs.replace(request, data=os.path.abspath(request.data))  # wherever it is resumed
    last = fit(model, task, recipe, settings, kept)
    if not first_process():
        return TrainedRun(settings.out, last.eval(), {})
    folder = RunFolder(settings.out)
    best = load_run_model(str(settings.out)) if folder.has_best else last.eval()
    figures: dict[str, float] = {}
    if datasets[1] is not None:
        figures = report_on(best, datasets[1], folder.path / "report", request.data, settings.accelerator)
    return TrainedRun(settings.out, best, figures)


def first_process() -> bool:
    """Whether this process is the one of a training that writes and speaks."""
    return not dist.is_initialized() or dist.get_rank() == 0


def kind_of(model: str) -> Literal["detect", "classify"]:
    """What a model is for, by its published name or its file."""
    if model in CLASSIFIER_NAMES:
        return "classify"
    return "classify" if _file_of(model) is not None and isinstance(load_run_model(model), Classifier) else "detect"


def load_run_model(model: str) -> Network:
    """The model of a file or of a run's folder, in evaluation mode."""
    return load_model(_file_of(model) or Path(model))


def next_folder(root: Path, name: str) -> Path:
    """The first of ``root/name-1``, ``root/name-2`` … that does not exist."""
    return next(folder for i in count(1) if not (folder := root / f"{name}-{i}").exists())


def _read(request: Request, seed: int) -> tuple[Dataset, Dataset | None]:
    folder = open_data(request.data)
    train_data = folder.read(request.train_split or folder.train_split())
    for problem in train_data.problems[:5]:
        log.warning("%s: %s", problem.where, problem.what)
    if len(train_data.problems) > 5:
        log.warning("and %d more problems: 'phidet doctor %s' tells all", len(train_data.problems) - 5, request.data)
    if request.val_split == "none":
        return train_data, None
    val_split = request.val_split or folder.val_split()
    if val_split is None:
        first, second = hold_out(train_data, HELD_OUT, seed)
        log.info("no validation split: %d of %d images are held out for it", len(second), len(train_data))
        return first, second
    val_data = folder.read(val_split, train_data.class_names)
    if not len(val_data.all_annotations.areas):
        log.warning(
            "the split %s has no objects, so that nothing can be measured on it: the last model counts", val_split
        )
        return train_data, None
    return train_data, val_data


def _check_objects(dataset: Dataset) -> None:
    if not len(dataset.all_annotations.areas):
        raise InputError(
            f"no image of {dataset.name!r} has an object, so there is nothing to learn: 'phidet doctor' says why"
        )


def _class_folders(request: Request, seed: int) -> tuple[Dataset, Dataset | None]:
    if request.train_split or request.val_split not in (None, "none"):
        raise ConfigError("an image folder is split by its folders 'train' and 'val': leave out the names of splits")
    train_data, val_data = read_class_folders(request.data, seed)
    return train_data, None if request.val_split == "none" else val_data


def _recipe(request: Request, num_images: int, classify: bool) -> Recipe:
    if classify and request.recipe == "auto":
        return replace(choose_classify_recipe(num_images), request.changes)
    return replace(recipe_named(request.recipe, num_images), request.changes)


def _build(request: Request, class_names: tuple[str, ...]) -> Network:
    path = _file_of(request.model)
    if path is None:  # a published name
        start = None if request.pretrained == "none" else request.pretrained
        if request.model in CLASSIFIER_NAMES:
            start = "imagenet" if start == "backbone" else start
            return classifier_for(class_names, request.model, start, request.image_size)
        size = request.image_size
        return create_model(
            request.model, class_names=class_names, image_size=size, pretrained=start, replace_head=True
        )
    known = load_run_model(request.model)
    if isinstance(known, Classifier):
        changes: dict[str, Any] = {"class_names": class_names}
        if request.image_size is not None:
            changes["image_size_hw"] = parse_image_size(request.image_size)
        classifier = replace_config(known.config, changes)
        return create_classifier(classifier, pretrained=path, replace_head=True)
    detector = replace_config(known.config, {"class_names": class_names})
    return create_model(detector, image_size=request.image_size, pretrained=path, replace_head=True)


def _file_of(model: str) -> Path | None:
    path = Path(model)
    if path.is_dir():
        path = path / "best.safetensors"
    return path if path.suffix == ".safetensors" or path.is_file() else None


def _with_drop_path(model: Network, drop_path: float | None) -> Network:
    """``model``, rebuilt with another stochastic depth."""
    config: ModelConfig | ClassifierConfig = model.config
    if drop_path is None or drop_path == config.backbone.drop_path:
        return model
    backbone = msgspec.structs.replace(config.backbone, drop_path=drop_path)
    again: Network
    if isinstance(config, ModelConfig):
        again = EfficientDet(replace_config(config, {"backbone": backbone}))
    else:
        again = Classifier(replace_config(config, {"backbone": backbone}))
    again.load_state_dict(model.state_dict())
    return again


def _say(request: Request, recipe: Recipe, task: Task, settings: RunSettings) -> None:
    """What is about to happen, before it takes hours."""
    chosen = f"recipe {recipe.name!r}" + (", chosen for so many images" if request.recipe == "auto" else "")
    log.info("%s on %s: %d images (%s)", request.model, request.data, task.num_images, task.train_name)
    log.info(
        "%s: %d epochs, batch %d, %s, rate %g, %s", chosen, recipe.epochs, recipe.batch_size * recipe.accumulate,
        recipe.optimizer, recipe.learning_rate, _changed(request.changes),
    )  # fmt: skip
    log.info("validation: %s; everything goes to %s", task.val_name or "none", settings.out)


def _changed(changes: dict[str, Any]) -> str:
    return "as it is" if not changes else "with " + ", ".join(f"{key} = {value}" for key, value in changes.items())
