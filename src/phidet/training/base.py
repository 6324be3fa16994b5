"""The interface of what is learned: everything that :func:`phidet.training.fit.fit` asks of a task.

A task brings data, losses and metrics. One that trains a single network by minimising a loss, as detectors and
classifiers are, implements the abstract methods; one that trains otherwise also brings a learner of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from phidet.architectures.model import Model
from phidet.core.errors import ConfigError
from phidet.data.dataset import Dataset
from phidet.training.augmentation.own import OwnAugmentation
from phidet.training.learner import Learner, prepare_learner
from phidet.training.loading import EpochSampler
from phidet.training.recipe import Recipe

if TYPE_CHECKING:
    from phidet.training.fit import RunSettings


class TrainingTask(ABC):
    """What is learned, from what, and how it is measured.

    Attributes:
        train, val: labelled images, where that is what the task learns from.
        metrics: key of a metric in a row → its title; the first one decides which model is best.
        lower_is_better: whether a lower value of that metric is better.
        loss_falls: whether a loss that ends higher than it began means that the run diverged.
        optimizer: the one that it needs, whatever the recipe says; ``None`` for the recipe's.
    """

    train: Dataset
    val: Dataset | None
    metrics: Mapping[str, str]
    lower_is_better = False
    loss_falls = True
    optimizer: str | None = None

    @property
    def train_name(self) -> str:
        """Name of the training data."""
        return self.train.name

    @property
    def val_name(self) -> str | None:
        """Name of the data that the model is measured on; without them there is no evaluation."""
        return None if self.val is None else self.val.name

    @property
    def num_images(self) -> int:
        """Images to train on."""
        return len(self.train)

    def epoch_images(self, recipe: Recipe) -> int:
        """Images shown in an epoch."""
        return self.num_images

    @abstractmethod
    def loader(self, recipe: Recipe, seed: int, sampler: EpochSampler, workers: int) -> DataLoader[Any]:
        """The batches that ``sampler`` names; the first field of a batch is its images."""

    @abstractmethod
    def losses(self, fabric: Fabric, model: Any, batch: Any, recipe: Recipe) -> dict[str, Tensor]:
        """Losses of a batch by name; ``loss`` is what is minimised, the others are parts of it.

        With several processes, the mean of their gradients is the gradient of the whole batch.
        """

    @abstractmethod
    def evaluate(self, fabric: Fabric, model: Any, recipe: Recipe, workers: int) -> dict[str, float]:
        """The ``metrics`` of the averaged model, those that are defined."""

    def augment_with(self, own: OwnAugmentation) -> None:
        """Lets a function of the user's own augment the training images.

        Raises:
            ConfigError: this task does not augment images.
        """
        raise ConfigError("an augmentation of one's own is for detectors and classifiers: leave augment out")

    def sampler(self, recipe: Recipe, seed: int, rank: int, size: int) -> EpochSampler:
        """Which images make the batches of an epoch, for this of several processes."""
        return EpochSampler(self.num_images, recipe.batch_size, seed, rank, size)

    def learner(self, fabric: Fabric, model: Model, recipe: Recipe, settings: RunSettings) -> Learner:
        """What changes in training, on the engine's device."""
        return prepare_learner(fabric, model, self, recipe, settings)

    def show(self, model: Any, folder: Path, epoch: int) -> None:
        """Writes what else helps to judge the averaged model after ``epoch`` epochs into the run's folder."""
        return
