"""Detection and classification: data, loss and metrics, the same for every architecture."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from phidet.architectures.base import Loss, NetworkConfig, resolved_loss
from phidet.architectures.batch import Batch
from phidet.architectures.processes import Processes
from phidet.architectures.registry import architecture_of
from phidet.data.dataset import Dataset
from phidet.training.augmentation.classification import TrainWholeImages
from phidet.training.augmentation.detection import pad_to
from phidet.training.augmentation.own import OwnAugmentation
from phidet.training.balance import repeat_factors
from phidet.training.base import TrainingTask
from phidet.training.evaluate import detect, figures_of
from phidet.training.image_cache import CACHE_BYTES, ImageCache
from phidet.training.loading import EpochSampler, TrainImages, normalise, train_loader
from phidet.training.recipe import Recipe
from phidet.training.teacher import TaughtImages


class Task(TrainingTask):
    """A network that learns to say of an image what its labels say.

    Args:
        config: of the model; its input size and classes.
        train, val: data with the model's classes; for a classifier, images with one object each.
        teacher: a detector to learn from beside the labels; see :func:`phidet.inference.described.open_detector`.

    Attributes:
        metrics: key of a metric in a row → its title; the first one decides which model is best.
    """

    def __init__(self, config: NetworkConfig, train: Dataset, val: Dataset | None, teacher: str | None = None) -> None:
        self.config, self.train, self.val, self.teacher = config, train, val, teacher
        self.architecture = architecture_of(config)
        self.classifies = "classes" in self.architecture.says
        self.metrics = {"top1": "top-1", "top5": "top-5"} if self.classifies else {"ap": "AP", "ap50": "AP50"}
        if "masks" in self.architecture.finds(config):
            self.metrics |= {"mask_ap": "mask AP", "mask_ap50": "mask AP50"}
        if "segments" in self.architecture.finds(config):
            self.metrics |= {"pq": "PQ", "miou": "mIoU"}
        self._loss: Loss | None = None
        self._own: OwnAugmentation | None = None

    def augment_with(self, own: OwnAugmentation) -> None:
        self._own = own

    def sampler(self, recipe: Recipe, seed: int, rank: int, size: int) -> EpochSampler:
        repeats = repeat_factors(self.train, recipe.class_balance) if recipe.class_balance else None
        return EpochSampler(self.num_images, recipe.batch_size, seed, rank, size, repeats)

    def loader(self, recipe: Recipe, seed: int, sampler: EpochSampler, workers: int) -> DataLoader[Any]:
        """Augmented batches; the first field of a batch is its images."""
        kind = TrainWholeImages if self.classifies else TrainImages
        config, stride = self.config, self.architecture.mask_stride(self.config)
        varying = self.architecture.has_varying_size(config)
        images: Any = kind(self.train, config.image_size_hw, recipe.augmentation, seed, stride, varying)
        images.own, images.epochs = self._own, recipe.epochs
        images.cache = ImageCache(CACHE_BYTES // max(1, workers))  # each process has its own
        if self._own is not None:
            images[0, 0]  # so that a mistake in the user's function is found here and not in another process
        if self.teacher is not None:
            images = TaughtImages(images, self.teacher, self.config.class_names, recipe.teaching)
        return train_loader(images, sampler, workers)

    def losses(self, fabric: Fabric, model: Any, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
        # Built on first use: only then is the device known.
        settings = resolved_loss(self.architecture, recipe.loss)
        if self._loss is None:
            self._loss = self.architecture.loss(self.config, settings)
            self._loss.to(fabric.device)
        batch = batch.to(fabric.device)
        if self.architecture.has_varying_size(self.config):
            batch = batch._replace(pixels=pad_to(batch.pixels, _largest(batch.pixels)))
        images = normalise(batch, self.config.preprocess)
        outputs = self.architecture.training_outputs(model, images, batch, settings)
        return self._loss(outputs, batch, Processes(fabric.world_size, total_over_processes))

    def evaluate(self, fabric: Fabric, model: Any, recipe: Recipe, workers: int) -> dict[str, float]:
        """The ``metrics`` on the validation data, those that are defined."""
        assert self.val is not None
        found = detect(model, self.val, fabric, recipe.batch_size, workers)
        self.val = found.dataset  # what cannot be decoded is named once, not in every epoch
        return figures_of(self.architecture, found)


def _largest(pixels: Tensor) -> tuple[int, int]:
    """Height and width of the largest batch of all processes: how much is padded may show in what a network answers, so
    that it must not depend on which process an image is in."""
    size = torch.tensor(pixels.shape[-2:], device=pixels.device)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(size, dist.ReduceOp.MAX)
    return int(size[0]), int(size[1])


def total_over_processes(value: Tensor) -> Tensor:
    """The sum of ``value`` over all processes."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    # A normaliser, such as the number of positive anchors: no gradient flows through it.
    summed = value.detach().clone()
    dist.all_reduce(summed)
    return summed
