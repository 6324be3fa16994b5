"""Folders of masks: ``images`` and ``masks/CLASS``, for all images or in a folder for each split."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from phidet.data.data_folder import Found, is_split_name
from phidet.data.dataset import Dataset
from phidet.data.listing import files_below, is_image, subfolders
from phidet.data.readers.mask_folders import read_mask_folders

IMAGES, MASKS = "images", "masks"


def find_masks(path: Path) -> Found | None:
    """``images/NAME.jpg`` with ``masks/CLASS/NAME.png``; with splits below ``images`` and ``masks``, or above them."""
    if path.is_file():
        return None
    splits: dict[str, tuple[Path, Path]] = {}
    for top, name in [(path, "all"), *((folder, folder.name) for folder in subfolders(path))]:
        images, masks = top / IMAGES, top / MASKS
        if not (images.is_dir() and masks.is_dir()):
            continue
        # masks/train/CLASS and masks/CLASS look alike: folders that are all called as splits are taken for splits.
        below = subfolders(masks)
        if top == path and below and all(is_split_name(folder.name) for folder in below):
            splits |= {folder.name: (images / folder.name, folder) for folder in below}
        else:
            splits[name] = images, masks
    splits = {split: found for split, found in splits.items() if found[0].is_dir() and _has_masks(found[1])}
    if not splits:
        return None
    names = sorted({folder.name for _, masks in splits.values() for folder in subfolders(masks)})

    def read(split: str, wanted: Sequence[str] | None) -> Dataset:
        return read_mask_folders(*splits[split], path, split, wanted or names)

    return Found(f"{MASKS}/{names[0]}", {split: partial(read, split) for split in splits})


def _has_masks(folder: Path) -> bool:
    """Whether folders of classes with images lie in a folder."""
    return any(next(files_below(below, is_image), None) is not None for below in subfolders(folder))
