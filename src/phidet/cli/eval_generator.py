"""``phidet eval`` of a generator."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phidet.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from phidet.inference.measure_generator import Features, GenerationReport, Perception


def add_generator_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``phidet eval`` for generators."""
    group = parser.add_argument_group("of a generator", "distance, precision and recall of samples, path lengths")
    group.add_argument("--samples", type=int, default=2000, metavar="N", help="made images (2000; papers take 50,000)")
    group.add_argument("--paths", type=int, default=500, metavar="N", help="pairs for a path length (500; 0 for none)")
    group.add_argument("--features", type=Path, metavar="FILE", help="ONNX: RGB 0-255 to features (EfficientNet-Lite0)")
    group.add_argument("--perception", type=Path, metavar="FILE", help="ONNX: two images to their squared distance")
    group.add_argument("--classifier", metavar="MODEL", help="its classes are the attributes of linear separability")
    group.add_argument("--faces", action="store_true", help="path lengths of the middle of images, as of faces")


def evaluate_generator(args: argparse.Namespace) -> GenerationReport:
    """Measures a generator on the training split, which it is meant to imitate.

    Raises:
        ConfigError: fewer samples than a measure needs.
    """
    import msgspec

    from phidet.data.crops import CropImages
    from phidet.data.objects import read_objects
    from phidet.inference.generator import open_generator
    from phidet.inference.measure_generator import Settings, latent_separability, measure_generator
    from phidet.training.generate_report import REAL

    if args.samples < 10 or args.paths < 0:
        raise ConfigError(f"--samples must be ≥ 10 and --paths ≥ 0, got {args.samples} and {args.paths}")
    generator = open_generator(args.model)
    config = generator.config
    data = read_objects(args.data, args.layout, args.split)
    real = CropImages(data, config.image_size_hw[0], config.context, REAL)
    settings = Settings(samples=args.samples, paths=args.paths, faces=args.faces)
    report = measure_generator(generator, real, _measured_by(args), settings)
    if args.classifier is not None:
        z, w = latent_separability(generator, _Classifier(args.classifier), args.samples)
        report = msgspec.structs.replace(report, separability_z=z, separability_w=w)
    return report


def summary(report: GenerationReport) -> str:
    """The report in a few lines."""
    lines = [
        f"{report.model}: {report.made:,} samples without truncation, {report.real:,} real images",
        f"Fréchet distance by {report.features}: {report.distance:.2f}",
        f"precision {report.precision:.3f}, recall {report.recall:.3f}",
    ]
    lengths = report.path_lengths
    if lengths is not None:
        lines.append(
            f"path length by {report.perception}: z full {lengths.z_full:.4g}, z end {lengths.z_end:.4g}, "
            f"w full {lengths.w_full:.4g}, w end {lengths.w_end:.4g}"
        )
    if report.separability_w is not None:
        lines.append(f"linear separability: z {report.separability_z:.3g}, w {report.separability_w:.3g}")
    return "\n".join(lines)


def _measured_by(args: argparse.Namespace) -> tuple[Features, Perception]:
    from phidet.inference.measure_generator import OnnxFeatures

    features: Any = None if args.features is None else OnnxFeatures(args.features)
    perception: Any = None if args.perception is None else OnnxFeatures(args.perception)
    if features is None or perception is None:
        import torch

        from phidet.training.features import Lite0Features

        lite0 = Lite0Features(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        features, perception = features or lite0, perception or lite0
    return features, perception


class _Classifier:
    """Probabilities of a phidet classifier's classes, one attribute each; the last one follows from the others."""

    def __init__(self, model: str) -> None:
        from phidet.inference.detector import Detector

        self.name, self.detector = model, Detector(model)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        import numpy as np

        from phidet.detections.settings import PostprocessSettings

        count = len(self.detector.class_names)
        settings = PostprocessSettings(score=0.0, max_detections=count)
        found = self.detector.detect(list(images), settings)
        answers = np.zeros((len(images), count), np.float32)
        for row, detections in zip(answers, found, strict=True):
            row[detections.class_ids] = detections.scores
        return answers[:, : max(1, count - 1)]
