"""The detections that a network on detections learns from: made once by a detector and kept, or read from files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from phidet.core.errors import ConfigError, InputError
from phidet.data.dataset import Dataset
from phidet.data.run_images import RunImages
from phidet.detections.detections import Detections
from phidet.detections.graphs.frames import FRAME
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.evaluation.detect_dataset import detect_dataset
from phidet.evaluation.results_file import ResultsFile, read_results, write_results
from phidet.inference.appearance import APPEARANCE, AppearanceDetector
from phidet.inference.described import open_detector
from phidet.training.about import Request
from phidet.training.run_data import RunData, read_run_data

log = logging.getLogger("phidet")


def read_relations_data(request: Request, seed: int, known: RunImages | None) -> RunData:
    """The labelled images of ``request``, read with the detector's classes.

    Raises:
        ConfigError: no detector is named.
        InputError: the data or the detections cannot be used.
    """
    names = class_names_of(request)
    return read_run_data(request, seed, False, known, names)


def class_names_of(request: Request) -> tuple[str, ...] | None:
    """The classes of the request's detector; ``None`` for detections that have the data's own.

    Raises:
        ConfigError: no detector is named, or several that are not files of detections.
        InputError: files of detections of different classes.
    """
    if not request.detector:
        raise ConfigError(
            "a network on detections learns from those of a detector: name its model, or files of detections (.json) "
            "of these images, with --detector"
        )
    files = results_of(request.detector)
    if len(request.detector) > (1 if files is None else 2):
        raise ConfigError(
            "expected one detector, or one or two files of detections (.json), of the training and the validation "
            f"images, got {', '.join(request.detector)}"
        )
    if files is None:
        return open_detector(request.detector[0]).class_names
    names = {file.class_names for file in files}
    if len(names) > 1:
        raise InputError(f"{' and '.join(request.detector)} have detections of different classes")
    return names.pop()


def results_of(detector: Sequence[str]) -> list[ResultsFile] | None:
    """Files of detections; ``None`` where ``detector`` names a detector.

    Raises:
        InputError: a file cannot be read.
    """
    if not all(is_results(Path(name)) for name in detector):
        return None
    return [read_results(Path(name)) for name in detector]


def is_results(path: Path) -> bool:
    """Whether the file holds a list, as COCO's results do; the description of a detector is an object."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    # The first character tells; such files may be large.
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] == b"["


def detections_from(file: ResultsFile, dataset: Dataset) -> list[Detections]:
    """The detections in each image of ``dataset``, from a file that may also have those of others.

    Raises:
        InputError: an image is not in the file.
    """
    covered, detections = file.detections_of(dataset, others=True)
    found = dict(zip(map(str, covered.names), detections, strict=True))
    missing = [str(name) for name in dataset.names if str(name) not in found]
    if missing:
        raise InputError(
            f"{file.path} has no detections of {len(missing)} of {len(dataset)} images of {dataset.name!r}, for "
            f"example {missing[0]}: detect on all of them, or give a file for each split (--detector TRAIN VAL)"
        )
    return [found[str(name)] for name in dataset.names]


def file_of(files: Sequence[ResultsFile], split: int, data: RunData) -> ResultsFile:
    """The file with the detections of the training images (split 0) or of the validation images (1).

    Raises:
        InputError: one file for two splits that have images of the same name.
    """
    if len(files) > 1 or data.val is None:
        return files[split]
    # Files know images by their names, so that one split would get the other's detections.
    both = set(map(str, data.train.names)) & set(map(str, data.val.names))
    if both:
        raise InputError(
            f"{files[0].path} is for two splits that both have an image {min(both)}: give a file for each: --detector "
            "TRAIN.json VAL.json"
        )
    return files[0]


def detector_of(request: Request) -> SupportsDetect:
    """The detector that is named; with an appearance, where that is wanted.

    Raises:
        ConfigError: an appearance of a detector that has no feature maps here.
    """
    name = request.detector[0]
    detector = open_detector(name)
    return AppearanceDetector(detector, name) if request.appearance else detector


def seen_fields(train: Dataset, request: Request) -> dict[str, int]:
    """The fields that the network sees beside what every detection has: name → numbers for each.

    Raises:
        ConfigError: an appearance is wanted and the detections have none.
    """
    fields = {FRAME: 1} if train.frames else {}
    if not request.appearance:
        return fields
    files = results_of(request.detector)
    if files is None:
        return fields | {APPEARANCE: AppearanceDetector(open_detector(request.detector[0]), request.detector[0]).width}
    widths = {file.columns[APPEARANCE].shape[1] if APPEARANCE in file.columns else 0 for file in files}
    if len(widths) > 1 or 0 in widths:
        raise ConfigError(
            f"{' and '.join(request.detector)} have no appearance of the detections: give the detector's run folder or "
            "model file instead"
        )
    return fields | {APPEARANCE: widths.pop()}


def detect_once(detector: SupportsDetect, dataset: Dataset, path: Path, score: float) -> list[Detections]:
    """The detections in each image of ``dataset``, which are also written to ``path`` for the next time.

    Raises:
        InputError: the detector has other classes, or an image cannot be decoded.
    """
    readable, found = detect_dataset(detector, dataset, PostprocessSettings(score=score))
    # Not left out silently: files of detections must have every image, or they cannot be used again.
    if len(readable) < len(dataset):
        raise InputError(f"{len(dataset) - len(readable)} images of {dataset.name!r} cannot be decoded: leave them out")
    write_results(path, dataset, found)
    return found
