"""Writes a whole evaluation to a folder: report, tables, plots and sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from phidet.core.errors import InputError
from phidet.core.files import write_atomic
from phidet.core.numbers import evenly_spaced
from phidet.core.words import count
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.detections.draw_masks import draw_masks
from phidet.detections.sheet import Tile, draw_sheet, write_sheet
from phidet.evaluation.curves import pr_curves
from phidet.evaluation.measure import Evaluation
from phidet.evaluation.mistake_sheet import draw_mistakes
from phidet.evaluation.mistakes import worst_mistakes
from phidet.evaluation.plots import confusion_figure, pr_figure, size_figure
from phidet.evaluation.reliability_plot import reliability_figure
from phidet.evaluation.report_tables import write_tables
from phidet.images.style import save_figure

_SAMPLES = 12


def write_evaluation(
    folder: Path, evaluation: Evaluation, dataset: Dataset, detections: Sequence[Detections]
) -> list[Path]:
    """Writes report.json, its tables as CSV, and images: curves, confusion, reliability, AP by size, mistakes, samples.

    Raises:
        PhidetError: a file cannot be written.
    """
    # Plots and sheets use the thresholds of the report, so that numbers and images agree.
    score, iou = evaluation.score, evaluation.iou
    write_atomic(folder / "report.json", msgspec.json.format(msgspec.json.encode(evaluation)))
    written = [folder / "report.json", *write_tables(folder, evaluation)]
    matrix = np.array(evaluation.confusion, np.int64)
    for name, figure in (
        ("pr.png", pr_figure(pr_curves(dataset, detections, iou), iou)),
        ("sizes.png", size_figure(evaluation.coco)),
        ("confusion.png", confusion_figure(matrix, dataset.class_names)),
        ("reliability.png", reliability_figure(evaluation.reliability)),
    ):
        written.append(save_figure(figure, folder / name))
    mistakes = worst_mistakes(dataset, detections, score, min_iou=iou)
    for name, sheet in (
        ("mistakes.png", draw_mistakes(dataset, detections, mistakes)),
        ("samples.png", draw_samples(dataset, detections, score)),
    ):
        written.append(write_sheet(sheet, folder / name))
    return written


def draw_samples(dataset: Dataset, detections: Sequence[Detections], min_score: float) -> Image.Image:
    """A dozen images, evenly spaced over the data set, with their detections."""
    tiles = []
    for index in evenly_spaced(len(dataset), _SAMPLES):
        found = detections[index].filter(score=min_score)
        labels = [f"{one.label} {one.score:.0%}" for one in found]
        try:
            image = dataset.image(index)
            shown = found if found.segments is None else found.segments
            if shown.masks is not None:
                image = np.asarray(draw_masks(Image.fromarray(image), shown.masks, shown.class_ids))
        except InputError:
            image = None  # reported among the problems of the data set
        name, what = str(dataset.names[index]), count(len(found), "detection")
        tiles.append(Tile(name, what, image, found.boxes_xyxy, labels, found.class_ids.tolist()))
    return draw_sheet(f"{dataset.name}: detections with a score of at least {min_score:.2f}", tiles)
