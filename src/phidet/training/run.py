"""From a folder of data to a trained model: what ``phidet train`` and :func:`phidet.train` do."""

from __future__ import annotations

import logging
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import torch
import torch.distributed as dist

from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.network import Classifier
from phidet.architectures.classifier.published import CLASSIFIER_NAMES
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.core.errors import ConfigError, InputError
from phidet.core.structs import replace as replace_config
from phidet.data.dataset import Dataset
from phidet.data.hold_out import HELD_OUT, hold_out
from phidet.data.layouts import open_data
from phidet.inference.runtimes.open_model import model_file
from phidet.training.about import Request
from phidet.training.classify import (
    CLASSIFY,
    ClassifyTask,
    choose_classify_recipe,
    classifier_for,
    read_class_folders,
    read_training_folders,
)
from phidet.training.detection import DetectionTask
from phidet.training.fit import RunSettings, fit
from phidet.training.recipe import Recipe, recipe_named, replace
from phidet.training.report import report_on
from phidet.training.run_folder import RunFolder
from phidet.training.task import Network, Task
from phidet.weights.create import create_classifier, create_model, parse_image_size
from phidet.weights.native import load_model

log = logging.getLogger("phidet")


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
    if settings is not None and settings.resume:
        return resume(settings.out, settings)
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
        ConfigError: it was begun with a task of one's own.
        InputError: the data are other than they were.
    """
    kept = RunFolder(folder)
    about = kept.read_about()
    if about.request is None:
        raise ConfigError(f"the run in {folder} was begun in Python: call phidet.training.fit.fit with resume=True")
    own: dict[str, Any] = {"out": folder, "seed": about.seed, "resume": True}
    own |= {key: getattr(settings, key) or getattr(about, key) for key in ("save_memory", "compile")}
    settings = msgspec.structs.replace(settings, **own)
    # What it is; its weights will be those of the state.
    begun = load_model(folder / "last.safetensors").train() if kept.has_begun else None
    classify = kind_of(about.request.model) == "classify" if begun is None else isinstance(begun, Classifier)
    datasets = _datasets(about.request, about.seed, classify)
    model = begun or _start(about.request, datasets[0], about.recipe, about.seed)
    here = len(datasets[0]), tuple(datasets[0].class_names)
    if here != (about.num_images, tuple(model.config.class_names)):
        raise InputError(
            f"{about.request.data} has {here[0]} images of {len(here[1])} classes to train on, the run began with "
            f"{about.num_images} of {len(model.config.class_names)}, or of other names: put the data back as they "
            f"were, or begin another run with --model {folder}"
        )
    return _finish(model, datasets, about.recipe, settings, about.request)


def run(request: Request, settings: RunSettings) -> TrainedRun:
    """Reads the data, builds the model, trains it, and reports on the best one."""
    classify = kind_of(request.model) == "classify"
    datasets = _datasets(request, settings.seed, classify)
    num_images = len(datasets[0])
    if classify and request.recipe == "auto":
        recipe = choose_classify_recipe(num_images)
    else:
        recipe = recipe_named(request.recipe, num_images)
        if classify:
            recipe = replace(recipe, {"batch_norm_momentum": CLASSIFY.batch_norm_momentum})
    recipe = replace(recipe, request.changes)
    return _finish(_start(request, datasets[0], recipe, settings.seed), datasets, recipe, settings, request)


_Datasets = tuple[Dataset, Dataset | None]


def _datasets(request: Request, seed: int, classify: bool) -> _Datasets:
    datasets = _class_folders(request, seed) if classify else _read(request, seed)
    _check_objects(datasets[0])
    return datasets


def _start(request: Request, train_data: Dataset, recipe: Recipe, seed: int) -> Network:
    torch.manual_seed(seed)  # of fresh weights, in every process the same
    return _with_drop_path(_build(request, train_data.class_names), recipe.drop_path)


def _finish(model: Network, datasets: _Datasets, recipe: Recipe, settings: RunSettings, request: Request) -> TrainedRun:
    task: Task
    if isinstance(model, Classifier):
        task = ClassifyTask(model.config, *datasets)
    else:
        task = DetectionTask(model.config, *datasets)
    _say(request, recipe, task, settings)
    last = fit(model, task, recipe, settings, request.anywhere())
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
    return "classify" if model_file(model) is not None and isinstance(load_run_model(model), Classifier) else "detect"


def load_run_model(model: str) -> Network:
    """The model of a file or of a run's folder, in evaluation mode."""
    return load_model(model_file(model) or Path(model))


def next_folder(root: Path, name: str) -> Path:
    """The first of ``root/name-1``, ``root/name-2`` … that does not exist."""
    return next(folder for i in count(1) if not (folder := root / f"{name}-{i}").exists())


def _read(request: Request, seed: int) -> _Datasets:
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


def _class_folders(request: Request, seed: int) -> _Datasets:
    if request.train_split or request.val_split not in (None, "none"):
        raise ConfigError("an image folder is split by its folders 'train' and 'val': leave out the names of splits")
    if request.val_split == "none":
        return read_training_folders(request.data)[1], None
    return read_class_folders(request.data, seed)


def _build(request: Request, class_names: tuple[str, ...]) -> Network:
    path = model_file(request.model)
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
