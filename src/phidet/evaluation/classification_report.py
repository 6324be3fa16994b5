"""What a classifier says of labelled pictures: its figures, and as pictures what it takes for what."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from tqdm import tqdm

from phidet.architectures.efficientdet.network import Classifier
from phidet.core.errors import InputError
from phidet.core.files import write_made, write_whole
from phidet.core.numbers import evenly
from phidet.data.dataset import Dataset
from phidet.evaluation.classification import ClassificationReport, classification_report
from phidet.evaluation.plots import confusion_figure, save_figure
from phidet.images.sheet import Tile, draw_sheet
from phidet.training.augmentation.classification import EvalPictures
from phidet.training.loading import eval_loader

log = logging.getLogger("phidet")

_SAMPLES, _MISTAKES = 12, 40  # tiles


class Answers(NamedTuple):
    """What was said of the N pictures that could be decoded.

    Attributes:
        indices: (N,) of the pictures in the data set, rising.
        class_ids: (N,) the right classes.
        ranked: (N, K) the classes that were said, best first; K is 5, or the number of classes where that is less.
        probabilities: (N, K) of these.
    """

    indices: npt.NDArray[np.int64]
    class_ids: npt.NDArray[np.int64]
    ranked: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    def report(self, dataset: Dataset) -> ClassificationReport:
        """The figures."""
        return classification_report(self.class_ids, self.ranked, dataset.class_names)


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
    with tqdm(total=len(indices), desc=f"evaluate {dataset.name}", unit="image", leave=False, disable=None) as bar:
        for batch in eval_loader(EvalPictures(dataset, model.config), indices, batch_size, workers):
            for index, problem in batch.broken:
                log.warning("left out picture %d: %s", index, problem)
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
        parts: list[dict[int, tuple[list[int], list[float]]] | None] = [None] * fabric.world_size
        dist.all_gather_object(parts, said)
        said = {index: answer for part in parts if part for index, answer in part.items()}
    seen = sorted(said)
    return Answers(
        np.array(seen, np.int64),
        np.array([dataset.annotations(index).class_ids[0] for index in seen], np.int64),
        np.array([said[index][0] for index in seen], np.int64).reshape(len(seen), most),
        np.array([said[index][1] for index in seen], np.float32).reshape(len(seen), most),
    )


def evaluate_classifier(
    model: Classifier, dataset: Dataset, fabric: Fabric, batch_size: int = 32, workers: int = 1
) -> ClassificationReport:
    """The figures of :func:`classify_all`."""
    return classify_all(model, dataset, fabric, batch_size, workers).report(dataset)


def write_classification(folder: Path, report: ClassificationReport, dataset: Dataset, answers: Answers) -> list[Path]:
    """Writes report.json, and as pictures what is taken for what, the most certain mistakes, and samples.

    Raises:
        PhidetError: a file cannot be written.
    """
    write_whole(folder / "report.json", msgspec.json.format(msgspec.json.encode(report)))
    figure = confusion_figure(np.array(report.confusion, np.int64), dataset.class_names)
    written = [folder / "report.json", save_figure(figure, folder / "confusion.png")]
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
