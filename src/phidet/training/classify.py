"""Learning to classify whole pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.network import Classifier
from phidet.architectures.efficientdet.losses import LossConfig
from phidet.core.structs import replace as replace_config
from phidet.data.dataset import Dataset
from phidet.training.augmentation.classification import TrainPictures
from phidet.training.evaluate import classify_all
from phidet.training.loading import Batch, EpochSampler, normalise, train_loader
from phidet.training.recipe import Augmentation, Recipe, replace
from phidet.weights.create import create_classifier, parse_image_size

log = logging.getLogger("phidet")

CLASSIFY = Recipe(
    name="classify",
    epochs=20,
    batch_size=32,
    learning_rate=1e-3,
    ema_decay=0.999,
    weight_decay=0.02,
    batch_norm_momentum=0.1,  # with EfficientNet's 0.01, statistics are still ImageNet's after a short run
    augmentation=Augmentation(scale_jitter=(1.0, 1.7), colour=0.2),
    loss=LossConfig(label_smoothing=0.1),
)
"""Hundreds to thousands of pictures, from ImageNet weights, on one device."""


def choose_classify_recipe(num_images: int) -> Recipe:
    """The recipe for a data set of this size: about 20,000 pictures seen, between 5 and 50 epochs."""
    batch_size = min(CLASSIFY.batch_size, max(4, num_images // 8))
    epochs = min(max(round(20_000 / num_images), 5), 50)
    return replace(CLASSIFY, {"epochs": epochs, "batch_size": batch_size})


def classifier_for(
    class_names: Sequence[str],
    model: str = "efficientnet-lite0",
    pretrained: str | Path | None = "imagenet",
    image_size: int | tuple[int, int] | None = None,
) -> Classifier:
    """A classifier for new classes that starts from known weights.

    Args:
        class_names: in the order of their ids.
        model: a published name.
        pretrained: as :func:`phidet.weights.create.create_classifier` takes it.
        image_size: input side, or (height, width), in pixels; the model's own unless given.

    Raises:
        UnknownNameError, ConfigError, CheckpointError, DownloadError: as
        :func:`phidet.weights.create.create_classifier`.
    """
    network = create_classifier(model, class_names=tuple(class_names), pretrained=pretrained, replace_head=True)
    if image_size is not None:
        network.config = replace_config(network.config, {"image_size_hw": parse_image_size(image_size)})
    return network


class ClassifyTask:
    """Cross entropy with label smoothing, top-1 and top-5; see :class:`phidet.training.task.Task`.

    Args:
        config: of the model; its input size and classes.
        train, val: pictures with one object each, of the model's classes.
    """

    def __init__(self, config: ClassifierConfig, train: Dataset, val: Dataset | None) -> None:
        self.config, self.train, self.val = config, train, val
        self.figures = {"top1": "top-1", "top5": "top-5"}

    @property
    def train_name(self) -> str:
        """Name of the training data."""
        return self.train.name

    @property
    def val_name(self) -> str | None:
        """Name of the validation data."""
        return None if self.val is None else self.val.name

    @property
    def num_images(self) -> int:
        """Pictures to train on."""
        return len(self.train)

    def to(self, device: torch.device) -> None:
        """The loss needs nothing."""

    def loader(self, recipe: Recipe, seed: int, sampler: EpochSampler, workers: int) -> DataLoader[Any]:
        """Augmented batches."""
        images = TrainPictures(self.train, self.config.image_size_hw, recipe.augmentation, seed)
        return train_loader(images, sampler, workers)

    def losses(self, fabric: Fabric, model: Any, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
        """The mean over the pictures of this process, which are as many in every process."""
        batch = Batch(*(tensor.to(fabric.device, non_blocking=True) for tensor in batch))
        logits = model(normalise(batch, self.config.preprocess))
        smoothing = recipe.loss.label_smoothing
        return {"loss": F.cross_entropy(logits.float(), batch.class_ids[:, 0], label_smoothing=smoothing)}

    def evaluate(self, fabric: Fabric, model: Classifier, recipe: Recipe, workers: int) -> dict[str, float]:
        """Top-1 and top-5 on the validation data."""
        assert self.val is not None
        answers = classify_all(model, self.val, fabric, recipe.batch_size, workers)
        report = answers.report(self.val)
        self.val = self.val.without(answers.broken)  # what cannot be decoded is named once, not in every epoch
        return {key: value for key, value in (("top1", report.top1), ("top5", report.top5)) if value is not None}
