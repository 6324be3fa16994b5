"""What a classifier says of labelled pictures: its figures, and as pictures what it takes for what."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from tqdm import tqdm

from phidet.data.dataset import Dataset
from phidet.data.summary import summarise_data
from phidet.errors import InputError
from phidet.files import write_made, write_whole
from phidet.learn.loading import eval_loader
from phidet.learn.pictures import EvalPictures
from phidet.metrics.classification import ClassificationReport, classification_report
from phidet.metrics.plots import confusion_figure, save_figure
from phidet.metrics.report_tables import write_classes, write_confusion
from phidet.nn.detector import Classifier
from phidet.numbers import evenly
from phidet.sheet import Tile, draw_sheet

log = logging.getLogger("phidet")

_SAMPLES, _MISTAKES = 12, 40  # tiles


class Answers(NamedTuple):
    """What was said of the N pictures that could be decoded.

    Attributes:
        indices: (N,) of the pictures in the data set, rising.
        class_ids: (N,) the right classes.
        ranked: (N, K) the classes that were said, best first; K is 5, or the number of classes where that is less.
        probabilities: (N, K) of these.
        broken: index → why an image could not be decoded.
    """

    indices: npt.NDArray[np.int64]
    class_ids: npt.NDArray[np.int64]
    ranked: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    broken: Mapping[int, str] = MappingProxyType({})

    def report(self, dataset: Dataset, trained_on: int | None = None) -> ClassificationReport:
        """The figures; ``trained_on`` is how many images of ``dataset`` the model has learned from."""
        report = classification_report(self.class_ids, self.ranked, dataset.class_names)
        summary = summarise_data(dataset.without(self.broken))
        return msgspec.structs.replace(report, summary=summary, trained_on=trained_on)


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


def write_classification(folder: Path, report: ClassificationReport, dataset: Dataset, answers: Answers) -> list[Path]:
    """Writes report.json, classes.csv, confusion.csv, and as images confusion, the most certain mistakes, and samples.

    Raises:
        PhidetError: a file cannot be written.
    """
    write_whole(folder / "report.json", msgspec.json.format(msgspec.json.encode(report)))
    matrix = np.array(report.confusion, np.int64)
    written = [
        folder / "report.json",
        write_classes(folder / "classes.csv", report.classes),
        write_confusion(folder / "confusion.csv", matrix, dataset.class_names),
        save_figure(confusion_figure(matrix, dataset.class_names), folder / "confusion.png"),
    ]
    wrong = np.flatnonzero(answers.ranked[:, 0] != answers.class_ids)
    worst = wrong[np.argsort(-answers.probabilities[wrong, 0], kind="stable")][:_MISTAKES].tolist()
    count = f"{len(wrong):,} of {len(answers.indices):,} pictures"
    for name, heading, rows in (
        ("mistakes.png", f"The most certain mistakes; wrong are {count}", worst),
        ("samples.png", f"{dataset.name}, and what is seen in it", evenly(len(answers.indices), _SAMPLES)),
    ):
        sheet = draw_sheet(heading, [_tile(dataset, answers, row) for row in rows])
        written.append(write_made(folder / name, partial(sheet.save, format="png")))
    return written


def _tile(dataset: Dataset, answers: Answers, row: int) -> Tile:
    """A picture, over what was said of it; a wrong answer stands out."""
    index, right, said = int(answers.indices[row]), answers.class_ids[row], answers.ranked[row, 0]
    names, certain = dataset.class_names, f"{answers.probabilities[row, 0]:.2f}"
    title = f"{names[said]} {certain}" if said == right else f"{names[right]}, seen as {names[said]} {certain}"
    try:
        image = dataset.image(index)
    except InputError:
        image = None  # it could be read a moment ago
    return Tile(title, str(dataset.names[index]), image, alarm=bool(said != right))
