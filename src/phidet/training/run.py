"""From a folder of data to a trained model: what ``phidet train`` and :func:`phidet.train` do."""

from __future__ import annotations

import logging
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.words import count as some
from phidet.training.about import Request
from phidet.training.augmentation.own import AugmentFunction, OwnAugmentation, imported, named
from phidet.training.base import TrainingTask
from phidet.training.batch_size import with_fitting_batch
from phidet.training.fit import RunSettings, first_process, fit
from phidet.training.kinds import Reported, kind_of
from phidet.training.plan import Plan, Start, plan_resume, plan_run
from phidet.training.run_folder import RunFolder
from phidet.weights.native import load_model, store_thresholds

log = logging.getLogger("phidet")


class TrainedRun(NamedTuple):
    """What training left.

    Attributes:
        folder: everything on disk.
        model: the best one, in evaluation mode.
        metrics: of that model on the validation data, by name; empty without such data.
    """

    folder: Path
    model: Model
    metrics: dict[str, float]

    @property
    def figures(self) -> dict[str, float]:
        """The name of ``metrics`` before the rooms, for scripts that use it."""
        return self.metrics


def train(  # noqa: PLR0913 - all that most people change
    data: str | Path,
    model: str | Path = "efficientdet-lite0",
    *,
    pretrained: str | Path = "auto",
    image_size: int | tuple[int, int] | None = None,
    splits: tuple[str | None, str | None] = (None, None),
    recipe: str = "auto",
    changes: dict[str, Any] | None = None,
    settings: RunSettings | None = None,
    augment: AugmentFunction | str | None = None,
) -> TrainedRun:
    """Trains a model on a folder of labelled images; :func:`run` takes a whole :class:`Request`, with teachers.

    Args:
        data, model, pretrained, image_size, recipe: see :class:`Request`.
        splits: names of the training and validation split; by their names where ``None``.
        changes: of the recipe's fields, for instance ``{"epochs": 50}``.
        settings: where the run goes, seed, devices; a new folder under ``runs`` unless given. With ``resume``, the
            run's own request is used, and not the other arguments but ``augment``.
        augment: a function of your own that changes training images, or its name, "module:function"; see
            :mod:`phidet.training.augmentation.own`. A resumed run needs the same one again.

    Raises:
        InputError: the data cannot be used.
        ConfigError: invalid settings, or a folder that holds a run already.
        CheckpointError: weights that do not fit, or a disk that is full.
        TrainingDivergedError: the loss is no longer a number.
    """
    own = None if augment is None else imported(augment) if isinstance(augment, str) else named(augment)
    if settings is not None and settings.resume:
        return resume(settings.out, settings, augment=own)
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
    settings = settings or RunSettings(out=next_folder(Path("runs"), Path(request.model).stem))
    return run(request, settings, augment=own)


def resume(
    folder: Path, settings: RunSettings, data: str | Path | None = None, augment: OwnAugmentation | None = None
) -> TrainedRun:
    """Continues the run in ``folder`` to its end; its own request, recipe and seed are used.

    Args:
        folder: of the run.
        settings: devices and workers.
        data: where its data are now, if they were moved; the run keeps it.
        augment: the augmentation that the run was begun with, if it is one of the user's own.

    Raises:
        CheckpointError: there is no run, or it is damaged.
        ConfigError: it was begun with a task of one's own.
        InputError: the data are other than they were, or no longer there.
    """
    return carry_out(plan_resume(folder, settings, data, augment))


def run(
    request: Request, settings: RunSettings, start: Start | None = None, augment: OwnAugmentation | None = None
) -> TrainedRun:
    """Reads the data, builds the model, trains it, and reports on the best one; see :func:`plan_run`."""
    return carry_out(plan_run(request, settings, start, augment))


def carry_out(plan: Plan) -> TrainedRun:
    """Trains what was planned, and reports on the best model."""
    settings, origin, kind = plan.settings, plan.origin, kind_of(architecture_of(plan.model.config))
    task = kind.task(plan.model.config, plan.data, origin.request)
    if plan.own is not None:
        task.augment_with(plan.own)
    if settings.auto_batch and not settings.resume:
        plan = plan._replace(recipe=with_fitting_batch(plan.model, task, plan.recipe, settings))
    _log_plan(plan, task)
    last = fit(plan.model, task, plan.recipe, settings, origin)
    # The other processes have no files to read: the best model is on the first one's disk.
    if not first_process():
        return TrainedRun(settings.out, last.eval(), {})
    folder = RunFolder(settings.out)
    # The best model is read from disk, so that the report describes exactly the file that users get.
    best = load_model(folder.best) if folder.has_best else last.eval()
    stored = best.thresholds
    metrics = kind.report(Reported(best, plan.data, origin, folder.path / "report", settings.accelerator))
    # Reporting chose thresholds, which belong to the model: they are written into its file.
    if folder.has_best and best.thresholds is not None and best.thresholds != stored:
        store_thresholds(folder.best, best.thresholds)
    return TrainedRun(settings.out, best, metrics)


def next_folder(root: Path, name: str) -> Path:
    """The first of ``root/name-1``, ``root/name-2`` … that does not exist."""
    return next(folder for i in count(1) if not (folder := root / f"{name}-{i}").exists())


def _log_plan(plan: Plan, task: TrainingTask) -> None:
    """What is about to happen, before it takes hours."""
    recipe, request = plan.recipe, plan.origin.request
    chosen = f"recipe {recipe.name!r}"
    if request.recipe == "auto":
        seen = recipe.epochs * task.epoch_images(recipe)
        chosen += f", chosen for {task.num_images:,} images ({seen:,} are seen in all)"
    log.info(
        "%s, %s: %s, batch %d, %s, rate %g, %s",
        request.model, chosen, some(recipe.epochs, "epoch"), recipe.batch_size * recipe.accumulate,
        task.optimizer or recipe.optimizer, recipe.learning_rate, _changed(request.changes),
    )  # fmt: skip
    # Said before the first epoch: a wrong split should be noticed now and not after hours.
    log.info("validation: %s; everything goes to %s", task.val_name or "none", plan.settings.out)


def _changed(changes: dict[str, Any]) -> str:
    return "unchanged" if not changes else "with " + ", ".join(f"{key} = {value}" for key, value in changes.items())
