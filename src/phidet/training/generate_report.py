"""The report on a trained generator: measures, and sheets that show what it has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from phidet.core.files import write_atomic
from phidet.data.crops import CropImages
from phidet.data.dataset import Dataset
from phidet.evaluation.generation import nearest_real
from phidet.inference import sample_sheets as sheets
from phidet.inference.generator import ImageGenerator, Images
from phidet.inference.measure_generator import Features, GenerationReport, Settings, measure_generator
from phidet.inference.runtimes.torch_generator import TorchGenerator
from phidet.inference.sample_page import write_page
from phidet.training.features import open_features

REAL = 50_000
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
    features = open_features("the generator is not measured")
    if features is None:
        return {}
    real = CropImages(train, generator.config.image_size_hw[0], generator.config.context, REAL)
    report = measure_generator(generator, real, (features, features), USUAL)
    write_atomic(folder / "generation.json", msgspec.json.format(msgspec.json.encode(report)))
    # Every class in turn.
    labels = np.arange(_SHOWN) % generator.config.num_classes if generator.config.labelled else None
    made = generator.sample(_SHOWN, 1, labels)
    sheets.save_sheet(nearest_to(made, real, features), folder / "nearest.png", 2)
    return main_measures(report)


def main_measures(report: GenerationReport) -> dict[str, float]:
    """Those of a report that fit in a line."""
    return {f"{report.features} distance": report.distance, "precision": report.precision, "recall": report.recall}


def nearest_to(made: Images, real: CropImages, features: Features, count: int = 5) -> Images:
    """A sheet of made images, each beside the real ones whose features are nearest."""
    described = np.concatenate([features(batch) for batch in real.batches()])
    nearest = nearest_real(described, features(made), min(count, len(real)))
    rows = [real.take(row) for row in nearest.tolist()]
    return sheets.nearest_sheet(made, rows)


def _write_sheets(generator: ImageGenerator, folder: Path) -> None:
    sheets.save_sheet(sheets.sample_sheet(generator, 8, 12, 0, 1.0), folder / "samples.png", 2)
    sheets.save_sheet(sheets.sample_sheet(generator, 8, 12, 0, 0.7), folder / "samples-psi-0.7.png", 2)
    # One class is enough for the rest: the last one, which is often a rare one.
    class_id = generator.config.num_classes - 1 if generator.config.labelled else None
    sheets.save_sheet(sheets.mixing_sheet(generator, 6, 0, class_id, 0.7), folder / "mixing.png", 2)
    sheets.save_sheet(sheets.truncation_sheet(generator, 6, 0, class_id), folder / "truncation.png", 2)
    sheets.save_sheet(sheets.latent_path(generator, 9, 0, class_id), folder / "path.png", 2)
    write_page(generator, folder / "page.html", 0, class_id, 0.7)
