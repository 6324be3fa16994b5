"""Training: one function that reads from top to bottom, and what it is made of."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

import phidet
from phidet.data.dataset import Dataset
from phidet.errors import PhidetError
from phidet.learn.curves import draw_curves
from phidet.learn.evaluate import anchors_of, evaluate
from phidet.learn.loading import Batch, EpochSampler, TrainImages, normalise, train_loader
from phidet.learn.optim import RunningAverage, build_optimizer, rate_at
from phidet.learn.progress import Progress
from phidet.learn.recipe import Recipe
from phidet.learn.run_folder import RunFolder
from phidet.losses import DetectionLoss, detection_loss
from phidet.nn.detector import EfficientDet
from phidet.targets import assign_targets

log = logging.getLogger("phidet")


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


def fit(
    model: EfficientDet, train: Dataset, val: Dataset | None, recipe: Recipe, settings: RunSettings
) -> EfficientDet:
    """Trains ``model`` and returns the running average of its weights at the end; the best one is on disk.

    Args:
        model: its config says the input size and the classes.
        train, val: data with the model's classes.
        recipe: how.
        settings: where.

    Raises:
        TrainingDivergedError: a loss was not finite; the state of the last whole epoch is on disk.
        CheckpointError: a file could not be written or read.
    """
    fabric = Fabric(accelerator=settings.accelerator, devices=settings.devices, precision=recipe.precision)
    fabric.launch()
    fabric.seed_everything(settings.seed + fabric.global_rank, verbose=False)
    folder = RunFolder(settings.out)

    config = model.config
    if recipe.freeze == "backbone":
        model.backbone.requires_grad_(False)
    optimizer = build_optimizer(model, recipe)
    average = RunningAverage(model, recipe.ema_decay)
    wrapped, optimizer = fabric.setup(model, optimizer)
    for name, tensor in average.values.items():
        average.values[name] = tensor.to(fabric.device)
    averaged = EfficientDet(config).to(fabric.device)
    anchors = anchors_of(config, fabric.device)

    images = TrainImages(train, config.image_size_hw, recipe.augmentation, settings.seed)
    sampler = EpochSampler(len(train), recipe.batch_size, settings.seed, fabric.global_rank, fabric.world_size)
    loader = train_loader(images, sampler, settings.workers)
    progress = Progress()
    if settings.resume:
        progress.restore(folder.load_state(), model, optimizer, average)
    elif fabric.is_global_zero:
        about = About(
            phidet=phidet.__version__,
            torch=str(torch.__version__),
            model=config.name,
            train=train.name,
            val=val.name if val is not None else None,
            num_images=len(train),
            seed=settings.seed,
            recipe=recipe,
        )
        folder.create(about)

    for epoch in range(progress.epoch, recipe.epochs):
        sampler.epoch = epoch
        torch.manual_seed(settings.seed * 1_000_003 + epoch)  # dropping blocks is chance too
        row = train_epoch(fabric, Learner(wrapped, optimizer, average, anchors), loader, recipe, epoch)
        average.copy_to(averaged)
        if val is not None and ((epoch + 1) % recipe.evaluate_every == 0 or epoch + 1 == recipe.epochs):
            report, _ = evaluate(averaged, val, fabric, recipe.batch_size, settings.workers)
            row |= {"ap": report.ap or 0.0, "ap50": report.ap50 or 0.0}
        best = progress.note(row)
        if fabric.is_global_zero:
            if best:
                folder.save_model(averaged, "best")
            folder.save_model(averaged, "last")
            folder.save_metrics(progress.rows)
            folder.save_state(progress.state(model, optimizer, average))
            draw_curves(progress.rows, settings.out / "curves.png")
            log.info("%s", progress.line(recipe.epochs))
        if recipe.patience is not None and progress.since_best >= recipe.patience:
            log.info("no better AP for %d evaluations: stopped", recipe.patience)
            break
    return averaged


class Learner(NamedTuple):
    """What learns: the model and its optimizer as the engine wraps them, the running average, the (A, 4) anchors."""

    model: Any
    optimizer: Any
    average: RunningAverage
    anchors: Tensor


def train_epoch(fabric: Fabric, learner: Learner, loader: Any, recipe: Recipe, epoch: int) -> dict[str, float]:
    """One pass over the data; returns means of the losses, and images per second."""
    model, optimizer = learner.model, learner.optimizer
    model.train()
    if recipe.freeze == "backbone":
        model.backbone.eval()  # its statistics stay as they are
    sums: dict[str, float] = {}
    start, steps, num_images = time.perf_counter(), len(loader), 0
    with tqdm(loader, desc=f"epoch {epoch + 1}/{recipe.epochs}", unit="batch", leave=False, disable=None) as bar:
        for step, batch in enumerate(bar):
            update = (step + 1) % recipe.accumulate == 0 or step + 1 == steps
            rate = rate_at(epoch * steps + step, steps, recipe)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with fabric.no_backward_sync(model, enabled=not update):
                loss = compute_loss(fabric, model, batch, learner.anchors, recipe)
                fabric.backward(loss.total / recipe.accumulate)
            losses = {"loss": loss.total, "class_loss": loss.class_loss, "box_loss": loss.box_loss}
            values = {name: float(value.detach()) for name, value in losses.items()}
            _check_finite(values, epoch, step)
            if update:
                fabric.clip_gradients(model, optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False)
                optimizer.step()
                optimizer.zero_grad()
                learner.average.update(model.module)
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            num_images += len(batch.pixels)
            bar.set_postfix(loss=f"{sums['loss'] / (step + 1):.3f}", refresh=False)
    seconds = time.perf_counter() - start
    means = {name: value / steps for name, value in sums.items()}
    return {"epoch": epoch + 1, **means, "rate": rate, "seconds": seconds, "images_per_second": num_images / seconds}


def compute_loss(fabric: Fabric, model: Any, batch: Batch, anchors: Tensor, recipe: Recipe) -> DetectionLoss:
    """The loss of one batch; with several processes it is normalised by the objects of all of them.

    So the mean of the processes' gradients is the gradient of the whole batch.
    """
    batch = Batch(*(tensor.to(fabric.device, non_blocking=True) for tensor in batch))
    config = model.module.config
    outputs = model(normalise(batch, config.preprocess))
    targets = assign_targets(anchors, batch.boxes_xyxy, batch.class_ids)
    positives = targets.num_positives.sum().float()
    if fabric.world_size > 1:
        summed = fabric.all_reduce(positives, reduce_op="sum")
        assert isinstance(summed, Tensor)
        positives = summed
    return detection_loss(outputs, targets, anchors, recipe.loss, (positives + 1) / fabric.world_size)


def _check_finite(values: dict[str, float], epoch: int, step: int) -> None:
    if not all(math.isfinite(value) for value in values.values()):
        raise TrainingDivergedError(
            f"the loss became {values['loss']} in epoch {epoch + 1}, step {step + 1}: lower the learning rate, or look "
            "at the data with 'phidet doctor'; --resume starts again from the last whole epoch"
        )
