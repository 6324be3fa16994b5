"""Images that are set aside to validate on, where a data set has no split for that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from phidet.core.errors import InputError
from phidet.core.words import few
from phidet.data.class_folders import split_by_class
from phidet.data.data_folder import TRAIN_SPLITS, DataFolder, first_split
from phidet.data.dataset import Dataset
from phidet.data.made import made_images, refuse_made
from phidet.data.run_images import RunImages, places, read_run_images
from phidet.data.summary import log_summary, summarise_data

log = logging.getLogger("phidet")

HELD_OUT = 0.15  # of the images
_FEWEST = 5  # images from which some can be spared
RUN = "run.json"
"""File name of the description in a run's folder."""


def can_hold_out(dataset: Dataset) -> bool:
    """Whether there are enough images to spare some."""
    return len(dataset) >= _FEWEST


def hold_out(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Two parts of ``dataset`` by chance, the second with ``share`` of the images; order is kept.

    Raises:
        InputError: too few images to spare any, or made images among them, which show real ones of either part.
    """
    if not can_hold_out(dataset):
        raise InputError(
            f"{dataset.name!r} has {len(dataset)} images and no validation split: label more, or say --val-split none"
        )
    if made_images(dataset).any():
        raise InputError(
            f"{dataset.name!r} has made images and no validation split: made images show real ones, so none can be "
            "held out; 'phidet synthesize' writes a validation split"
        )
    chosen = np.zeros(len(dataset), bool)
    # A mask keeps the order of the images in both parts.
    chosen[np.random.default_rng(seed).permutation(len(dataset))[: max(1, round(share * len(dataset)))]] = True
    first, second = (np.flatnonzero(part).tolist() for part in (~chosen, chosen))
    return dataset.subset(first, dataset.name), dataset.subset(second, f"{dataset.name}, held out")


class ValidationData(NamedTuple):
    """What a model is measured on.

    Attributes:
        split: what it is called.
        dataset: read with the model's classes; it has objects of them.
        trained_on: how many of its images the model has learned from; ``None`` where that is not known.
    """

    split: str
    dataset: Dataset
    trained_on: int | None


def validation_data(
    model: str | Path,
    folder: DataFolder,
    class_names: Sequence[str] | None,
    split: str | None = None,
    made: bool = False,
) -> ValidationData:
    """Chooses the data to measure a model on; logs their content, what was left out, and overlap with training data.

    Args:
        model: a file, the folder of a run, or a name.
        folder: the data.
        class_names: of the model; ``None`` for the data's own.
        split: which; else the validation split, what the model's run held out, or the only one.
        made: whether made images may be among them.

    Raises:
        InputError: the data cannot be read, have no object of the model's classes, have several splits of which none
            is for validation, or have made images.
        UnknownNameError: no such split.
        CheckpointError: the run's record of its images is damaged.
    """
    found = _choose(model, folder, class_names, split)
    refuse_made(found.dataset, made)
    summary = summarise_data(found.dataset)
    log_summary(summary, str(folder.path), classify=folder.layout == "folders")
    if not summary.objects:
        others = "; ".join(f"{group.what} ({group.count:,})" for group in summary.left_out[:3])
        raise InputError(
            f"nothing can be measured on {folder.path}, {found.split}: it has no object of the classes of {model} "
            f"({few(found.dataset.class_names)})"
            + (", crowd regions aside" if summary.crowds else "")
            + (f". {others}. Names of classes must be equal, capital letters included" if others else "")
        )
    if found.trained_on:
        log.warning(
            "%s was trained on %d of these %d images, so the metrics say little about others",
            *(model, found.trained_on, len(found.dataset)),
        )
    return found


def _choose(
    model: str | Path, folder: DataFolder, class_names: Sequence[str] | None, split: str | None
) -> ValidationData:
    run = _run_of(Path(model))
    images = None if run is None else read_run_images(run)
    about = None if run is None else _about(run)
    # Without a validation split the run held images out itself: those are the only ones it has not learned from.
    if folder.val_split() is None and split in (None, "val"):
        # By content where the run recorded its images, by drawing again for runs of versions that did not.
        held_out = None
        if images is not None:
            held_out = _held_out(images, folder, class_names, about)
        elif about is not None:
            held_out = _held_out_by_path(about, folder, class_names)
        if held_out is not None:
            return held_out
    split = split or folder.val_split() or (folder.splits[0] if len(folder.splits) == 1 else None)
    if split is None:
        raise InputError(
            f"{folder.path} has the splits {', '.join(folder.splits)}, none of them for validation: choose one with "
            "--split"
        )
    dataset = folder.read(split, class_names)
    if images is not None:
        return ValidationData(split, dataset, int(images.learned_of(dataset).sum()))
    if about is None:
        return ValidationData(split, dataset, None)
    # Earlier versions recorded no images: only the path shows whether these are the training data.
    if _same_data(about, folder.path):
        return ValidationData(split, dataset, len(dataset) if split == _train_split(about, folder) else 0)
    log.info("%s did not record its images, as earlier versions; whether these are among them is not known", run)
    return ValidationData(split, dataset, None)


def _held_out(
    images: RunImages, folder: DataFolder, class_names: Sequence[str] | None, about: dict[str, Any] | None
) -> ValidationData | None:
    """The images that the run was validated on, wherever they lie now; ``None`` where none is in ``folder``."""
    split = _train_split(about, folder)
    if split is None or not images.val:
        return None
    dataset = folder.read(split, class_names)
    found = sorted(place for place in places(images.val, dataset) if place is not None)
    if not found:
        return None
    if len(found) < len(images.val):
        log.warning("%d of the %d images that the run held out are in %s", len(found), len(images.val), folder.path)
    held = dataset.subset(found, f"{dataset.name}, held out")
    return ValidationData("held out by the run", held, int(images.learned_of(held).sum()))


def _held_out_by_path(
    about: dict[str, Any], folder: DataFolder, class_names: Sequence[str] | None
) -> ValidationData | None:
    """What a run of an earlier version held out, if ``folder`` is where its data lay: drawn again with its seed."""
    split = _train_split(about, folder)
    if split is None or not _same_data(about, folder.path) or about["request"].get("val_split") is not None:
        return None
    dataset = folder.read(split, class_names)
    if folder.layout == "folders":
        train, held = split_by_class(dataset, seed=about["seed"])
    else:
        train, held = hold_out(dataset, HELD_OUT, about["seed"])
    # Drawn again from other images, the parts differ from those of the run.
    if len(train) != about.get("num_images"):
        log.warning(
            "%s has changed since the run began, so some of these images may be among those it learned", folder.path
        )
    return ValidationData("held out by the run", held, 0)


def _run_of(model: Path) -> Path | None:
    """The folder of the run that a model is, or lies in; ``None`` for a name or any other file, such as detections."""
    # A name has no file; detections in a JSON file may lie in a run's folder, and are of any model.
    is_model = model.suffix not in ("", ".json") and model.is_file()
    run = model if model.is_dir() else model.parent if is_model else None
    return run if run is not None and (run / RUN).is_file() else None


def _about(run: Path) -> dict[str, Any] | None:
    """The description of a run; ``None`` where it was begun with a task of one's own, or is not usable."""
    try:
        about = msgspec.json.decode((run / RUN).read_bytes())
        return about if isinstance(about["request"]["data"], str) and isinstance(about["seed"], int) else None
    # A damaged description only costs the warning about data that were learned from.
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None


def _same_data(about: dict[str, Any], path: Path) -> bool:
    """Whether ``path`` is where a run's data lay; a file and the folder that holds it are one place."""
    theirs, ours = Path(about["request"]["data"]).resolve(), path.resolve()
    file, folder = (theirs, ours) if theirs.is_file() else (ours, theirs)
    return ours == theirs or (file.is_file() and file.is_relative_to(folder))


def _train_split(about: dict[str, Any] | None, folder: DataFolder) -> str | None:
    """The split that a run was trained on, in data that may have other splits by now."""
    asked = None if about is None else about["request"].get("train_split")
    if asked in folder.splits:
        return str(asked)
    if len(folder.splits) == 1:
        return folder.splits[0]
    return first_split(TRAIN_SPLITS, folder.splits)
