"""What an image is, wherever it lies and whatever it is called: a fingerprint of its encoded bytes.

Moving, copying or renaming an image keeps its fingerprint; encoding it again changes it. Reading dominates the cost: a
hundred thousand photos take less time than the first epoch spends on reading them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from phidet.data.dataset import Dataset
from phidet.data.images import ImageSource, encoded
from phidet.errors import InputError

_PARTS, _PART = (
    64,
    1 << 14,
)  # of larger files so many parts of so many bytes are hashed, the first and the last included


def fingerprint(source: ImageSource) -> str | None:
    """16 hexadecimal digits of BLAKE2b over size and bytes; ``None`` where the image cannot be read.

    Of files above 1 MiB it is over evenly spaced parts of them.
    """
    digest = hashlib.blake2b(digest_size=8)
    try:
        if not isinstance(source, Path):
            content = encoded(source)
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
            return digest.hexdigest()
        with source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(size.to_bytes(8, "little"))
            if size <= _PARTS * _PART:
                digest.update(file.read())
                return digest.hexdigest()
            for part in range(_PARTS):
                file.seek((size - _PART) * part // (_PARTS - 1))
                digest.update(file.read(_PART))
    except (OSError, InputError):
        return None
    return digest.hexdigest()


def fingerprints(dataset: Dataset) -> list[str | None]:
    """The fingerprint of each image of ``dataset``, in its order; a progress bar where it takes long."""
    sources = (dataset.source(index) for index in range(len(dataset)))
    with ThreadPoolExecutor() as pool:
        return list(_shown(pool.map(fingerprint, sources), len(dataset)))


def _shown(found: Iterator[str | None], count: int) -> Iterator[str | None]:
    yield from tqdm(found, "fingerprint", count, leave=False, disable=None, delay=2, unit="image")
