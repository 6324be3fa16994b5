"""Which images a training run learned from and was validated on, identified by content and not by path.

``images.csv`` in a run's folder has a row for each: its part ("train", "val", or "earlier" for what the model had
learned from before the run), its fingerprint, its name, which is for people, and the fingerprint of its labels.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.csv_files import csv_bytes
from phidet.core.errors import CheckpointError, InputError
from phidet.core.words import count
from phidet.data.dataset import Dataset
from phidet.data.fingerprint import fingerprints, label_fingerprints

IMAGES = "images.csv"
_HEADER = ["part", "fingerprint", "name", "labels"]


class KnownImage(NamedTuple):
    """One image.

    Attributes:
        fingerprint: empty where it could not be read.
        name: what it was called.
        labels: fingerprint of its labels, empty where that is not known, as in runs of earlier versions.
    """

    fingerprint: str
    name: str
    labels: str = ""


class RunImages(NamedTuple):
    """The images of a run, in its order.

    Attributes:
        train: what it learned from.
        val: what it was validated on.
        earlier: fingerprints of what its model had learned from before, in other runs.
    """

    train: tuple[KnownImage, ...]
    val: tuple[KnownImage, ...]
    earlier: frozenset[str] = frozenset()

    @property
    def learned(self) -> frozenset[str]:
        """Fingerprints of all images that the model has learned from."""
        return self.earlier.union(image.fingerprint for image in self.train if image.fingerprint)

    def learned_of(self, dataset: Dataset) -> npt.NDArray[np.bool_]:
        """(N,) whether the model has learned from each image of ``dataset``."""
        learned = self.learned
        return np.array([found in learned for found in fingerprints(dataset)], np.bool_)

    def copies(self) -> list[str]:
        """Names of the images that it was validated on although the model had learned from them."""
        learned = self.learned
        return [image.name for image in self.val if image.fingerprint in learned]

    def to_csv(self) -> bytes:
        """The content of ``images.csv``."""
        rows: list[Sequence[str]] = [
            _HEADER,
            *(("train", *image) for image in self.train),
            *(("val", *image) for image in self.val),
        ]
        # Names of files may not be UTF-8; they are for people, so that a readable form will do.
        return csv_bytes([*rows, *(("earlier", found, "", "") for found in sorted(self.earlier))], "\n")


def known_images(dataset: Dataset) -> tuple[KnownImage, ...]:
    """Each image of ``dataset``, in its order."""
    found = zip(fingerprints(dataset), dataset.names.tolist(), label_fingerprints(dataset), strict=True)
    return tuple(KnownImage(fingerprint or "", name, labels) for fingerprint, name, labels in found)


def read_run_images(run: Path) -> RunImages | None:
    """The images of the run in folder ``run``; ``None`` where it did not record them, as earlier versions.

    Raises:
        CheckpointError: the record is damaged.
    """
    path = run / IMAGES
    try:
        # keepends: names of images may hold line breaks inside quotes.
        header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines(keepends=True))
        if header not in (_HEADER, _HEADER[:3]):
            raise ValueError(f"its first line should be {','.join(_HEADER)}")
        parts: dict[str, list[KnownImage]] = {"train": [], "val": [], "earlier": []}
        for part, fingerprint, name, *labels in rows:
            parts[part].append(KnownImage(fingerprint, name, *labels))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): bring it back from a copy of the run; without the file, which images the "
            "run held out is not known"
        ) from error
    return RunImages(
        tuple(parts["train"]), tuple(parts["val"]), frozenset(image.fingerprint for image in parts["earlier"])
    )


def places(wanted: Sequence[KnownImage], dataset: Dataset) -> list[int | None]:
    """Where each of ``wanted`` is in ``dataset``, ``None`` where it is not there.

    Of several copies of an image, the one of the same name comes first; each is given once.
    """
    names = dataset.names.tolist()
    at: dict[str, list[int]] = {}
    for index, found in enumerate(fingerprints(dataset)):
        at.setdefault(found or "", []).append(index)
    result: list[int | None] = []
    # The copies that are wanted by name must not be given away to others before.
    by_name = {(image.fingerprint, image.name) for image in wanted}
    for image in wanted:
        copies = at.get(image.fingerprint, [])
        own = next((i for i in copies if names[i] == image.name), None)
        # A copy that no other name claims, before one that somebody else's name would match exactly.
        other = next((i for i in copies if (image.fingerprint, names[i]) not in by_name), None)
        chosen = own if own is not None else other if other is not None else next(iter(copies), None)
        if chosen is not None:
            # Each image is given out once, so that copies in the data are matched one to one.
            copies.remove(chosen)
        result.append(chosen)
    return result


def restore(parts: Sequence[Sequence[KnownImage]], dataset: Dataset, names: Sequence[str], data: str) -> list[Dataset]:
    """Parts of ``dataset`` with the very images, in the very order, that a run had.

    Args:
        parts: its images; together they must be all of the data set's.
        dataset: may lie elsewhere now, under other names.
        names: of the parts.
        data: what the user calls the data.

    Raises:
        InputError: images are missing, there are others, or their labels have changed.
    """
    wanted = [image for part in parts for image in part]
    found = places(wanted, dataset)
    missing = [image.name for image, place in zip(wanted, found, strict=True) if place is None]
    # Strict on purpose: images added since would change the epochs and the held-out part.
    if missing or len(wanted) != len(dataset):
        lost = f"; {len(missing):,} of them are missing or have changed, first {missing[0]}" if missing else ""
        raise InputError(
            f"{data} has {len(dataset):,} images for {' and '.join(names)}, the run began with {len(wanted):,}{lost}: "
            "put the data back as they were, or begin another run with --model RUN"
        )
    labels = label_fingerprints(dataset)
    changed = [
        one.name for one, i in zip(wanted, found, strict=True) if i is not None and one.labels not in ("", labels[i])
    ]
    if changed:
        raise InputError(
            f"{data}: the labels of {count(len(changed), 'image')} have changed since the run began, first those of "
            f"{changed[0]}: put them back as they were, or begin another run with --model RUN"
        )
    rows = iter(place for place in found if place is not None)
    return [dataset.subset([next(rows) for _ in part], name) for part, name in zip(parts, names, strict=True)]
