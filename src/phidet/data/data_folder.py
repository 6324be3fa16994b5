"""A data folder whose layout is known: its splits, and how each of them is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from phidet.core.errors import InputError, UnknownNameError
from phidet.data.dataset import Dataset

Layout = Literal["coco", "voc", "yolo", "tfrecord", "panoptic", "masks", "folders"]
LAYOUT_NAMES: dict[Layout, str] = {
    "coco": "COCO JSON",
    "voc": "Pascal VOC",
    "yolo": "YOLO",
    "tfrecord": "TFRecord",
    "panoptic": "COCO panoptic",
    "masks": "folders of masks",
    "folders": "a folder of images for each class",
}
"""Names of the layouts for messages."""

Reader = Callable[[Sequence[str] | None], Dataset]
"""Reads one split; given class names, it maps classes to them by name."""

TRAIN_SPLITS = ("train", "trainval", "training", "train2017")
VAL_SPLITS = ("val", "valid", "validation", "val2017")
TEST_SPLITS = ("test", "testing", "test2017")
# What follows the name is a number or begins with a sign: train2, val_night, test-dev; not trains or valley.
_SPLIT_NAME = re.compile(rf"({'|'.join((*TRAIN_SPLITS, *VAL_SPLITS, *TEST_SPLITS))})(\d+|[_\-. ].+)?", re.IGNORECASE)


class Found(NamedTuple):
    """One interpretation of the content of a folder.

    Attributes:
        evidence: the files that it was recognised by, in a few words, for messages.
        readers: one for each split, by name.
        certain: whether it is recognised by the content of files, and not by their names alone.
    """

    evidence: str
    readers: Mapping[str, Reader]
    certain: bool = True


class DataFolder(NamedTuple):
    """A data folder, recognised.

    Attributes:
        path: where the data lie.
        layout: how they are laid out.
        readers: one for each split, by name.
    """

    path: Path
    layout: Layout
    readers: Mapping[str, Reader]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.readers)

    def read(self, split: str, class_names: Sequence[str] | None = None) -> Dataset:
        """One split.

        Args:
            split: its name.
            class_names: map classes to these, by name; unless given, the data's own.

        Raises:
            UnknownNameError: there is no such split.
            InputError: its labels cannot be read at all, or it has no images.
        """
        if split not in self.readers:
            raise UnknownNameError(f"split of {self.path}", split, self.readers)
        dataset = self.readers[split](class_names)
        if len(dataset) == 0:
            # The first problems usually show why nothing is left, such as a wrong image folder.
            problems = "".join(f"\n  {p.where}: {p.what}" for p in dataset.problems[:3])
            raise InputError(f"split {split!r} of {self.path} has no image that can be used{problems}")
        return dataset

    def train_split(self) -> str:
        """The split to train on.

        Raises:
            InputError: the names do not show which one it is.
        """
        found = first_split(TRAIN_SPLITS, self.splits) or (self.splits[0] if len(self.splits) == 1 else None)
        if found is None:
            raise InputError(f"{self.path} has the splits {', '.join(self.splits)}: say which one to train on")
        return found

    def val_split(self) -> str | None:
        """The split to validate on, ``None`` where there is none."""
        return first_split(VAL_SPLITS, self.splits)


def is_split_name(name: str) -> bool:
    """Whether folders and lists of that name are splits: train, Val, test2017, val_night."""
    return _SPLIT_NAME.fullmatch(name) is not None


def first_split(wanted: Sequence[str], splits: Sequence[str]) -> str | None:
    """The first name of ``wanted`` among the splits, whatever its capital letters; ``None`` where there is none."""
    # Reversed, so that of names that differ in case only the first one wins.
    by_name = {split.casefold(): split for split in reversed(splits)}
    return next((by_name[name] for name in wanted if name in by_name), None)
