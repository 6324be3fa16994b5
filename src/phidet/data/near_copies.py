"""Images that are nearly those that a model has learned from: encoded again, resized, mirrored, or a moment later."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from phidet.core.errors import InputError
from phidet.data.data_folder import DataFolder
from phidet.data.dataset import Dataset
from phidet.data.doctor.decoding import ImageFile, check_images
from phidet.data.doctor.duplicates import near_groups
from phidet.data.run_images import RunImages

MOST_IMAGES = 5_000
"""Of more images together, near copies are left to ``phidet doctor``: each has to be decoded."""

log = logging.getLogger("phidet")


class NearCopies(NamedTuple):
    """Which images are near copies.

    Attributes:
        images: names of those of the measured ones.
        of: names of the images that they look like, one for each.
    """

    images: tuple[str, ...]
    of: tuple[str, ...]


def near_copies(measured: Dataset, learned: Dataset) -> NearCopies:
    """Images of ``measured`` that look nearly like one of ``learned``; exact copies are not among them.

    By the same hash and the same verification as in ``phidet doctor``, see :mod:`phidet.data.doctor.duplicates`.
    """
    both = (measured, learned)
    files = [ImageFile(data.source(i), data.size_hw(i)) for data in both for i in range(len(data))]
    names = [str(name) for data in both for name in data.names.tolist()]
    looks = check_images(files, decode=True)
    sizes_hw = np.array([file.size_hw for file in files], np.int32).reshape(-1, 2)
    found: list[tuple[str, str]] = []
    for group in near_groups(looks, sizes_hw):
        known = [i for i in group if i >= len(measured)]
        for i in group:
            # An image that is in both parts bit by bit is counted by its fingerprint.
            others = [k for k in known if looks[k].content != looks[i].content]
            if i < len(measured) and others:
                found.append((names[i], names[others[0]]))
    return NearCopies(tuple(image for image, _ in found), tuple(other for _, other in found))


def near_learned(measured: Dataset, images: RunImages, folder: DataFolder) -> NearCopies | None:
    """Near copies among ``measured`` of what a run has learned from, as far as that is in the same data.

    Returns:
        ``None`` where it cannot be told: the images are not there, or too many.
    """
    learned: list[tuple[Dataset, list[int]]] = []
    for split in folder.splits:
        try:
            dataset = folder.read(split, measured.class_names)
        except InputError:  # of no use here, and told where it is read for itself
            continue
        learned.append((dataset, np.flatnonzero(images.learned_of(dataset)).tolist()))
    count = sum(len(indices) for _, indices in learned)
    if not count or count + len(measured) > MOST_IMAGES:
        return None
    found: dict[str, str] = {}
    for dataset, indices in learned:
        if indices:
            copies = near_copies(measured, dataset.subset(indices, dataset.name))
            found |= dict(zip(copies.images, copies.of, strict=True))
    return NearCopies(tuple(found), tuple(found.values()))


def warn_of(copies: NearCopies | None, total: int) -> None:
    """Names them in a warning."""
    if copies is not None and copies.images:
        log.warning(
            "%d of these %d images look nearly like images that the model has learned from (first: %s, like %s), so "
            "that its metrics may be too optimistic; 'phidet doctor' shows near copies",
            *(len(copies.images), total, copies.images[0], copies.of[0]),
        )
