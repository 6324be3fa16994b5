"""The data of a run: read, described, split, and recognised by their content when the run is resumed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phidet.core.errors import ConfigError, InputError
from phidet.data.class_folders import open_class_folders, split_by_class
from phidet.data.data_folder import DataFolder
from phidet.data.dataset import Dataset
from phidet.data.fingerprint import fingerprints
from phidet.data.hold_out import HELD_OUT, hold_out
from phidet.data.layouts import open_data
from phidet.data.made import refuse_made
from phidet.data.objects import read_objects
from phidet.data.run_images import RunImages, known_images, read_run_images, restore
from phidet.data.summary import DataSummary, log_left_out, log_summary, summarise_data
from phidet.data.unlabelled import join, read_unlabelled
from phidet.evaluation.measure import DEFAULT_SETTINGS
from phidet.training.about import Request

log = logging.getLogger("phidet")


class RunData(NamedTuple):
    """What a run learns from, and what it is validated on.

    Attributes:
        train: has objects.
        val: has objects; ``None`` where there is no evaluation.
    """

    train: Dataset
    val: Dataset | None


def read_run_data(
    request: Request,
    seed: int,
    classify: bool,
    known: RunImages | None = None,
    class_names: tuple[str, ...] | None = None,
) -> RunData:
    """The data of ``request``; logs what they contain and what was left out.

    Args:
        request: where they are, and which splits.
        seed: of the images that are held out where there is no validation split.
        classify: whether ``request.data`` is an image folder with a folder for each class.
        known: the images that the run began with, wherever they lie now; ``None`` for a new run.
        class_names: the classes to read; the data's own unless given.

    Raises:
        InputError: the data cannot be used, have nothing to learn, or are not those that the run began with.
        ConfigError: names of splits for an image folder.
    """
    folder = _opened(request, classify)
    train = folder.read(request.train_split or folder.train_split(), class_names)
    summary = summarise_data(train)
    log_summary(summary, request.data, classify)
    val_split = None if request.val_split == "none" else request.val_split or folder.val_split()
    val = None if val_split is None else _validation(folder, val_split, train, classify)
    # After both splits were described, so that the log shows what is there before the error.
    if not summary.objects:
        raise InputError(_nothing_to_learn(summary, request.data))
    if known is not None:
        train = _with_unlabelled(train, request, ())  # the record of the run's images has them
    if request.val_split != "none" and val_split is None:
        train, val = _with_held_out(train, request.data, seed, classify, known)
    # The data may have been moved or grown since: images are matched by content, not by path.
    elif known is not None:
        train = restore([known.train], train, [train.name], request.data)[0]
        val = None if val is None else restore([known.val], val, [val.name], request.data)[0]
    if known is None:
        train = _with_unlabelled(train, request, [train] if val is None else [train, val])
    if val is not None:
        _warn_of_limit(val)
    return RunData(train, val)


def read_generate_data(request: Request) -> RunData:
    """Images whose objects a generator learns; see :func:`phidet.data.objects.read_objects`."""
    train = read_objects(request.data, request.layout, request.train_split)
    log_summary(summarise_data(train), request.data, classify=len(train.class_names) == 1)
    return RunData(train, None)


def record_images(data: RunData, model: str) -> RunImages:
    """Which images a run has; warns of validation images that the run, or its starting model, is trained on.

    Args:
        data: of the run.
        model: what it starts from: a name, a file or the folder of another run.

    Raises:
        CheckpointError: the other run's record of its images is damaged.
    """
    path = Path(model)
    # A model from an earlier run has learned from that run's images: they must not count as unseen here.
    before = read_run_images(path if path.is_dir() else path.parent) if path.exists() else None
    earlier = frozenset[str]() if before is None else before.learned
    images = RunImages(known_images(data.train), () if data.val is None else known_images(data.val), earlier)
    copies = images.copies()
    if copies:
        log.warning(
            "%d of the %d validation images are among those that the model learns, or has learned, from (first: %s): "
            "its metrics will be too optimistic",
            *(len(copies), len(images.val), copies[0]),
        )
    return images


def _with_unlabelled(train: Dataset, request: Request, labelled: Sequence[Dataset]) -> Dataset:
    """``train`` and the images without labels that the teacher shall label, but for those that are ``labelled``."""
    if request.unlabelled is None:
        return train
    more = read_unlabelled(request.unlabelled, train.class_names)
    log_left_out(more)
    # People keep labelled and unlabelled images in one folder. The labels say more than the teacher, and validation
    # images must not be learned from.
    known = {found for dataset in labelled for found in fingerprints(dataset) if found is not None}
    new = [i for i, found in enumerate(fingerprints(more)) if found not in known] if known else range(len(more))
    if len(new) < len(more):
        log.info("unlabelled: %d images are among the labelled ones and not added", len(more) - len(new))
    log.info("unlabelled: %d images, for the teacher to label", len(new))
    return join(train, more.subset(list(new), more.name))


def _opened(request: Request, classify: bool) -> DataFolder:
    if not classify:
        return open_data(request.data, request.layout)
    if request.train_split or request.val_split not in (None, "none"):
        raise ConfigError("an image folder is split by its folders 'train' and 'val': leave out the names of splits")
    return open_class_folders(request.data)


def _validation(folder: DataFolder, split: str, train: Dataset, classify: bool) -> Dataset | None:
    val = folder.read(split, train.class_names)
    refuse_made(val)
    summary = summarise_data(val)
    log_summary(summary, str(folder.path), classify)
    if summary.objects:
        return val
    only_crowds = " but crowd regions" if summary.crowds else ""
    log.warning(
        "the split %s has no objects%s, so that nothing can be measured on it: the last model is used",
        *(split, only_crowds),
    )
    return None


def _with_held_out(
    train: Dataset, data: str, seed: int, classify: bool, known: RunImages | None
) -> tuple[Dataset, Dataset]:
    if known is not None:
        # A resumed run gets the very parts that it began with, even if the data moved or the order of files changed.
        parts = [train.name, f"{train.name}, held out"]
        kept, held = restore([known.train, known.val], train, parts, data)
    elif classify:
        kept, held = split_by_class(train, seed=seed)
    else:
        kept, held = hold_out(train, HELD_OUT, seed)
    log.info("no validation split: %d of %d images are held out for it", len(held), len(train))
    return kept, held


def _warn_of_limit(val: Dataset) -> None:
    most, limit = summarise_data(val).most_objects, DEFAULT_SETTINGS.max_objects
    if most > limit:
        log.warning(
            "an image of %s has %d objects, and validation counts at most %d detections of an image: "
            "'phidet eval --max-objects %d' counts more",
            *(val.name, most, limit, most),
        )


def _nothing_to_learn(summary: DataSummary, data: str) -> str:
    what = f"no image of {summary.name!r} has an object"
    if summary.crowds:
        what += f" but crowd regions ({summary.crowds:,}, iscrowd 1), which are never learned"
    return f"{what}, so there is nothing to learn: 'phidet doctor {data}' says why"
