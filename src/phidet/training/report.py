"""Figures and pictures of a trained model."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning_fabric import Fabric

from phidet.architectures.efficientdet.network import EfficientDet
from phidet.data.dataset import Dataset
from phidet.evaluation.classification_report import write_classification
from phidet.evaluation.report_folder import measure, write_evaluation
from phidet.training.evaluate import classify_all, detect
from phidet.training.task import Network

log = logging.getLogger("phidet")


def report_on(model: Network, dataset: Dataset, folder: Path, data: str, accelerator: str = "auto") -> dict[str, float]:
    """Measures ``model`` on ``dataset``, on one device, and writes everything about it into ``folder``.

    Returns:
        Its main figures by name.
    """
    fabric = Fabric(accelerator=accelerator, devices=1)
    model.to(fabric.device)
    if not isinstance(model, EfficientDet):
        answers = classify_all(model, dataset, fabric)
        report = answers.report(dataset)
        write_classification(folder, report, dataset, answers)
        return {"top1": report.top1 or 0.0, "top5": report.top5 or 0.0}
    found = detect(model, dataset, fabric)
    indices = sorted(found)
    seen = dataset if len(indices) == len(dataset) else dataset.subset(indices, dataset.name)
    detections = [found[index] for index in indices]
    evaluation = measure(model.config.name, data, seen, detections)
    write_evaluation(folder, evaluation, seen, detections)
    return {"ap": evaluation.coco.ap or 0.0, "ap50": evaluation.coco.ap50 or 0.0}
