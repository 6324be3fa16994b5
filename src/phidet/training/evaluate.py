"""A model's detections on a data set, and their figures."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from phidet.architectures.classifier.network import Classifier
from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.decode import NetworkOutputs, postprocess, with_best
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.evaluation.classification_report import Answers
from phidet.evaluation.measure import COCO_SETTINGS
from phidet.training.augmentation.classification import EvalPictures
from phidet.training.loading import EvalImages, eval_loader

log = logging.getLogger("phidet")


def anchors_of(config: ModelConfig, device: torch.device) -> Tensor:
    """(A, 4) anchors of the config's input size, on ``device``."""
    levels = config.feature_network.levels
    return torch.tensor(generate_anchors(config.image_size_hw, levels, config.anchors), device=device)


class DatasetDetections(NamedTuple):
    """What a model found in a data set.

    Attributes:
        dataset: the images that could be decoded; the others are among its problems.
        detections: one for each of them, in their order.
    """

    dataset: Dataset
    detections: list[Detections]


def detect(
    model: EfficientDet,
    dataset: Dataset,
    fabric: Fabric,
    batch_size: int = 8,
    workers: int = 1,
    settings: PostprocessSettings = COCO_SETTINGS,
) -> DatasetDetections:
    """Detections in pixels of the original images; images that cannot be decoded are named and left out.

    With several processes, each takes every n-th image and all return the whole.
    """
    found, broken = _detect_share(model, dataset, fabric, batch_size, workers, settings)
    if fabric.world_size > 1:
        parts: list[Any] = [None] * fabric.world_size
        dist.all_gather_object(parts, (found, broken))
        found = {index: detections for part, _ in parts for index, detections in part.items()}
        broken = {index: reason for _, part in parts for index, reason in part.items()}
    return DatasetDetections(dataset.without(broken), [found[index] for index in sorted(found)])


@torch.inference_mode()
def _detect_share(
    model: EfficientDet,
    dataset: Dataset,
    fabric: Fabric,
    batch_size: int,
    workers: int,
    settings: PostprocessSettings,
) -> tuple[dict[int, Detections], dict[int, str]]:
    """Detections by index, and why images cannot be decoded, for this process's share of ``dataset``."""
    config = model.config
    was_training = model.training
    model.eval()
    anchors = generate_anchors(config.image_size_hw, config.feature_network.levels, config.anchors)
    images = EvalImages(dataset, config.image_size_hw, config.preprocess)
    indices = range(fabric.global_rank, len(dataset), fabric.world_size)
    found: dict[int, Detections] = {}
    broken: dict[int, str] = {}
    with tqdm(total=len(indices), desc=f"evaluate {dataset.name}", unit="image", leave=False, disable=None) as bar:
        for batch in eval_loader(images, indices, batch_size, workers):
            for _, problem in batch.broken:
                log.warning("left out: %s", problem)
            broken |= dict(batch.broken)
            if len(batch.indices):
                with fabric.autocast():
                    outputs = model(batch.images.to(fabric.device))
                logits, deltas = (part.float().cpu().numpy() for part in outputs)
                rows = zip(batch.indices, batch.scales, *with_best(logits, deltas), strict=True)
                for index, scale, *of_image in rows:
                    raw, size_hw = NetworkOutputs(*of_image), dataset.size_hw(index)
                    found[index] = postprocess(raw, anchors, scale, size_hw, settings, config.class_names)
            bar.update(len(batch.indices) + len(batch.broken))
    model.train(was_training)
    return found, broken


@torch.inference_mode()
def classify_all(
    model: Classifier, dataset: Dataset, fabric: Fabric, batch_size: int = 32, workers: int = 1
) -> Answers:
    """What ``model`` says of each picture; those that cannot be decoded are named and left out.

    With several processes, each takes every n-th picture and all return the whole.
    """
    was_training = model.training
    model.eval()
    most = min(5, model.config.num_classes)
    indices = range(fabric.global_rank, len(dataset), fabric.world_size)
    said: dict[int, tuple[list[int], list[float]]] = {}
    broken: dict[int, str] = {}
    with tqdm(total=len(indices), desc=f"evaluate {dataset.name}", unit="image", leave=False, disable=None) as bar:
        for batch in eval_loader(EvalPictures(dataset, model.config), indices, batch_size, workers):
            for _, problem in batch.broken:
                log.warning("left out: %s", problem)
            broken |= dict(batch.broken)
            if len(batch.indices):
                with fabric.autocast():
                    logits = model(batch.images.to(fabric.device))
                best = logits.float().softmax(1).topk(most)
                said.update(
                    zip(batch.indices, zip(best.indices.tolist(), best.values.tolist(), strict=True), strict=True)
                )
            bar.update(len(batch.indices) + len(batch.broken))
    model.train(was_training)
    if fabric.world_size > 1:
        parts: list[Any] = [None] * fabric.world_size
        dist.all_gather_object(parts, (said, broken))
        said = {index: answer for part, _ in parts for index, answer in part.items()}
        broken = {index: reason for _, part in parts for index, reason in part.items()}
    seen = sorted(said)
    return Answers(
        np.array(seen, np.int64),
        np.array([dataset.annotations(index).class_ids[0] for index in seen], np.int64),
        np.array([said[index][0] for index in seen], np.int64).reshape(len(seen), most),
        np.array([said[index][1] for index in seen], np.float32).reshape(len(seen), most),
        broken,
    )
