"""Learning to detect objects."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.losses import detection_loss
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.efficientdet.targets import assign_targets
from phidet.data.dataset import Dataset
from phidet.evaluation.coco_figures import evaluate_coco
from phidet.training.evaluate import anchors_of, detect
from phidet.training.loading import Batch, EpochSampler, TrainImages, normalise, train_loader
from phidet.training.recipe import Recipe


class DetectionTask:
    """Focal and box losses of anchors, COCO's figures; see :class:`phidet.training.task.Task`.

    Args:
        config: of the model; its input size, anchors and classes.
        train, val: data with the model's classes.
    """

    def __init__(self, config: ModelConfig, train: Dataset, val: Dataset | None) -> None:
        self.config, self.train, self.val = config, train, val
        self.figures = {"ap": "AP", "ap50": "AP50"}
        self.anchors = anchors_of(config, torch.device("cpu"))

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
        """Images to train on."""
        return len(self.train)

    def to(self, device: torch.device) -> None:
        """Moves the anchors to ``device``."""
        self.anchors = self.anchors.to(device)

    def loader(self, recipe: Recipe, seed: int, sampler: EpochSampler, workers: int) -> DataLoader[Any]:
        """Augmented batches."""
        images = TrainImages(self.train, self.config.image_size_hw, recipe.augmentation, seed)
        return train_loader(images, sampler, workers)

    def losses(self, fabric: Fabric, model: Any, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
        """The loss of one batch; with several processes it is normalised by the objects of all of them.

        So the mean of the processes' gradients is the gradient of the whole batch.
        """
        batch = Batch(*(tensor.to(fabric.device, non_blocking=True) for tensor in batch))
        outputs = model(normalise(batch, self.config.preprocess))
        targets = assign_targets(self.anchors, batch.boxes_xyxy, batch.class_ids)
        positives = targets.num_positives.sum().float()
        if fabric.world_size > 1:
            summed = fabric.all_reduce(positives, reduce_op="sum")
            assert isinstance(summed, Tensor)
            positives = summed
        loss = detection_loss(outputs, targets, self.anchors, recipe.loss, (positives + 1) / fabric.world_size)
        return {"loss": loss.total, "class_loss": loss.class_loss, "box_loss": loss.box_loss}

    def evaluate(self, fabric: Fabric, model: EfficientDet, recipe: Recipe, workers: int) -> dict[str, float]:
        """AP and AP50 on the validation data; nothing where these have no object left that could be measured."""
        assert self.val is not None
        found = detect(model, self.val, fabric, recipe.batch_size, workers)
        self.val = found.dataset  # what cannot be decoded is named once, not in every epoch
        report = evaluate_coco(*found)
        return {key: value for key, value in (("ap", report.ap), ("ap50", report.ap50)) if value is not None}
