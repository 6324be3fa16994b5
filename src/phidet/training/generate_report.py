"""The report on a trained generator: measures, and sheets that show what it has learned."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from phidet.core.errors import CheckpointError, DownloadError
from phidet.core.files import write_atomic
from phidet.data.crops import crops_of, read_crops
from phidet.data.dataset import Dataset
from phidet.evaluation.generation import nearest_real
from phidet.inference import sample_sheets as sheets
from phidet.inference.generator import ImageGenerator
from phidet.inference.measure_generator import GenerationReport, Settings, measure_generator
from phidet.inference.runtimes.torch_generator import TorchGenerator
from phidet.inference.sample_page import write_page
from phidet.training.features import Lite0Features

log = logging.getLogger("phidet")
REAL = 5000
"""Real images, at most, that are compared."""
USUAL = Settings()
"""How much is measured after a training."""
_SHOWN = 8


def report_generator(model: Any, train: Dataset, folder: Path) -> dict[str, float]:
    """Writes measures and sheets of a generator into ``folder``; returns the main measures by name.

    Where the weights of the features cannot be had, only sheets are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    generator = ImageGenerator(TorchGenerator(model))
    _write_sheets(generator, folder)
    try:
        features = Lite0Features(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    except (CheckpointError, DownloadError) as error:
        log.warning("the generator is not measured: %s", error)
        return {}
    real, class_ids = real_images(generator, train)
    report = measure_generator(generator, real, class_ids, (features, features), USUAL)
    write_atomic(folder / "generation.json", msgspec.json.format(msgspec.json.encode(report)))
    labels = np.arange(_SHOWN) % generator.config.num_classes if generator.config.labelled else None
    made = generator.sample(_SHOWN, 1, labels)
    sheets.save_sheet(
        sheets.nearest_sheet(made, real, nearest_real(features(real), features(made), 5)), folder / "nearest.png", 2
    )
    return main_measures(report)


def main_measures(report: GenerationReport) -> dict[str, float]:
    """Those of a report that fit in a line."""
    return {f"{report.features} distance": report.distance, "precision": report.precision, "recall": report.recall}


def real_images(generator: ImageGenerator, dataset: Dataset) -> tuple[Any, Any]:
    """Crops of ``dataset`` at the generator's resolution, (N, R, R, 3) uint8, and their classes (N,); at most REAL."""
    crops = crops_of(dataset)
    chosen = [crops[i] for i in np.random.default_rng(0).permutation(len(crops))[:REAL]]
    pixels = read_crops(dataset, chosen, generator.config.image_size_hw[0], generator.config.context)
    return pixels, np.array([crop.class_id for crop in chosen], np.int64)


def _write_sheets(generator: ImageGenerator, folder: Path) -> None:
    sheets.save_sheet(sheets.sample_sheet(generator, 8, 12, 0, 1.0), folder / "samples.png", 2)
    sheets.save_sheet(sheets.sample_sheet(generator, 8, 12, 0, 0.7), folder / "samples-psi-0.7.png", 2)
    # One class is enough for the rest: the last one, which is often a rare one.
    class_id = generator.config.num_classes - 1 if generator.config.labelled else None
    sheets.save_sheet(sheets.mixing_sheet(generator, 6, 0, class_id, 0.7), folder / "mixing.png", 2)
    sheets.save_sheet(sheets.truncation_sheet(generator, 6, 0, class_id), folder / "truncation.png", 2)
    sheets.save_sheet(sheets.latent_path(generator, 9, 0, class_id), folder / "path.png", 2)
    write_page(generator, folder / "page.html", 0, class_id, 0.7)
