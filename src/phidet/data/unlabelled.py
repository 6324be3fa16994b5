"""Images without labels, which a teacher labels during training."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from phidet.core.errors import InputError
from phidet.core.machine import usable_cores
from phidet.data.collector import Collector
from phidet.data.dataset import Dataset
from phidet.data.listing import files_below, followed, is_image
from phidet.images.decode import image_size_or_error


def read_unlabelled(folder: str | Path, class_names: tuple[str, ...]) -> Dataset:
    """The images below ``folder`` as a data set without objects; those that cannot be read become problems.

    Args:
        folder: at any depth; label files beside the images are not read.
        class_names: of the data that they are added to.

    Raises:
        InputError: no such folder, or no image in it that can be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: expected one with images without labels")
    paths = [followed(path) for path in files_below(folder, is_image)]
    collector = Collector("unlabelled", folder, class_names)
    with ThreadPoolExecutor(usable_cores()) as pool:
        sizes = list(pool.map(image_size_or_error, paths))
    for path, size in zip(paths, sizes, strict=True):
        if isinstance(size, InputError):
            collector.problem("image unreadable", path, f"{size}; left out")
        else:
            collector.add(str(path), path, size, ())
    found = collector.dataset()
    if not len(found):
        raise InputError(f"{folder} has no image that can be read: expected images without labels")
    return found


def join(first: Dataset, second: Dataset) -> Dataset:
    """The images of ``first``, then those of ``second`` that are not in it by name; both have the same classes."""
    taken = set(first.names.tolist())
    added = [i for i, name in enumerate(second.names.tolist()) if name not in taken]
    parts = [first, second.subset(added, second.name)]
    return Dataset(
        first.name,
        first.class_names,
        names=[name for of in parts for name in of.names.tolist()],
        sources=[source for of in parts for source in of.sources],
        annotations=[of.annotations(i) for of in parts for i in range(len(of))],
        sizes_hw=np.concatenate([of.sizes_hw for of in parts]),
        problems=[*first.problems, *second.problems],
        coco_ids=first.coco_ids,
    )
