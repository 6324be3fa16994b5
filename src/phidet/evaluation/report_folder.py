"""Everything that an evaluation has to say, as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from phidet.core.errors import InputError
from phidet.core.files import write_made, write_whole
from phidet.core.numbers import evenly
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.evaluation.curves import pr_curves
from phidet.evaluation.measure import Evaluation
from phidet.evaluation.mistake_sheet import draw_mistakes
from phidet.evaluation.mistakes import worst_mistakes
from phidet.evaluation.plots import confusion_figure, pr_figure, save_figure, size_figure
from phidet.evaluation.report_tables import write_tables

_SAMPLES, _COLUMNS, _SIDE = 12, 4, 480  # pictures, and the longest side of each in pixels


def write_evaluation(
    folder: Path, evaluation: Evaluation, dataset: Dataset, detections: Sequence[Detections]
) -> list[Path]:
    """Writes report.json, its tables as CSV, and as pictures curves, confusion, AP by size, mistakes and samples.

    Raises:
        PhidetError: a file cannot be written.
    """
    score, iou = evaluation.score, evaluation.iou
    write_whole(folder / "report.json", msgspec.json.format(msgspec.json.encode(evaluation)))
    written = [folder / "report.json", *write_tables(folder, evaluation)]
    matrix = np.array(evaluation.confusion, np.int64)
    for name, figure in (
        ("pr.png", pr_figure(pr_curves(dataset, detections, iou), iou)),
        ("sizes.png", size_figure(evaluation.coco)),
        ("confusion.png", confusion_figure(matrix, dataset.class_names)),
    ):
        written.append(save_figure(figure, folder / name))
    mistakes = worst_mistakes(dataset, detections, score, min_iou=iou)
    for name, picture in (
        ("mistakes.png", draw_mistakes(dataset, detections, mistakes)),
        ("samples.png", draw_samples(dataset, detections, score)),
    ):
        written.append(write_made(folder / name, partial(picture.save, format="png")))
    return written


def draw_samples(dataset: Dataset, detections: Sequence[Detections], min_score: float) -> Image.Image:
    """A dozen images, evenly over the data set, with what was found in them."""
    chosen = evenly(len(dataset), _SAMPLES)
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, max(1, -(-len(chosen) // _COLUMNS)) * _SIDE), "white")
    for place, index in enumerate(chosen):
        try:
            image = Image.fromarray(dataset.image(index))
        except InputError:
            continue  # a white tile; its name is among the problems
        scale = _SIDE / max(image.size)
        found = detections[index].filter(score=min_score)
        small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        scaled = Detections(
            found.boxes_xyxy * np.float32(scale), found.scores, found.class_ids, dataset.class_names, small.size[::-1]
        )
        sheet.paste(scaled.draw(small), (place % _COLUMNS * _SIDE, place // _COLUMNS * _SIDE))
    return sheet
