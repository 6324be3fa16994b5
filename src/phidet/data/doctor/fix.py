"""A clean copy of a data set; the original is only read."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from phidet.core.errors import ConfigError, InputError
from phidet.data.data_folder import TRAIN_SPLITS, VAL_SPLITS
from phidet.data.dataset import Dataset
from phidet.data.doctor.examine import Examination
from phidet.data.writers.coco import write_coco


class Fixed(NamedTuple):
    """What a clean copy lacks.

    Attributes:
        out: where it is.
        splits: images left, by split.
        faulty: images left out that cannot be used.
        copies: images left out that are there more than once.
        boxes: boxes left out that are there twice.
    """

    out: Path
    splits: dict[str, int]
    faulty: int
    copies: int
    boxes: int


def write_fixed(examination: Examination, out: Path) -> Fixed:
    """Writes what can be used of the data as COCO JSON with its images.

    Left out are images that cannot be decoded or differ in size from their labels, duplicate boxes,
    and exact copies of images. An image in several splits stays where results are measured, so that they remain
    comparable, and leaves the split to train on; within a split the first copy stays. Splits that consist of others
    are not written. Classes become those of all splits. Near copies stay: a person should say whether they are copies.

    Raises:
        ConfigError: ``out`` holds something already, or is in the data's folder.
        InputError: nothing is left.
        PhidetError: it cannot be written.
    """
    check_target(Path(examination.report.path), out)
    copies = redundant_copies(examination)
    double = defaultdict(set)
    for found in examination.report.duplicate_boxes:
        double[found.split, found.image].add(found.second)
    class_names = examination.report.classes.names
    kept: dict[str, Dataset] = {}
    boxes = 0
    for name, dataset in examination.datasets.items():
        gone = {i for split, i in examination.faulty | copies if split == name}
        indices = [i for i in range(len(dataset)) if i not in gone]
        boxes += sum(len(double[name, str(dataset.names[i])]) for i in indices)
        if indices:
            gone_boxes = {image: numbers for (split, image), numbers in double.items() if split == name}
            kept[name] = _clean(dataset, indices, gone_boxes, class_names)
    if not kept:
        raise InputError(f"no image of {examination.report.path} can be used: there is nothing to write")
    written = write_coco(kept, out)
    # Writing decodes every image, also where the examination did not.
    faulty = len(examination.faulty) + len(written.problems)  # the latter where the examination read headers only
    return Fixed(out, written.images, faulty, len(copies), boxes)


def redundant_copies(examination: Examination) -> frozenset[tuple[str, int]]:
    """Exact copies to leave out, as (split, index): in every group all but one that can be used."""
    indices = {
        name: {image: i for i, image in enumerate(dataset.names.tolist())}
        for name, dataset in examination.datasets.items()
    }
    found = set()
    for group in examination.report.duplicate_images:
        if group.kind == "near":
            continue
        members = [(m.split, indices[m.split][m.image]) for m in group.members]
        usable = [member for member in members if member not in examination.faulty]
        # Evaluation data stay complete; among equals the first one stays, so that the choice is stable.
        keep = min(usable, key=lambda member: (_training(member[0]), usable.index(member)), default=None)
        found |= {member for member in usable if member != keep}
    return frozenset(found)


def _training(split: str) -> int:
    """0 for splits that results are measured on at the end, then those to validate on, then those to train on."""
    if split in TRAIN_SPLITS:
        return 2
    return 1 if split in VAL_SPLITS else 0


def _clean(dataset: Dataset, indices: list[int], double: dict[str, set[int]], class_names: list[str]) -> Dataset:
    """Some images of a data set, without some boxes, with classes numbered as in ``class_names``."""
    # Splits may list classes in another order: ids are mapped by name to the common list.
    ids = np.array([class_names.index(name) for name in dataset.class_names], np.int64)
    annotations = []
    for i in indices:
        found = dataset.annotations(i)
        keep = np.array([j not in double.get(str(dataset.names[i]), ()) for j in range(len(found.areas))], bool)
        kept = found.take(keep)
        annotations.append(kept._replace(class_ids=ids[kept.class_ids]))
    return dataset.subset(indices, dataset.name).relabelled(annotations, class_names)


def check_target(data: Path, out: Path) -> None:
    """Raises ConfigError unless a clean copy of ``data`` may be written to ``out``: new or empty, and outside of it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--fix {out}: expected a new or empty folder, and there is something in it; choose another")
    root = (data if data.is_dir() else data.parent).resolve()
    # A copy inside the data would become part of them at the next examination.
    if out.resolve().is_relative_to(root):
        raise ConfigError(f"--fix {out} is inside the data at {root}, which is not changed: choose a folder elsewhere")
