"""Training: one function that reads from top to bottom, and what it is made of."""

from __future__ import annotations

import copy
import logging
import math
import time
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

import phidet
from phidet.errors import PhidetError
from phidet.learn.curves import draw_curves
from phidet.learn.loading import EpochSampler
from phidet.learn.memory import keep_freed_memory
from phidet.learn.optim import RunningAverage, build_optimizer, frozen_parts, rate_at, set_rate
from phidet.learn.progress import Progress
from phidet.learn.recipe import Recipe
from phidet.learn.run_folder import RunFolder
from phidet.learn.task import Network, Task

log = logging.getLogger("phidet")

NetworkT = TypeVar("NetworkT", bound=Network)


class TrainingDivergedError(PhidetError):
    """The loss is no longer a number."""


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where and on what to train; what does not change the result belongs here, the rest into the recipe.

    ``seed`` decides the order of images, augmentation and fresh weights. ``resume`` continues the run in ``out``.
    """

    out: Path
    seed: int = 0
    workers: int = 1
    devices: str | int = "auto"
    accelerator: str = "auto"
    resume: bool = False


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run.json`` says."""

    phidet: str
    torch: str
    model: str
    train: str
    val: str | None
    num_images: int
    seed: int
    recipe: Recipe


def fit(model: NetworkT, task: Task, recipe: Recipe, settings: RunSettings) -> NetworkT:
    """Trains ``model`` and returns the running average of its weights at the end; the best one is on disk.

    Args:
        model: its config says the input size and the classes.
        task: what to learn, from which data: :class:`phidet.learn.detection.DetectionTask` for a detector.
        recipe: how.
        settings: where.

    Raises:
        TrainingDivergedError: a loss was not finite; the state of the last whole epoch is on disk.
        CheckpointError: a file could not be written or read.
    """
    fabric = Fabric(accelerator=settings.accelerator, devices=settings.devices, precision=recipe.precision)
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    fabric.seed_everything(settings.seed + fabric.global_rank, verbose=False)
    folder = RunFolder(settings.out)

    averaged = copy.deepcopy(model)
    averaged.to(fabric.device)
    frozen = frozen_parts(model, recipe)
    for part in frozen:
        part.requires_grad_(False)
    optimizer = build_optimizer(model, recipe, fabric.device)
    average = RunningAverage(model, recipe.ema_decay)
    wrapped, optimizer = fabric.setup(model, optimizer)
    for name, tensor in average.values.items():
        average.values[name] = tensor.to(fabric.device)

    task.to(fabric.device)
    sampler = EpochSampler(task.num_images, recipe.batch_size, settings.seed, fabric.global_rank, fabric.world_size)
    loader = task.loader(recipe, settings.seed, sampler, settings.workers)
    progress = Progress(task.figures)
    if settings.resume:
        progress.restore(folder.load_state(), model, optimizer, average)
    elif fabric.is_global_zero:
        about = About(
            phidet=phidet.__version__,
            torch=str(torch.__version__),
            model=model.config.name,
            train=task.train_name,
            val=task.val_name,
            num_images=task.num_images,
            seed=settings.seed,
            recipe=recipe,
        )
        folder.create(about)

    for epoch in range(progress.epoch, recipe.epochs):
        sampler.epoch = epoch
        torch.manual_seed(settings.seed * 1_000_003 + epoch)  # dropping blocks is chance too
        row = train_epoch(fabric, Learner(wrapped, optimizer, average, task, frozen), loader, recipe, epoch)
        average.copy_to(averaged)
        if task.val_name is not None and ((epoch + 1) % recipe.evaluate_every == 0 or epoch + 1 == recipe.epochs):
            row |= task.evaluate(fabric, averaged, recipe, settings.workers)
        best = progress.note(row)
        if fabric.is_global_zero:
            if best:
                folder.save_model(averaged, "best")
            folder.save_model(averaged, "last")
            folder.save_metrics(progress.rows)
            folder.save_state(progress.state(model, optimizer, average))
            draw_curves(progress.rows, task.figures, settings.out / "curves.png")
            log.info("%s", progress.line(recipe.epochs))
        if recipe.patience is not None and progress.since_best >= recipe.patience:
            log.info("no better %s for %d evaluations: stopped", progress.best_title, recipe.patience)
            break
    return averaged


class Learner(NamedTuple):
    """What learns: the model and its optimizer as the engine wraps them, the running average, the task; what does not."""

    model: Any
    optimizer: Any
    average: RunningAverage
    task: Task
    frozen: list[nn.Module]


def train_epoch(fabric: Fabric, learner: Learner, loader: Any, recipe: Recipe, epoch: int) -> dict[str, float]:
    """One pass over the data; returns means of the losses, and images per second."""
    model, optimizer = learner.model, learner.optimizer
    model.train()
    for part in learner.frozen:
        part.eval()  # its statistics stay as they are
    sums: dict[str, float] = {}
    start, steps, num_images = time.perf_counter(), len(loader), 0
    with tqdm(loader, desc=f"epoch {epoch + 1}/{recipe.epochs}", unit="batch", leave=False, disable=None) as bar:
        for step, batch in enumerate(bar):
            update = (step + 1) % recipe.accumulate == 0 or step + 1 == steps
            rate = rate_at(epoch * steps + step, steps, recipe)
            set_rate(optimizer, rate)
            with fabric.no_backward_sync(model, enabled=not update):
                losses = learner.task.losses(fabric, model, batch, recipe)
                fabric.backward(losses["loss"] / recipe.accumulate)
            values = {name: float(value.detach()) for name, value in losses.items()}
            _check_finite(values, epoch, step)
            if update:
                fabric.clip_gradients(model, optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False)
                optimizer.step()
                optimizer.zero_grad()
                learner.average.update(model.module)
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            num_images += len(batch[0])
            bar.set_postfix(loss=f"{sums['loss'] / (step + 1):.3f}", refresh=False)
    seconds = time.perf_counter() - start
    means = {name: value / steps for name, value in sums.items()}
    return {"epoch": epoch + 1, **means, "rate": rate, "seconds": seconds, "images_per_second": num_images / seconds}


def _check_finite(values: dict[str, float], epoch: int, step: int) -> None:
    if not all(math.isfinite(value) for value in values.values()):
        raise TrainingDivergedError(
            f"the loss became {values['loss']} in epoch {epoch + 1}, step {step + 1}: lower the learning rate, or look "
            "at the data with 'phidet doctor'; --resume starts again from the last whole epoch"
        )
