"""A classifier's report on labelled images: metrics as files, confusion matrix and mistakes as images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.core.files import write_atomic
from phidet.core.numbers import evenly_spaced
from phidet.data.dataset import Dataset
from phidet.data.summary import summarise_data
from phidet.detections.detections import Detections
from phidet.detections.sheet import Tile, draw_sheet, write_sheet
from phidet.evaluation.classification import ClassificationReport, classification_report
from phidet.evaluation.plots import confusion_figure
from phidet.evaluation.report_tables import write_classes, write_confusion
from phidet.images.style import save_figure

log = logging.getLogger("phidet")

_SAMPLES, _MISTAKES = 12, 40  # tiles


class Answers(NamedTuple):
    """A classifier's predictions for N images.

    Attributes:
        class_ids: (N,) the true classes.
        ranked: (N, K) the predicted classes, best first; K is 5, or the number of classes where that is less.
        probabilities: (N, K) of these.
    """

    class_ids: npt.NDArray[np.int64]
    ranked: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    def report(self, dataset: Dataset, trained_on: int | None = None) -> ClassificationReport:
        """The metrics; ``trained_on`` is how many of these images, of ``dataset``, the model has learned from."""
        report = classification_report(self.class_ids, self.ranked, dataset.class_names)
        return msgspec.structs.replace(report, summary=summarise_data(dataset), trained_on=trained_on)


def answers_of(dataset: Dataset, detections: Sequence[Detections]) -> Answers:
    """Ranked classes from a classifier's detections, each of which covers a whole image of ``dataset``."""
    count = min(5, len(dataset.class_names))
    # A classified image has one object, which covers it.
    return Answers(
        np.array([dataset.annotations(i).class_ids[0] for i in range(len(dataset))], np.int64),
        np.array([found.class_ids[:count] for found in detections], np.int64).reshape(-1, count),
        np.array([found.scores[:count] for found in detections], np.float32).reshape(-1, count),
    )


def write_classification(folder: Path, report: ClassificationReport, dataset: Dataset, answers: Answers) -> list[Path]:
    """Writes report.json, classes.csv, confusion.csv, and as images confusion, the most certain mistakes, and samples.

    Raises:
        PhidetError: a file cannot be written.
    """
    write_atomic(folder / "report.json", msgspec.json.format(msgspec.json.encode(report)))
    matrix = np.array(report.confusion, np.int64)
    written = [
        folder / "report.json",
        write_classes(folder / "classes.csv", report.classes),
        write_confusion(folder / "confusion.csv", matrix, dataset.class_names),
        save_figure(confusion_figure(matrix, dataset.class_names), folder / "confusion.png"),
    ]
    wrong = np.flatnonzero(answers.ranked[:, 0] != answers.class_ids)
    # Confident mistakes come first: they are most often wrong labels.
    worst = wrong[np.argsort(-answers.probabilities[wrong, 0], kind="stable")][:_MISTAKES].tolist()
    count = f"{len(wrong):,} of {len(answers.class_ids):,} images"
    for name, heading, rows in (
        ("mistakes.png", f"The most certain mistakes; wrong are {count}", worst),
        ("samples.png", f"{dataset.name}, with predictions", evenly_spaced(len(answers.class_ids), _SAMPLES)),
    ):
        sheet = draw_sheet(heading, [_tile(dataset, answers, row) for row in rows])
        written.append(write_sheet(sheet, folder / name))
    return written


def _tile(dataset: Dataset, answers: Answers, row: int) -> Tile:
    """An image with its prediction below; a wrong one is highlighted."""
    right, said = answers.class_ids[row], answers.ranked[row, 0]
    names, certain = dataset.class_names, f"{answers.probabilities[row, 0]:.2f}"
    title = f"{names[said]} {certain}" if said == right else f"{names[right]}, predicted {names[said]} {certain}"
    try:
        image = dataset.image(row)
    except InputError:
        image = None  # removed or damaged since it was classified
    return Tile(title, str(dataset.names[row]), image, alarm=bool(said != right))
