"""Images that are set aside to validate on, where a data set has no split for that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from phidet.core.errors import InputError
from phidet.data.data_folder import DataFolder
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data

log = logging.getLogger("phidet")

HELD_OUT = 0.15  # of the images
_FEWEST = 5  # images from which some can be spared
RUN = "run.json"
"""What a run's folder says of itself."""


def can_hold_out(dataset: Dataset) -> bool:
    """Whether there are enough images to spare some."""
    return len(dataset) >= _FEWEST


def hold_out(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Two parts of ``dataset`` by chance, the second with ``share`` of the images; order is kept.

    Raises:
        InputError: too few images to spare any.
    """
    if not can_hold_out(dataset):
        raise InputError(
            f"{dataset.name!r} has {len(dataset)} images and no validation split: label more, or say --val-split none"
        )
    chosen = np.zeros(len(dataset), bool)
    chosen[np.random.default_rng(seed).permutation(len(dataset))[: max(1, round(share * len(dataset)))]] = True
    first, second = (np.flatnonzero(part).tolist() for part in (~chosen, chosen))
    return dataset.subset(first, dataset.name), dataset.subset(second, f"{dataset.name}, held out")


def validation_data(
    model: str | Path, data: Path, class_names: Sequence[str], split: str | None = None
) -> tuple[str, Dataset]:
    """What a detector is measured on, and what that is called.

    Args:
        model: a file, the folder of a run, or a name.
        data: a data folder or file, in any layout.
        class_names: of the model.
        split: which; else what the model's run held out of this very data, the validation split, or the only one.

    Raises:
        InputError: the data cannot be read, or it has several splits and none is for validation.
        UnknownNameError: no such split.
    """
    about, folder = trained_on(Path(model), data), open_data(data)
    if about is not None and has_held_out(about, folder) and split in (None, "val"):
        train, held = hold_out(folder.read(train_split_of(about, folder), class_names), HELD_OUT, about["seed"])
        check_unchanged(about, len(train), data)
        return "held out by the run", held
    split = split or folder.val_split() or (folder.splits[0] if len(folder.splits) == 1 else None)
    if split is None:
        raise InputError(
            f"{data} has the splits {', '.join(folder.splits)}, none of them for validation: choose one with --split"
        )
    if about is not None and split == train_split_of(about, folder):
        log.warning("%s was trained on these images, so these figures say little of others", model)
    return split, folder.read(split, class_names)


def labelled_validation_data(
    model: str | Path, data: Path, class_names: Sequence[str], split: str | None = None
) -> tuple[str, Dataset]:
    """:func:`validation_data`, where figures are what matters.

    Raises:
        InputError: also where there is no object of the model's classes.
    """
    name, dataset = validation_data(model, data, class_names, split)
    if not len(dataset.all_annotations.areas):
        raise InputError(f"{data} has no object of the classes of {model}, so no AP can be measured on it")
    return name, dataset


def trained_on(model: Path, data: Path) -> dict[str, Any] | None:
    """What the run of that folder, or of that file in its folder, says of itself, if ``data`` is what it learned from.

    ``None`` where it is not, or where there is no run.
    """
    run = model if model.is_dir() else model.parent if model.suffix and model.is_file() else None
    if run is None:  # a name
        return None
    try:
        about = msgspec.json.decode((run / RUN).read_bytes())
        same = Path(about["request"]["data"]).resolve() == data.resolve()
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None
    return about if same and isinstance(about, dict) else None


def check_unchanged(about: dict[str, Any], num_images: int, data: Path) -> None:
    """Warns if other images are held out of the data now than when the run began."""
    if num_images != about.get("num_images"):
        log.warning("%s has changed since the run began, so some of these images may be among those it learned", data)


def has_held_out(about: dict[str, Any], folder: DataFolder) -> bool:
    """Whether the run that says this of itself has set images of its own data, in ``folder``, aside."""
    return about["request"].get("val_split") is None and folder.val_split() is None


def train_split_of(about: dict[str, Any], folder: DataFolder) -> str:
    """The split of its own data that a run was trained on."""
    split: str = about["request"].get("train_split") or folder.train_split()
    return split
