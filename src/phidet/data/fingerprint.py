"""Identifies images by a fingerprint of their encoded bytes, independent of their path and name, and labels by theirs.

Moving, copying or renaming an image keeps its fingerprint; encoding it again changes it. Reading dominates the cost: a
hundred thousand photos take less time than the first epoch spends on reading them.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from phidet.core.errors import InputError
from phidet.data.dataset import Annotations, Dataset
from phidet.data.mask_labels import MaskLabels
from phidet.data.tfrecord_file import ImageSource, RecordImage

# Of larger files so many parts of so many bytes are hashed, the first and the last included.
_PARTS, _PART = 64, 1 << 14


def fingerprint(source: ImageSource) -> str | None:
    """16 hexadecimal digits of BLAKE2b over size and bytes; ``None`` where the image cannot be read.

    Of files above 1 MiB it is over evenly spaced parts of them.
    """
    try:
        if isinstance(source, RecordImage):
            return _digest(io.BytesIO(source.read_bytes()))
        if not source.is_file():  # opening a pipe would wait for ever
            return None
        with source.open("rb") as file:
            return _digest(file)
    except (OSError, InputError):
        return None


def _digest(file: BinaryIO) -> str:
    size = file.seek(0, os.SEEK_END)
    whole = size <= _PARTS * _PART
    # The size is part of the digest: sampled parts alone could agree for files of different lengths.
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=8)
    for part in range(1 if whole else _PARTS):
        # The last part ends with the file.
        file.seek((size - _PART) * part // (_PARTS - 1))
        digest.update(file.read(size if whole else _PART))
    return digest.hexdigest()


def label_fingerprints(dataset: Dataset) -> list[str]:
    """16 hexadecimal digits of BLAKE2b over the objects of each image of ``dataset``, wherever its files lie."""
    return [_of_labels(dataset.annotations(index), dataset.class_names) for index in range(len(dataset))]


def _of_labels(a: Annotations, class_names: Sequence[str]) -> str:
    # Classes by their names: numbers depend on which others are read.
    names = "\0".join(class_names[c] for c in a.class_ids.tolist())
    digest = hashlib.blake2b(names.encode("utf-8", "surrogatepass"), digest_size=8)
    for column in (a.boxes_xyxy, a.areas, a.crowd, a.difficult):
        digest.update(column.tobytes())
    for _, values in sorted(a.fields.items()):
        if isinstance(values, MaskLabels):
            digest.update(values.kinds.tobytes())
            digest.update(b"".join(values.said(row) for row in range(len(values))))
        elif isinstance(values, np.ndarray):
            digest.update(values.tobytes())
    return digest.hexdigest()


def fingerprints(dataset: Dataset) -> list[str | None]:
    """The fingerprint of each image of ``dataset``, in its order; a progress bar where it takes long."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(fingerprint, dataset.sources)
        return list(tqdm(found, "fingerprint", len(dataset), leave=False, disable=None, delay=2, unit="image"))
