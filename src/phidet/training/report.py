"""Figures and pictures of a trained model."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning_fabric import Fabric

from phidet.architectures.efficientdet.network import EfficientDet
from phidet.data.dataset import Dataset
from phidet.evaluation.classification_report import write_classification
from phidet.evaluation.measure import measure
from phidet.evaluation.report_folder import write_evaluation
from phidet.training.evaluate import classify_all, detect
from phidet.training.task import Network

log = logging.getLogger("phidet")


def report_on(
    model: Network, dataset: Dataset, folder: Path, data: str, accelerator: str = "auto", trained_on: int | None = None
) -> dict[str, float]:
    """Measures ``model`` on ``dataset``, on one device, and writes everything about it into ``folder``.

    Args:
        model: a detector or a classifier.
        dataset: what it is measured on.
        folder: for the report.
        data: what the data are called.
        accelerator: as Lightning Fabric takes it.
        trained_on: images of ``dataset`` that the model has learned from; ``None`` where that is not known.

    Returns:
        Its main figures by name, those that are defined.
    """
    fabric = Fabric(accelerator=accelerator, devices=1)
    model.to(fabric.device)
    if not isinstance(model, EfficientDet):
        answers = classify_all(model, dataset, fabric)
        report = answers.report(dataset, trained_on)
        write_classification(folder, report, dataset, answers)
        return _defined({"top1": report.top1, "top5": report.top5})
    found = detect(model, dataset, fabric)
    evaluation = measure(model.config.name, data, *found, trained_on=trained_on)
    write_evaluation(folder, evaluation, *found)
    return _defined({"ap": evaluation.coco.ap, "ap50": evaluation.coco.ap50})


def _defined(figures: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}
