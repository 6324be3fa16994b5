"""The report on a trained model: metrics and plots."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
from lightning_fabric import Fabric

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.data.dataset import Dataset
from phidet.evaluation.classification_report import answers_of, write_classification
from phidet.evaluation.measure import measure
from phidet.evaluation.report_folder import write_evaluation
from phidet.evaluation.thresholds import THRESHOLD_SETTINGS, best_thresholds
from phidet.training.evaluate import defined, detect

log = logging.getLogger("phidet")


def report_on(
    model: Model, dataset: Dataset, folder: Path, data: str, accelerator: str = "auto", trained_on: int | None = None
) -> dict[str, float]:
    """Measures ``model`` on ``dataset``, on one device, and writes everything about it into ``folder``.

    A detector then has the best score of each class as its ``thresholds``.

    Args:
        model: a detector or a classifier.
        dataset: what it is measured on.
        folder: for the report.
        data: name of the data, for the report.
        accelerator: as Lightning Fabric takes it.
        trained_on: images of ``dataset`` that the model has learned from; ``None`` where that is not known.

    Returns:
        Its main metrics by name, those that are defined.
    """
    # One device even after a distributed training: the report is written by the first process alone.
    fabric = Fabric(accelerator=accelerator, devices=1)
    model.to(fabric.device)
    found = detect(model, dataset, fabric)
    if "classes" in architecture_of(model.config).says:
        answers = answers_of(*found)
        report = answers.report(found.dataset, trained_on)
        write_classification(folder, report, found.dataset, answers)
        return defined({"top1": report.top1, "top5": report.top5})
    evaluation = measure(model.config.name, data, *found, trained_on=trained_on)
    # Thresholds are for detections as they are used; metrics are of COCO's, several classes for a box among them.
    model.thresholds = best_thresholds(*detect(model, found.dataset, fabric, settings=THRESHOLD_SETTINGS))
    evaluation = msgspec.structs.replace(evaluation, thresholds=model.thresholds)
    write_evaluation(folder, evaluation, *found)
    metrics = {"ap": evaluation.coco.ap, "ap50": evaluation.coco.ap50}
    masks = evaluation.masks
    if masks is not None and masks.coco is not None:
        metrics |= {"mask_ap": masks.coco.ap, "mask_ap50": masks.coco.ap50}
    if masks is not None and masks.score is None:
        metrics |= {"miou": masks.semantic.miou} | ({} if masks.panoptic is None else {"pq": masks.panoptic.all.pq})
    return defined(metrics)
