"""What is learned: data, loss and metrics of a training, the same for every architecture."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from phidet.architectures.base import Loss, NetworkConfig, Processes, resolved_loss
from phidet.architectures.batch import Batch
from phidet.architectures.registry import architecture_of
from phidet.data.dataset import Dataset
from phidet.training.augmentation.classification import TrainPictures
from phidet.training.augmentation.detection import pad_to
from phidet.training.evaluate import detect, figures_of
from phidet.training.loading import EpochSampler, TrainImages, normalise, train_loader
from phidet.training.recipe import Recipe


class Task:
    """Images, loss and metrics: everything :func:`phidet.training.fit.fit` needs to know about what is learned.

    Args:
        config: of the model; its input size and classes.
        train, val: data with the model's classes; for a classifier, images with one object each.

    Attributes:
        figures: key of a metric in a row → its title; the first one decides which model is best.
    """

    def __init__(self, config: NetworkConfig, train: Dataset, val: Dataset | None) -> None:
        self.config, self.train, self.val = config, train, val
        self.architecture = architecture_of(config)
        self.classifies = "classes" in self.architecture.says
        self.figures = {"top1": "top-1", "top5": "top-5"} if self.classifies else {"ap": "AP", "ap50": "AP50"}
        self._loss: Loss | None = None

    @property
    def train_name(self) -> str:
        """Name of the training data."""
        return self.train.name

    @property
    def val_name(self) -> str | None:
        """Name of the validation data; without it there is no evaluation."""
        return None if self.val is None else self.val.name

    @property
    def num_images(self) -> int:
        """Images to train on."""
        return len(self.train)

    def loader(self, recipe: Recipe, seed: int, sampler: EpochSampler, workers: int) -> DataLoader[Any]:
        """Augmented batches; the first field of a batch is its images."""
        kind = TrainPictures if self.classifies else TrainImages
        varying = self.architecture.has_varying_size(self.config)
        images = kind(self.train, self.config.image_size_hw, recipe.augmentation, seed, varying)
        return train_loader(images, sampler, workers)

    def losses(self, fabric: Fabric, model: Any, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
        """Losses of a batch by name; ``loss`` is what is minimised, the others are parts of it.

        With several processes, the mean of their gradients is the gradient of the whole batch.
        """
        # Built on first use: only then is the device known.
        settings = resolved_loss(self.architecture, recipe.loss)
        if self._loss is None:
            self._loss = self.architecture.loss(self.config, settings)
            self._loss.to(fabric.device)
        batch = Batch(*(tensor.to(fabric.device, non_blocking=True) for tensor in batch))
        if self.architecture.has_varying_size(self.config):
            batch = batch._replace(pixels=pad_to(batch.pixels, _largest(batch.pixels)))
        images = normalise(batch, self.config.preprocess)
        outputs = self.architecture.training_outputs(model, images, batch, settings)
        return self._loss(outputs, batch, Processes(fabric.world_size, _total))

    def evaluate(self, fabric: Fabric, model: Any, recipe: Recipe, workers: int) -> dict[str, float]:
        """The ``figures`` on the validation data, those that are defined."""
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


def _total(value: Tensor) -> Tensor:
    """The sum of ``value`` over all processes."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    # A normaliser, such as the number of positive anchors: no gradient flows through it.
    summed = value.detach().clone()
    dist.all_reduce(summed)
    return summed
