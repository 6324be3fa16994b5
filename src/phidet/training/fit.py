"""Training: one function that reads from top to bottom, and what it is made of."""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import CheckpointError, ConfigError, TrainingDivergedError
from phidet.core.extras import __version__
from phidet.core.machine import keep_freed_memory, usable_cores
from phidet.training.about import About, Origin, Request
from phidet.training.checkpointing import recompute_activations
from phidet.training.curves import draw_curves
from phidet.training.loading import EpochSampler
from phidet.training.optim import (
    RunningAverage,
    build_optimizer,
    frozen_parts,
    raise_batch_norm_momentum,
    rate_at,
    set_rate,
)
from phidet.training.progress import Progress
from phidet.training.recipe import Recipe
from phidet.training.run_folder import RunFolder
from phidet.training.sync_norm import share_batch_norms
from phidet.training.task import Task

log = logging.getLogger("phidet")

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

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be a whole number from 0 to 2³² − 1, got {self.seed}")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers must be a whole number ≥ 0, got {self.workers}")


def fit(model: NetworkT, task: Task, recipe: Recipe, settings: RunSettings, origin: Origin | None = None) -> NetworkT:
    """Trains ``model`` and returns the running average of its weights at the end; the best one is on disk.

    Args:
        model: its config has the input size and the classes.
        task: what to learn, from which data: :class:`phidet.training.task.Task`.
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
    learner = prepare_learner(fabric, model, task, recipe, settings)
    sampler = EpochSampler(
        task.num_images, recipe.batch_size, settings.seed, fabric.global_rank, fabric.world_size, task.repeats(recipe)
    )
    _check_batch(model, sampler.batch_size if recipe.sync_batch_norm else sampler.batch_size // fabric.world_size)
    # The sampler shares out a seeded order by rank: the same batches whatever the number of processes or workers.
    loader = task.loader(recipe, settings.seed, sampler, num_workers(settings))
    progress = Progress(task.figures)
    # Only the first process writes; the others read the state in _restore from the same folder.
    if settings.resume:
        _restore(folder, progress, learner, recipe, fabric.is_global_zero)
    elif fabric.is_global_zero:
        about = describe(model, task, recipe, settings, None if origin is None else origin.request)
        folder.create(about, None if origin is None else origin.images)

    for epoch in range(progress.epoch, recipe.epochs):
        if _is_finished(progress, recipe):
            log.info("no better %s for %d evaluations: stopped", progress.best_title, recipe.patience)
            break
        sampler.epoch = epoch
        torch.manual_seed(settings.seed * 1_000_003 + epoch)  # dropping blocks is chance too
        # Weights are checked before the average is copied and saved: files on disk never hold NaN.
        row = train_epoch(fabric, learner, loader, recipe, epoch)
        _check_weights(learner.network, epoch)
        learner.average.copy_to(averaged)
        if task.val_name is not None and ((epoch + 1) % recipe.evaluate_every == 0 or epoch + 1 == recipe.epochs):
            row |= _evaluated(fabric, averaged, task, recipe, num_workers(settings))
        best = progress.note(row)
        if fabric.is_global_zero:
            # The state is written after the models: a crash in between repeats an epoch instead of skipping one.
            folder.save_models(averaged, best)
            folder.save_state(progress.state(learner.network, learner.optimizer, learner.average))
            _show(progress, folder, task)
            log.info("%s", progress.line(recipe.epochs))
    if fabric.is_global_zero and progress.rows[-1]["loss"] > 2 * progress.rows[0]["loss"]:
        said = (
            "the loss ended at %.4g, over twice the %.4g of the first epoch: the run diverged; lower the learning rate"
        )
        log.warning(said, progress.rows[-1]["loss"], progress.rows[0]["loss"])
    fabric.barrier()  # the best model is on disk
    return averaged


def _restore(folder: RunFolder, progress: Progress, learner: Learner, recipe: Recipe, leads: bool) -> None:
    """Restores ``progress`` and ``learner`` to where the run in ``folder`` stopped; logs if the run is finished."""
    folder.read_about()  # there is a run
    if folder.has_begun:
        progress.restore(folder.load_state(), learner.network, learner.optimizer, learner.average)
        if leads:
            _show(progress, folder, learner.task)  # the state was saved first
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
        raise ConfigError(f"cannot train on {settings.devices!r} {settings.accelerator!r} devices: {error}") from error
    fabric.launch()
    # glibc gives large freed blocks back to the system, and faulting them in again for every step costs a lot of time.
    if fabric.device.type == "cpu":
        keep_freed_memory()
    fabric.seed_everything(settings.seed + fabric.global_rank, verbose=False)
    return fabric


def num_workers(settings: RunSettings) -> int:
    """Processes that load images, for each device."""
    return settings.workers if settings.workers is not None else min(max(usable_cores() - 1, 1), 8)


def describe(model: Model, task: Task, recipe: Recipe, settings: RunSettings, request: Request | None) -> About:
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


class Learner(NamedTuple):
    """What learns.

    Attributes:
        network: the network itself.
        model, optimizer: the network and its optimizer as the engine wraps them.
        average: of the network's weights.
        task: what is learned.
        frozen: parts of the network that stay as they are.
    """

    network: Model
    model: Any
    optimizer: Any
    average: RunningAverage
    task: Task
    frozen: list[nn.Module]


def prepare_learner(fabric: Fabric, model: Model, task: Task, recipe: Recipe, settings: RunSettings) -> Learner:
    """Everything that learns, on the engine's device."""
    model.to(fabric.device)
    raise_batch_norm_momentum(model, recipe, max(1, task.num_images // recipe.batch_size) * recipe.epochs)
    if recipe.sync_batch_norm and fabric.world_size > 1:
        share_batch_norms(model, fabric.device)  # which may put others in their place: frozen are those
    # Frozen parameters must be known before the optimizer and DDP collect those that need gradients.
    frozen = frozen_parts(model, recipe)
    for part in frozen:
        part.requires_grad_(False)
    if settings.save_memory and not recompute_activations(model):
        log.warning("save_memory has no effect: %s has no blocks to recompute", model.config.name)
    compiled: Any = torch.compile(model) if settings.compile else model
    wrapped, optimizer = fabric.setup(compiled, build_optimizer(model, recipe, fabric.device))
    average = RunningAverage(model, recipe.ema_decay)  # of the first process's weights, which all have now
    return Learner(model, wrapped, optimizer, average, task, frozen)


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
            # The last batch of an epoch always updates, so that no gradient is carried over into the next one.
            update = (step + 1) % recipe.accumulate == 0 or step + 1 == steps
            rate = rate_at(epoch * steps + step, steps, recipe)
            set_rate(optimizer, rate)
            # Gradients are exchanged between processes only at the step that uses them.
            with fabric.no_backward_sync(model, enabled=not update):
                losses = learner.task.losses(fabric, model, batch, recipe)
                fabric.backward(losses["loss"] / recipe.accumulate)
            # Checked before the update, which keeps bad gradients out of the weights.
            values = {name: float(value.detach()) for name, value in losses.items()}
            _check_finite(values, epoch, step)
            if update:
                fabric.clip_gradients(model, optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False)
                optimizer.step()
                optimizer.zero_grad()
                learner.average.update(learner.network)
            # The keys come from the architecture's loss, so the sums start without any.
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            num_images += len(batch[0])
            bar.set_postfix(loss=f"{sums['loss'] / (step + 1):.3f}", refresh=False)
    seconds = time.perf_counter() - start
    means = {name: value / steps for name, value in sums.items()}
    return {"epoch": epoch + 1, **means, "rate": rate, "seconds": seconds, "images_per_second": num_images / seconds}


def _evaluated(fabric: Fabric, model: Model, task: Task, recipe: Recipe, workers: int) -> dict[str, float]:
    try:
        return task.evaluate(fabric, model, recipe, workers)
    except CheckpointError as error:  # finite weights, and answers that are not
        raise TrainingDivergedError(
            f"{error}: lower the learning rate; --resume starts again from the last whole epoch"
        ) from error


def _show(progress: Progress, folder: RunFolder, task: Task) -> None:
    folder.save_metrics(progress.rows)
    draw_curves(progress.rows, task.figures, folder.path / "curves.png")


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


def _check_finite(values: dict[str, float], epoch: int, step: int) -> None:
    if not all(math.isfinite(value) for value in values.values()):
        raise TrainingDivergedError(
            f"the loss became {values['loss']} in epoch {epoch + 1}, step {step + 1}: lower the learning rate, or look "
            "at the data with 'phidet doctor'; --resume starts again from the last whole epoch"
        )
