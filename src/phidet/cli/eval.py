"""``phidet eval``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import (
    add_arithmetic,
    add_json,
    add_layout,
    add_model,
    add_out,
    add_runtime,
    add_split,
)
from phidet.cli.eval_generator import add_generator_arguments, evaluate_generator, summary
from phidet.cli.kinds import says
from phidet.cli.native_noise import without_native_noise
from phidet.cli.tables import print_json, say_written
from phidet.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from phidet.data.dataset import Dataset
    from phidet.data.near_copies import NearCopies
    from phidet.detections.protocol import SupportsDetect
    from phidet.detections.thresholds import Thresholds
    from phidet.evaluation.measure import Evaluation, MeasureSettings

log = logging.getLogger("phidet")

_EPILOG = """MODEL may also be detections: a file of COCO's results (.json) that --save-detections wrote, or
'phidet detect --save coco', or another detector for these data; or the description (.json) of another project's
detector, see docs/train.md.

Classes are matched by their names; objects of classes that the model does not know are named and left out.
The first AP is COCO's, over IoU 0.50…0.95 and all scores. Precision, recall, F1, counts and the confusion matrix are
those of one score (--score; the one with the best mean F1) and one overlap (--iou).

examples:
  phidet eval my-photos -m runs/first --out eval              metrics, tables (CSV) and plots
  phidet eval my-photos -m runs/first --score 0.5 --iou 0.3   what a threshold of 0.5 finds, loosely boxed
  phidet eval my-photos -m runs/first --store-thresholds      the best score of each class, for --score auto
  phidet eval plates -m runs/first --max-objects 2000         images with more than 100 objects
  phidet eval MOT17/train --tracks tracks                     HOTA, MOTA, IDF1 of what 'phidet track --save mot' wrote
  phidet eval coco -m runs/first --save-detections found.json, and later: phidet eval coco -m found.json

