"""A model's detections on a data set, and their figures."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from phidet.anchors import generate_anchors
from phidet.config import ModelConfig
from phidet.data.dataset import Dataset
from phidet.learn.loading import EvalImages, eval_loader
from phidet.metrics.measure import COCO_SETTINGS
from phidet.nms import PostprocessSettings
from phidet.nn.detector import EfficientDet
from phidet.postprocess import postprocess
from phidet.results import Detections
from phidet.runtime.network import NetworkOutputs, with_best

log = logging.getLogger("phidet")


def anchors_of(config: ModelConfig, device: torch.device) -> Tensor:
    """(A, 4) anchors of the config's input size, on ``device``."""
    levels = config.feature_network.levels
    return torch.tensor(generate_anchors(config.image_size_hw, levels, config.anchors), device=device)


class Found(NamedTuple):
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
) -> Found:
    """Detections in pixels of the original images; images that cannot be decoded are named and left out.

    With several processes, each takes every n-th image and all return the whole.
    """
    found, broken = _detect_share(model, dataset, fabric, batch_size, workers, settings)
    if fabric.world_size > 1:
        parts: list[Any] = [None] * fabric.world_size
        dist.all_gather_object(parts, (found, broken))
        found = {index: detections for part, _ in parts for index, detections in part.items()}
        broken = {index: reason for _, part in parts for index, reason in part.items()}
    return Found(dataset.without(broken), [found[index] for index in sorted(found)])


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
