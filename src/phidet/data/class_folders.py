"""Image folders for classification: a folder for each class, perhaps below one for each split."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from phidet.core.errors import InputError
from phidet.data.collector import Collector, RawObject
from phidet.data.data_folder import TEST_SPLITS, TRAIN_SPLITS, VAL_SPLITS, DataFolder, Found, first_split
from phidet.data.dataset import Dataset
from phidet.data.listing import files_below, followed, is_image, subfolders
from phidet.images.decode import image_size_or_error
from phidet.images.formats import other_image

_SPLITS = (*TRAIN_SPLITS, *VAL_SPLITS, *TEST_SPLITS)


def open_class_folders(path: str | Path) -> DataFolder:
    """Finds the splits of a folder; each reads as a data set whose images hold one object that fills them.

    ``FOLDER/cat/1.jpg`` makes one split, "all"; ``FOLDER/train/cat/1.jpg`` makes "train". Classes are the names of the
    folders, sorted: those of the training split, for all splits.

    Raises:
        InputError: there is no such folder, or there are fewer than two classes in it.
    """
    path = Path(path)
    return DataFolder(path, "folders", find_class_folders(path).readers)


def find_class_folders(path: Path) -> Found:
    """What :func:`open_class_folders` opens.

    Raises:
        InputError: as there.
    """
    if not path.is_dir():
        raise InputError(f"there is no folder at {path}: expected one with a folder of images for each class")
    splits = {p.name: p for p in subfolders(path) if p.name.casefold() in _SPLITS and _classes(p)} or {"all": path}
    first = first_split(TRAIN_SPLITS, tuple(splits)) or next(iter(splits))
    own = _classes(splits[first])
    # A single folder is more likely one of images, or of a layout that was not recognised, than a class.
    if len(own) < 2:
        found = f"only {own[0]!r}" if own else "none"
        raise InputError(
            f"{splits[first]} should hold a folder of images for each of two classes or more, found {found}: "
            "as in FOLDER/cat/1.jpg, or FOLDER/train/cat/1.jpg"
        )

    readers = {name: partial(_read, folder, path, name, own) for name, folder in splits.items()}
    return Found(f"{own[0]}/, {own[1]}/", readers)


def split_by_class(dataset: Dataset, share: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Training and validation data, drawn so that each class has its ``share`` in the latter; equal for equal seeds.

    A class of at least two images has at least one in each.
    """
    ids = dataset.all_annotations.class_ids
    held: list[int] = []
    for class_id in range(len(dataset.class_names)):
        own = np.flatnonzero(ids == class_id)
        # A generator per class: adding images to one class does not reshuffle the others.
        order = np.random.default_rng((seed, class_id)).permutation(own)
        most = len(own) - 1
        held += order[: min(max(round(share * len(own)), 1), most)].tolist() if most > 0 else []
    kept = sorted(set(range(len(dataset))) - set(held))
    return dataset.subset(kept, dataset.name), dataset.subset(sorted(held), f"{dataset.name}, held out")


def _classes(path: Path) -> list[str]:
    return [folder.name for folder in subfolders(path) if next(files_below(folder, is_image), None) is not None]


def _read(folder: Path, root: Path, split: str, own: Sequence[str], names: Sequence[str] | None) -> Dataset:
    class_names = names or own
    collector = Collector(split, root, class_names)
    for path in (path for below in subfolders(folder) for path in files_below(below, lambda _: True)):
        # Images in unsupported formats are reported; otherwise they would silently be missing from their class.
        other = other_image(followed(path))
        if other is not None:
            what = f"{other}, which is not searched for: convert it, or give it the ending of its format; left out"
            collector.problem("image unreadable", path, what)
    images = [(image, below.name) for below in subfolders(folder) for image in files_below(below, is_image)]
    for class_name in class_names:
        if not any(class_name == name for _, name in images):
            collector.problem("image missing", folder / class_name, f"no image of class {class_name!r} in {split!r}")
    # Reading headers is bound by the disk, not the CPU.
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(image_size_or_error, [followed(image) for image, _ in images])
    for (image, class_name), size in zip(images, sizes, strict=True):
        if isinstance(size, InputError):
            collector.problem("image unreadable", image, f"{size}; left out")
        elif class_name not in class_names:
            collector.problem("class unknown", image, f"class {class_name!r} is not one of the classes; left out")
        else:
            # A classified image is one object that covers it, so that the same data set type serves both tasks.
            whole = RawObject(str(image), (0.0, 0.0, float(size[1]), float(size[0])), class_name)
            collector.add(str(image.relative_to(root)), followed(image), size, [whole])
    return collector.dataset()