exit codes: 0 measured, 2 settings, 3 data that cannot be read or measured on, 4 models"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet eval``."""
    parser.epilog = _EPILOG
    parser.usage = "%(prog)s DATA -m MODEL [options]"
    parser.add_argument("given", nargs="+", metavar="DATA", help="a data folder or file, in any layout")
    add_model(parser, "a model file, a run's folder, a name, detections or a description (.json)")
    add_layout(parser)
    add_split(parser)
    parser.add_argument("--made", action="store_true", help="measure on made images, too, which are refused otherwise")
    parser.add_argument("--score", type=float, metavar="S", help="lowest score that counts, 0…1 (that of the best F1)")
    parser.add_argument(
        "--segment-score", type=float, metavar="S", help="lowest score of a segment, 0…1 (what is usual of the network)"
    )
    parser.add_argument("--iou", type=float, metavar="T", help="overlap with which a detection finds an object (0.5)")
    parser.add_argument("--max-objects", type=int, metavar="N", help="limit of detections per image (100)")
    add_out(parser, "DIR", "write metrics, tables and plots here")
    parser.add_argument("--save-detections", type=Path, metavar="FILE", help="write what was detected: COCO's results")
    parser.add_argument(
        "--store-thresholds", action="store_true",
        help="find the best score of each class and store it in the model file, for --score auto",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images at a time")
    parser.add_argument(
        "--scaled", action="store_true", help="decode large JPEGs as detect does, not all pixels as the protocol says"
    )
    add_arithmetic(parser)
    add_runtime(parser)
    add_json(parser)
    add_generator_arguments(parser)
    parser.add_argument(
        "--tracks", nargs="?", const="", metavar="FOLDER", help="measure tracks on MOTChallenge's folders: their files"
    )


@without_native_noise()
def run(args: argparse.Namespace) -> None:
    """Measures a detector, a classifier on an image folder, or a generator."""
    if args.tracks is not None:
        from phidet.cli.eval_tracks import measure_tracks

        measure_tracks(args)
        return
    args.model, args.data = _model_and_data(args.given, args.model)
    # A published or bundled model is shared by all projects of the machine.
    if args.store_thresholds and (Path(args.model).suffix == ".json" or not Path(args.model).exists()):
        raise ConfigError(f"--store-thresholds writes into a model file of your own, which {args.model} is not")
    if args.batch < 1:
        raise ConfigError(f"--batch must be a whole number ≥ 1, got {args.batch}")
    from phidet.inference.described import is_description

    said = says(args.model)
    if Path(args.model).suffix == ".json" and not is_description(args.model):
        _results(args)
    elif "samples" in said:
        _generator(args)
    elif "classes" in said:
        _classifier(args)
    else:
        _detector(args)


def _model_and_data(given: list[str], model: str | None) -> tuple[str, Path]:
    """``DATA -m MODEL``, or as in version 0.1 ``MODEL DATA``.

    Raises:
        ConfigError: one of them is missing, or there is more.
    """
    # The order of version 0.1, kept so that existing scripts work.
    if model is None and len(given) == 2:
        return given[0], Path(given[1])
    if model is None or len(given) != 1:
        raise ConfigError("say on which data and which model to measure: phidet eval DATA -m MODEL")
    return model, Path(given[0])


def _detector(args: argparse.Namespace) -> None:
    import msgspec

    from phidet.data.hold_out import validation_data
    from phidet.data.layouts import open_data
    from phidet.evaluation.detect_dataset import detect_dataset
    from phidet.evaluation.measure import measure
    from phidet.evaluation.report_folder import write_evaluation
    from phidet.evaluation.results_file import write_results
    from phidet.inference.described import DescribedDetector
    from phidet.inference.detector import Detector
    from phidet.inference.stream import needed_by

    settings = _settings(args)
    # The detector before the data: its class names decide how the labels are read.
    detector: Detector | DescribedDetector
    if Path(args.model).suffix == ".json":
        if (args.runtime, args.precision, args.device) != ("auto", "auto", "cpu"):
            raise ConfigError(f"{args.model} runs on ONNX Runtime's CPU: leave out --runtime, --precision and --device")
        detector, name, runtime = DescribedDetector(args.model), Path(args.model).stem, "onnxruntime"
    else:
        detector = Detector(args.model, runtime=args.runtime, precision=args.precision, device=args.device)
        name, runtime = detector.config.name, detector.runtime_name
    measured = validation_data(
        args.model, open_data(args.data, args.layout), detector.class_names, args.split, args.made
    )
    _warn_of_limit(measured.dataset, settings.max_objects)
    # All pixels unless asked otherwise: published metrics are measured so.
    needed = needed_by(detector) if args.scaled else None
    dataset, found = detect_dataset(detector, measured.dataset, settings.postprocess, args.batch, needed)
    evaluation = measure(name, str(args.data), dataset, found, settings, measured.trained_on)
    copies = _near_copies(args, measured.dataset)
    if copies is not None:
        evaluation = msgspec.structs.replace(evaluation, near_copies=copies.images)
    if args.store_thresholds:
        # Detected once more, as detectors are used: one class for each box, where AP takes several.
        evaluation = msgspec.structs.replace(evaluation, thresholds=_thresholds(args, detector, dataset))
    _print(evaluation, f"{args.model} on {args.data}, split {measured.split}, {runtime}", args.json)
    if evaluation.thresholds is not None:
        say_written([_store(args.model, evaluation.thresholds)], args.json)
    if args.save_detections is not None:
        say_written(write_results(args.save_detections, dataset, found), args.json)
    if args.out is not None:
        say_written(write_evaluation(args.out, evaluation, dataset, found), args.json)


def _near_copies(args: argparse.Namespace, dataset: Dataset) -> NearCopies | None:
    """Images that look nearly like what the model has learned from, as far as that can be told; named in a warning."""
    from phidet.data.layouts import open_data
    from phidet.data.near_copies import near_learned, warn_of
    from phidet.data.run_images import read_run_images

    path = Path(args.model)
    # A run's folder says which images it learned from; a file that was copied elsewhere does not.
    images = read_run_images(path if path.is_dir() else path.parent) if path.exists() else None
    copies = None if images is None else near_learned(dataset, images, open_data(args.data, args.layout))
    warn_of(copies, len(dataset))
    return copies


def _thresholds(args: argparse.Namespace, detector: SupportsDetect, dataset: Dataset) -> Thresholds:
    from phidet.evaluation.detect_dataset import detect_dataset
    from phidet.evaluation.thresholds import THRESHOLD_SETTINGS, best_thresholds

    found = best_thresholds(*detect_dataset(detector, dataset, THRESHOLD_SETTINGS, args.batch))
    if found is None:
        raise InputError(f"{args.model} detects nothing right in {dataset.name!r}, so that no score is better than any")
    if "test" in dataset.name.lower():
        log.warning(
            "thresholds found on %r make later metrics of single scores on it too good: use validation data",
            dataset.name,
        )
    return found


def _store(model: str, thresholds: Thresholds) -> Path:
    from phidet.inference.runtimes.open_model import find_model

    path = find_model(model)
    if path.suffix.lower() == ".safetensors":
        from phidet.weights.native import store_thresholds as store
    elif path.suffix.lower() == ".onnx":
        from phidet.export.onnx_file import store_thresholds as store
    else:
        raise ConfigError(
            f"{path} got what it stores when it was exported: store thresholds in the .safetensors file that it was "
            "made of, and export that again"
        )
    store(path, thresholds)
    return path


def _results(args: argparse.Namespace) -> None:
    from phidet.data.hold_out import validation_data
    from phidet.data.layouts import open_data
    from phidet.evaluation.measure import measure
    from phidet.evaluation.report_folder import write_evaluation
    from phidet.evaluation.results_file import read_results

    if args.save_detections is not None:
        raise ConfigError(f"--save-detections: {args.model} holds detections already: leave it out")
    settings = _settings(args)
    results = read_results(Path(args.model))
    measured = validation_data(
        args.model, open_data(args.data, args.layout), results.class_names, args.split, args.made
    )
    dataset, found = results.detections_of(measured.dataset)
    _warn_of_limit(dataset, settings.max_objects)
    evaluation = measure(args.model, str(args.data), dataset, found, settings)
    _print(evaluation, f"{args.model} on {args.data}, split {measured.split}", args.json)
    if args.out is not None:
        say_written(write_evaluation(args.out, evaluation, dataset, found), args.json)


def _settings(args: argparse.Namespace) -> MeasureSettings:
    from phidet.evaluation.measure import MeasureSettings

    # Options that were not given keep the defaults of MeasureSettings, which are the only place that has them.
    given = {key: getattr(args, key) for key in ("score", "iou", "max_objects", "segment_score")}
    return MeasureSettings(**{key: value for key, value in given.items() if value is not None})


def _warn_of_limit(dataset: Dataset, max_objects: int) -> None:
    from phidet.data.summary import summarise_data

    most = summarise_data(dataset).most_objects
    if most > max_objects:
        log.warning(
            "an image has %d objects, but at most %d detections of an image count: --max-objects %d counts more",
            *(most, max_objects, most),
        )


def _print(evaluation: Evaluation, title: str, as_json: bool) -> None:
    from phidet.cli.metrics import summarise

    if not evaluation.coco.objects and evaluation.masks is None:  # stuff alone has no AP, but a panoptic quality
        raise InputError(f"nothing could be measured on {evaluation.data}: no image with an object was left")
    if as_json:
        print_json(evaluation)
    else:
        print(f"{title}\n\n{summarise(evaluation)}")


def _generator(args: argparse.Namespace) -> None:
    report = evaluate_generator(args)
    if args.json:
        print_json(report)
    else:
        print(summary(report))


def _classifier(args: argparse.Namespace) -> None:
    from lightning_fabric import Fabric

    from phidet.cli.metrics import summarise_classification
    from phidet.data.class_folders import open_class_folders
    from phidet.data.hold_out import validation_data
    from phidet.evaluation.classification_report import answers_of, write_classification
    from phidet.inference.runtimes.open_model import find_model
    from phidet.training.evaluate import detect
    from phidet.weights.native import load_model

    # Options without effect are rejected: silently ignoring them would suggest that they were applied.
    unused = ("score", "iou", "max_objects", "segment_score", "save_detections", "store_thresholds")
    given = next((name for name in unused if getattr(args, name) not in (None, False)), None)
    if given is not None:
        raise ConfigError(
            f"--{given.replace('_', '-')} is for detectors, and {args.model} is a classifier: leave it out"
        )
    model = load_model(find_model(args.model, ".safetensors"))
    measured = validation_data(args.model, open_class_folders(args.data), model.config.class_names, args.split)
    dataset, detections = detect(model, measured.dataset, Fabric(devices=1), args.batch)
    answers = answers_of(dataset, detections)
    report = answers.report(dataset, measured.trained_on)
    if not report.images:
        raise InputError(f"nothing could be measured on {args.data}: no image could be decoded")
    if args.json:
        print_json(report)
    else:
        print(f"{args.model} on {args.data}, split {measured.split}: {summarise_classification(report)}")
    if args.out is not None:
        say_written(write_classification(args.out, report, dataset, answers), args.json)
