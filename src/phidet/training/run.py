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

from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.network import Classifier
from phidet.architectures.classifier.published import CLASSIFIER_NAMES
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.core.errors import ConfigError, InputError
from phidet.core.structs import replace as replace_config
from phidet.data.dataset import Dataset
from phidet.data.run_images import read_run_images
from phidet.inference.runtimes.open_model import model_file
from phidet.training.about import Origin, Request
from phidet.training.classify import (
    CLASSIFY,
    ClassifyTask,
    choose_classify_recipe,
    classifier_for,
)
from phidet.training.detection import DetectionTask
from phidet.training.fit import RunSettings, fit
from phidet.training.recipe import Recipe, recipe_named, replace
from phidet.training.report import report_on
from phidet.training.run_data import RunData, read_run_data, record_images
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


def resume(folder: Path, settings: RunSettings, data: str | Path | None = None) -> TrainedRun:
    """Continues the run in ``folder`` to its end; its own request, recipe and seed count.

    Args:
        folder: of the run.
        settings: devices and workers.
        data: where its data are now, if they were moved; the run keeps it.

    Raises:
        CheckpointError: there is no run, or it is damaged.
        ConfigError: it was begun with a task of one's own.
        InputError: the data are other than they were, or no longer there.
    """
    kept = RunFolder(folder)
    about = kept.read_about()
    if about.request is None:
        raise ConfigError(f"the run in {folder} was begun in Python: call phidet.training.fit.fit with resume=True")
    request = about.request
    if data is not None:
        request = msgspec.structs.replace(request, data=str(data)).with_absolute_paths()
    elif not Path(request.data).exists():
        raise InputError(
            f"the data of the run in {folder} are no longer at {request.data}: bring them back, or name their new "
            f"place: phidet train NEW_PLACE --resume {folder}"
        )
    own: dict[str, Any] = {"out": folder, "seed": about.seed, "resume": True}
    own |= {key: getattr(settings, key) or getattr(about, key) for key in ("save_memory", "compile")}
    settings = msgspec.structs.replace(settings, **own)
    # What it is; its weights will be those of the state.
    begun = load_model(folder / "last.safetensors").train() if kept.has_begun else None
    classify = kind_of(request.model) == "classify" if begun is None else isinstance(begun, Classifier)
    images = read_run_images(folder)
    datasets = read_run_data(request, about.seed, classify, images)
    model = begun or _start(request, datasets.train, about.recipe, about.seed)
    here = len(datasets.train), tuple(datasets.train.class_names)
    if here != (about.num_images, tuple(model.config.class_names)):
        raise InputError(
            f"{request.data} has {here[0]} images of {len(here[1])} classes to train on, the run began with "
            f"{about.num_images} of {len(model.config.class_names)}, or of other names: put the data back as they "
            f"were, or begin another run with --model {folder}"
        )
    if request != about.request and first_process():
        kept.save_about(msgspec.structs.replace(about, request=request))
    return _finish(model, datasets, about.recipe, settings, Origin(request, images))


def run(request: Request, settings: RunSettings) -> TrainedRun:
    """Reads the data, builds the model, trains it, and reports on the best one."""
    classify = kind_of(request.model) == "classify"
    datasets = read_run_data(request, settings.seed, classify)
    num_images = len(datasets.train)
    if classify and request.recipe == "auto":
        recipe = choose_classify_recipe(num_images)
    else:
        recipe = recipe_named(request.recipe, num_images)
        if classify:
            recipe = replace(recipe, {"batch_norm_momentum": CLASSIFY.batch_norm_momentum})
    recipe = replace(recipe, request.changes)
    model = _start(request, datasets.train, recipe, settings.seed)
    images = record_images(datasets, request.model) if _leads() else None
    return _finish(model, datasets, recipe, settings, Origin(request.with_absolute_paths(), images))


def _start(request: Request, train_data: Dataset, recipe: Recipe, seed: int) -> Network:
    torch.manual_seed(seed)  # of fresh weights, in every process the same
    return _with_drop_path(_build(request, train_data.class_names), recipe.drop_path)


def _finish(model: Network, datasets: RunData, recipe: Recipe, settings: RunSettings, origin: Origin) -> TrainedRun:
    task: Task
    if isinstance(model, Classifier):
        task = ClassifyTask(model.config, *datasets)
    else:
        task = DetectionTask(model.config, *datasets)
    _say(origin.request, recipe, task, settings)
    last = fit(model, task, recipe, settings, origin)
    if not first_process():
        return TrainedRun(settings.out, last.eval(), {})
    folder = RunFolder(settings.out)
    best = load_run_model(str(settings.out)) if folder.has_best else last.eval()
    figures: dict[str, float] = {}
    if datasets.val is not None:
        learned = None if origin.images is None else len(origin.images.copies())
        figures = report_on(
            best, datasets.val, folder.path / "report", origin.request.data, settings.accelerator, learned
        )
    return TrainedRun(settings.out, best, figures)


def _leads() -> bool:
    """Whether this process is the first one, before the engine has started: ``torchrun`` and Fabric tell it."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


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
    log.info(
        "%s, %s: %d epochs, batch %d, %s, rate %g, %s",
        request.model, chosen, recipe.epochs, recipe.batch_size * recipe.accumulate,
        recipe.optimizer, recipe.learning_rate, _changed(request.changes),
    )  # fmt: skip
    log.info("validation: %s; everything goes to %s", task.val_name or "none", settings.out)


def _changed(changes: dict[str, Any]) -> str:
    return "as it is" if not changes else "with " + ", ".join(f"{key} = {value}" for key, value in changes.items())
