"""Masks that lie in files of their own, looked into before anything is measured with them."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from phidet.core.errors import InputError
from phidet.data.dataset import Dataset, Problem
from phidet.data.mask_labels import NO_MASK, Kind, MaskLabels
from phidet.detections.masks import FIELD as MASKS

log = logging.getLogger("phidet")


def with_readable_masks(dataset: Dataset) -> Dataset:
    """The data set, in which objects whose mask cannot be read have their box only; a warning names each such file.

    Masks that labels hold themselves were looked into when these were read.
    """
    labels = dataset.all_annotations.mask_labels
    if labels is None or not (labels.kinds > Kind.RUNS).any():
        return dataset
    with ThreadPoolExecutor() as pool:
        unreadable = list(pool.map(partial(_unreadable, dataset), range(len(dataset))))
    if not any(unreadable):
        return dataset
    parts, problems = [], []
    for index, rows in enumerate(unreadable):
        a = dataset.annotations(index)
        if rows and a.mask_labels is not None:
            kept = [NO_MASK if i in rows else a.mask_labels.label(i) for i in range(len(a.mask_labels))]
            a = a._replace(fields={**a.fields, MASKS: MaskLabels.of(kept)})
        parts.append(a)
        # An image's objects may share a file, which is named once.
        for what in dict.fromkeys(rows.values()):
            log.warning("mask left out: %s", what)
            name = str(dataset.names[index])
            problems.append(Problem("mask invalid", name, f"{what}; its objects have their boxes only", name))
    return dataset.with_annotations(parts, problems)


def _unreadable(dataset: Dataset, index: int) -> dict[int, str]:
    """The objects of an image whose masks cannot be read, and why."""
    labels, size_hw = dataset.annotations(index).mask_labels, dataset.size_hw(index)
    if labels is None:
        return {}
    try:
        labels.masks(size_hw)
    except InputError:
        found = {}
        for row in range(len(labels)):
            try:
                labels[row : row + 1].masks(size_hw)
            except InputError as error:
                found[row] = str(error)
        return found
    return {}
