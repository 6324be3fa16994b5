"""What the trainer needs to know of the thing that is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from phidet.architectures.classifier.network import Classifier
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.training.loading import EpochSampler
from phidet.training.recipe import Recipe

Network = EfficientDet | Classifier


class Task(Protocol):
    """Data, loss and figures of one kind of learning; :func:`phidet.training.fit.fit` is the same for all.

    Attributes:
        figures: key of a figure in a row → its title; the first one says which model is best.
        train_name, val_name: of the data; without ``val_name`` there is no evaluation.
        num_images: to train on.
    """

    @property
    def figures(self) -> Mapping[str, str]: ...

    @property
    def train_name(self) -> str: ...

    @property
    def val_name(self) -> str | None: ...

    @property
    def num_images(self) -> int: ...

    def to(self, device: torch.device) -> None:
        """Moves what the loss needs to ``device``."""

    def loader(self, recipe: Recipe, seed: int, sampler: EpochSampler, workers: int) -> DataLoader[Any]:
        """Batches for training; the first field of a batch is its images."""

    def losses(self, fabric: Fabric, model: Any, batch: Any, recipe: Recipe) -> dict[str, Tensor]:
        """Losses of a batch by name; ``loss`` is what is minimised, the others are parts of it.

        With several processes, the mean of their gradients is the gradient of the whole batch.
        """

    def evaluate(self, fabric: Fabric, model: Any, recipe: Recipe, workers: int) -> dict[str, float]:
        """The ``figures`` on the validation data."""
