"""Runs a model on a data set, and computes its metrics."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from tqdm import tqdm

from phidet.architectures.base import Architecture
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.evaluation.classification_report import answers_of
from phidet.evaluation.coco_metrics import evaluate_coco
from phidet.evaluation.mask_metrics import has_masks, has_segments, with_masks_to_measure
from phidet.evaluation.measure import COCO_SETTINGS
from phidet.evaluation.panoptic import evaluate_panoptic, evaluate_semantic
from phidet.training.loading import EvalImages, eval_loader

log = logging.getLogger("phidet")

BEST_CLASSES = PostprocessSettings(score=0.0, max_detections=5)
"""For a classifier, the five best classes count, whatever their scores."""


class DatasetDetections(NamedTuple):
    """What a model found in a data set.

    Attributes:
        dataset: the images that could be decoded; the others are among its problems.
        detections: one for each of them, in their order.
    """

    dataset: Dataset
    detections: list[Detections]


def detect(
    model: Model,
    dataset: Dataset,
    fabric: Fabric,
    batch_size: int = 8,
    workers: int = 1,
    settings: PostprocessSettings | None = None,
) -> DatasetDetections:
    """Detections in pixels of the original images; images that cannot be decoded are named and left out.

    With several processes, each takes every n-th image and all return the whole.

    Args:
        model: in any mode; the mode is restored afterwards.
        dataset: with the model's classes.
        fabric: on whose device it runs.
        batch_size, workers: images at a time, processes that load them.
        settings: thresholds and limits; unless given, what metrics need: COCO's, or the five best classes.
    """
    if settings is None:
        settings = BEST_CLASSES if "classes" in architecture_of(model.config).says else COCO_SETTINGS
    found, broken = _detect_share(model, dataset, fabric, (batch_size, workers), settings)
    if fabric.world_size > 1:
        # Every process needs all detections, because all compute the same metrics and decide alike when to stop.
        parts: list[Any] = [None] * fabric.world_size
        dist.all_gather_object(parts, (found, broken))
        found = {index: detections for part, _ in parts for index, detections in part.items()}
        broken = {index: reason for _, part in parts for index, reason in part.items()}
    return DatasetDetections(dataset.without(broken), [found[index] for index in sorted(found)])


@torch.inference_mode()
def _detect_share(
    model: Model, dataset: Dataset, fabric: Fabric, loading: tuple[int, int], settings: PostprocessSettings
) -> tuple[dict[int, Detections], dict[int, str]]:
    """Detections by index, and why images cannot be decoded, for this process's share of ``dataset``."""
    config, architecture = model.config, architecture_of(model.config)
    was_training = model.training
    model.eval()
    decode = architecture.decoder(config)
    images = EvalImages(dataset, architecture, config)
    # Strided shares stay balanced where a data set is sorted by size; merging by index restores the order.
    indices = range(fabric.global_rank, len(dataset), fabric.world_size)
    found: dict[int, Detections] = {}
    broken: dict[int, str] = {}
    with tqdm(total=len(indices), desc=f"evaluate {dataset.name}", unit="image", leave=False, disable=None) as bar:
        for batch in eval_loader(images, indices, *loading):
            for _, problem in batch.broken:
                log.warning("left out: %s", problem)
            broken |= dict(batch.broken)
            for part in batch.parts:
                with fabric.autocast():
                    outputs = architecture.named_outputs(model(*(array.to(fabric.device) for array in part.inputs)))
                # Decoding is NumPy code, which knows no bfloat16, and float16 boxes would lose whole pixels.
                arrays = {name: values.float().cpu().numpy() for name, values in outputs.items()}
                for i, (index, placement) in enumerate(zip(part.indices, part.placements, strict=True)):
                    found[index] = decode({name: of[i] for name, of in arrays.items()}, placement, settings)
                bar.update(len(part.indices))
            bar.update(len(batch.broken))
    model.train(was_training)
    return found, broken


def figures_of(architecture: Architecture[Any], found: DatasetDetections) -> dict[str, float]:
    """The main metrics of what was found, by name, those that are defined: AP and AP50, or top-1 and top-5."""
    if "classes" in architecture.says:
        classes = answers_of(*found).report(found.dataset)
        return defined({"top1": classes.top1, "top5": classes.top5})
    found = found._replace(dataset=with_masks_to_measure(*found))
    boxes = evaluate_coco(*found)
    metrics = {"ap": boxes.ap, "ap50": boxes.ap50}
    if has_masks(*found):
        masks = evaluate_coco(*found, overlap="segm")
        metrics |= {"mask_ap": masks.ap, "mask_ap50": masks.ap50}
    if has_segments(*found):
        metrics["miou"] = evaluate_semantic(*found).miou
        if found.dataset.stuff:
            metrics["pq"] = evaluate_panoptic(*found).all.pq
    return defined(metrics)


def defined(metrics: dict[str, float | None]) -> dict[str, float]:
    """Without those that have no value, because there was nothing to measure them on."""
    return {name: value for name, value in metrics.items() if value is not None}
