"""Training: one function that reads from top to bottom, and what it is made of."""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import CheckpointError, ConfigError, TrainingDivergedError
from phidet.core.extras import __version__
from phidet.core.machine import keep_freed_memory, usable_cores
from phidet.core.structs import require
from phidet.training.about import About, Origin, Request
from phidet.training.base import TrainingTask
from phidet.training.curves import draw_curves
from phidet.training.learner import Learner, Moment
from phidet.training.loading import plainly
from phidet.training.loggers import Loggers, check_loggers
from phidet.training.progress import Progress, batch_line
from phidet.training.recipe import Recipe
from phidet.training.run_folder import RunFolder

log = logging.getLogger("phidet")
BETWEEN_FIGURES = 10.0
"""Seconds for which curves are left as they are: drawing them takes as long as an epoch of few images."""
BETWEEN_LINES = 60.0
"""Seconds between two lines of an epoch that lasts, where no terminal shows a bar."""

NetworkT = TypeVar("NetworkT", bound=Model)


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where and on what to train; what decides the result belongs into the recipe, but for the seed.

    Attributes:
        out: the run's folder.
        seed: of the order of images, augmentation and fresh weights.
        workers: processes that load images, for each device; ``None`` for one less than there are cores, at most 8.
        devices, accelerator, nodes: as Lightning Fabric takes them; "auto" takes what ``torchrun`` started, else every
            GPU, else the CPU. On several machines start the same command on each with ``torchrun``.
        compile: let ``torch.compile`` fuse what it can, for minutes at the start.
        save_memory: compute activations a second time instead of keeping them.
        resume: continue the run in ``out``.
        auto_batch: take the batch that fits into the GPU's memory (:mod:`phidet.training.batch_size`) instead of the
            recipe's; a resumed run keeps the one that it was begun with.
        log: who else is told the metrics, of :data:`phidet.training.loggers.KINDS`.
    """

    out: Path
    seed: int = 0
    workers: int | None = None
    devices: str | int = "auto"
    accelerator: str = "auto"
    nodes: int = 1
    compile: bool = False
    save_memory: bool = False
    resume: bool = False
    auto_batch: bool = False
    log: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "out", Path(self.out))  # text, too
        require(0 <= self.seed < 2**32, f"seed must be a whole number from 0 to 2³² − 1, got {self.seed}")
        require(self.workers is None or self.workers >= 0, f"workers must be a whole number ≥ 0, got {self.workers}")
        check_loggers(self.log)


def fit(
    model: NetworkT, task: TrainingTask, recipe: Recipe, settings: RunSettings, origin: Origin | None = None
) -> NetworkT:
    """Trains ``model`` and returns the running average of its weights at the end; the best one is on disk.

    Args:
        model: its config has the input size and the classes.
        task: what to learn, from which data, for instance :class:`phidet.training.task.Task`.
        recipe: how.
        settings: where.
        origin: what the folder shall keep for :func:`phidet.training.run.resume` and evaluation.

    Raises:
        TrainingDivergedError: a loss was not finite; the state of the last whole epoch is on disk.
        CheckpointError: a file could not be written or read.
        ConfigError: the folder holds a run already, or settings that do not go together.
    """
    fabric = start_engine(recipe, settings)
    folder = RunFolder(settings.out)
    # A second model holds the running average, so that evaluating and saving it never touches the trained weights.
    averaged = copy.deepcopy(model)
    averaged.to(fabric.device)
    learner = task.learner(fabric, model, recipe, settings)
    sampler = task.sampler(recipe, settings.seed, fabric.global_rank, fabric.world_size)
    _check_batch(model, sampler.batch_size if recipe.sync_batch_norm else sampler.batch_size // fabric.world_size)
    # The sampler shares out a seeded order by rank: the same batches whatever the number of processes or workers.
    loader = task.loader(recipe, settings.seed, sampler, num_workers(settings))
    progress = Progress(task.metrics, task.lower_is_better)
    # Only the first process writes; the others read the state in _restore from the same folder.
    if settings.resume:
        _restore(folder, progress, learner, task, recipe, fabric.is_global_zero)
    elif fabric.is_global_zero:
        about = describe(model, task, recipe, settings, None if origin is None else origin.request)
        folder.create(about, None if origin is None else origin.images)

    # Only the first process tells others, or every metric would be there several times.
    told = settings.log if fabric.is_global_zero else ()
    settings_of_run = {"model": model.config.name, "seed": settings.seed, "recipe": msgspec.to_builtins(recipe)}
    loggers = Loggers(told, settings.out, settings_of_run)
    drawn = -math.inf
    for epoch in range(progress.epoch, recipe.epochs):
        if _is_finished(progress, recipe):
            log.info("no better %s for %d evaluations: stopped", progress.best_title, recipe.patience)
            break
        sampler.epoch = epoch
        torch.manual_seed(settings.seed * 1_000_003 + epoch)  # dropping blocks is chance too
        # Weights are checked before the average is copied and saved: files on disk never hold NaN.
        row = train_epoch(learner, loader, recipe, epoch)
        _check_weights(learner.network, epoch)
        learner.average.copy_to(averaged)
        if task.val_name is not None and ((epoch + 1) % recipe.evaluate_every == 0 or epoch + 1 == recipe.epochs):
            row |= _evaluated(fabric, averaged, task, recipe, num_workers(settings))
        best = progress.note(row)
        if fabric.is_global_zero:
            # The state is written after the models: a crash in between repeats an epoch instead of skipping one.
            folder.save_models(averaged, best)
            folder.save_state(progress.state() | learner.state())
            folder.save_metrics(progress.rows)
            if time.monotonic() - drawn > BETWEEN_FIGURES or _is_finished(progress, recipe):
                _draw(progress, folder, task)
                drawn = time.monotonic()
            loggers.tell(row, epoch + 1)
            task.show(averaged, folder.path, epoch + 1)
            log.info("%s", progress.line(recipe.epochs))
    if fabric.is_global_zero and task.loss_falls and progress.rows[-1]["loss"] > 2 * progress.rows[0]["loss"]:
        said = (
            "the loss ended at %.4g, over twice the %.4g of the first epoch: the run diverged; lower the learning rate"
        )
        log.warning(said, progress.rows[-1]["loss"], progress.rows[0]["loss"])
    loggers.close()
    fabric.barrier()  # the best model is on disk
    return averaged


def _restore(
    folder: RunFolder, progress: Progress, learner: Learner, task: TrainingTask, recipe: Recipe, leads: bool
) -> None:
    """Restores ``progress`` and ``learner`` to where the run in ``folder`` stopped; logs if the run is finished."""
    folder.read_about()  # there is a run
    if folder.has_begun:
        state = folder.load_state()
        progress.restore(state)
        learner.restore(state)
        if leads:  # the state was saved first
            folder.save_metrics(progress.rows)
            _draw(progress, folder, task)
    if _is_finished(progress, recipe):
        said = "this run is finished (%d of %d epochs); begin another from its model: phidet train DATA --model %s"
        log.info(said, progress.epoch, recipe.epochs, folder.path)


def _is_finished(progress: Progress, recipe: Recipe) -> bool:
    """Whether all epochs are done, or the last evaluations brought nothing better."""
    stalled = recipe.patience is not None and progress.since_best >= recipe.patience
    return stalled or progress.epoch >= recipe.epochs


def start_engine(recipe: Recipe, settings: RunSettings) -> Fabric:
    """The engine, its processes started, their chance seeded."""
    devices, nodes = settings.devices, settings.nodes
    if devices == "auto" and "LOCAL_WORLD_SIZE" in os.environ:  # torchrun has decided; Fabric would take one CPU
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    try:
        fabric = Fabric(accelerator=settings.accelerator, devices=devices, num_nodes=nodes, precision=recipe.precision)
    except (ValueError, RuntimeError, TypeError) as error:  # what Fabric raises for unavailable devices
        raise ConfigError(
            f"cannot train on {settings.devices!r} {settings.accelerator!r} devices: {str(error).partition('. ')[0]}. "
            "Leave out --accelerator and --devices to take what this machine has"
        ) from error
    fabric.launch()
    # glibc gives large freed blocks back to the system, and faulting them in again for every step costs a lot of time.
    if fabric.device.type == "cpu":
        keep_freed_memory()
    fabric.seed_everything(settings.seed + fabric.global_rank, verbose=False)
    return fabric


def first_process() -> bool:
    """Whether this process is the one of a training that writes and logs."""
    return not dist.is_initialized() or dist.get_rank() == 0


def num_workers(settings: RunSettings) -> int:
    """Processes that load images, for each device."""
    return settings.workers if settings.workers is not None else min(max(usable_cores() - 1, 1), 8)


def describe(model: Model, task: TrainingTask, recipe: Recipe, settings: RunSettings, request: Request | None) -> About:
    """What ``run.json`` says of this run."""
    return About(
        phidet=__version__,
        torch=str(torch.__version__),
        model=model.config.name,
        train=task.train_name,
        val=task.val_name,
        num_images=task.num_images,
        seed=settings.seed,
        recipe=recipe,
        request=request,
        save_memory=settings.save_memory,
        compile=settings.compile,
    )


def train_epoch(learner: Learner, loader: Any, recipe: Recipe, epoch: int) -> dict[str, float]:
    """One pass over the data; returns means of the losses, and images per second."""
    learner.train()
    sums: dict[str, float] = {}
    start, steps, num_images = time.perf_counter(), len(loader), 0
    told = start
    batches, named = plainly(loader), f"epoch {epoch + 1}/{recipe.epochs}"
    with tqdm(batches, total=steps, desc=named, unit="batch", leave=False, disable=None) as bar:
        for step, batch in enumerate(bar):
            values = learner.step(batch, Moment(epoch, step, steps))
            # The keys come from the task's losses, so the sums start without any.
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            num_images += len(batch[0])
            loss, now = sums["loss"] / (step + 1), time.perf_counter()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if bar.disable and now - told > BETWEEN_LINES and first_process():
                told = now
                log.info("%s  %s", named, batch_line(step + 1, steps, loss, num_images, now - start))
    seconds = time.perf_counter() - start
    means = {name: value / steps for name, value in sums.items()}
    return {
        "epoch": epoch + 1, **means, "rate": learner.rate,
        "seconds": seconds, "images_per_second": num_images / seconds,
    }  # fmt: skip


def _evaluated(fabric: Fabric, model: Model, task: TrainingTask, recipe: Recipe, workers: int) -> dict[str, float]:
    try:
        return task.evaluate(fabric, model, recipe, workers)
    except CheckpointError as error:  # finite weights, and answers that are not
        raise TrainingDivergedError(
            f"{error}: lower the learning rate; --resume starts again from the last whole epoch"
        ) from error


def _draw(progress: Progress, folder: RunFolder, task: TrainingTask) -> None:
    draw_curves(progress.rows, task.metrics, folder.path / "curves.png", task.lower_is_better)


def _check_batch(model: Model, images: int) -> None:
    """Batch norms need two values of a channel: one image is too few where the smallest map has one cell."""
    smallest = architecture_of(model.config).smallest_map_hw(model.config)
    if images == 1 and smallest == (1, 1):
        height, width = model.config.image_size_hw
        raise ConfigError(
            f"a batch of 1 image at {height}×{width} leaves batch norms a single value of a channel in the smallest "
            "map: choose a batch of 2 images or more, or a larger image size"
        )


def _check_weights(network: nn.Module, epoch: int) -> None:
    """Runs before anything is saved: no later loss would reveal NaN in the weights of the last update."""
    broken = next((name for name, p in network.named_parameters() if not bool(torch.isfinite(p).all())), None)
    if broken is not None:
        raise TrainingDivergedError(
            f"the weights {broken} became NaN or infinite in epoch {epoch + 1}: lower the learning rate; --resume "
            "starts again from the last whole epoch"
        )
