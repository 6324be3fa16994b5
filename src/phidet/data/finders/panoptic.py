"""COCO panoptic: ``annotations/panoptic_SPLIT.json`` with a folder of PNGs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from phidet.core.errors import InputError
from phidet.data.data_folder import Found, Reader
from phidet.data.dataset import Dataset
from phidet.data.listing import files_below, followed
from phidet.data.readers.panoptic import is_panoptic, read_panoptic


def find_panoptic(path: Path) -> Found | None:
    """The COCO panoptic JSON in a folder, a file for each split, or the one at ``path``.

    Raises:
        InputError: two files are of one split.
    """
    if path.is_file():
        files, root = ([path] if path.suffix.lower() == ".json" else []), path.parent
    else:
        files, root = [followed(f) for f in files_below(path, lambda n: n.lower().endswith(".json"), levels=1)], path
    files = [file for file in files if is_panoptic(file)]
    splits: dict[str, Path] = {}
    for file in files:
        split = file.stem.removeprefix("panoptic_") or file.stem
        if split in splits and not splits[split].samefile(file):
            raise InputError(f"{file} and {splits[split]} are both of the split {split!r}: rename or remove one")
        splits[split] = file
    if not splits:
        return None
    readers = {split: _reader(file, split, root) for split, file in splits.items()}
    return Found(str(next(iter(splits.values())).relative_to(root)), readers)


def _reader(file: Path, split: str, root: Path) -> Reader:
    base = root.parent if file.parent == root and root.name == "annotations" else root
    # Also beside the data folder: the images are those of COCO's other annotations.
    places = [folder / name for folder in (base, base.parent) for name in (split, f"images/{split}", "images", "")]

    def read(names: Sequence[str] | None) -> Dataset:
        there = [folder for folder in dict.fromkeys(places) if folder.is_dir()]
        masks = [file.with_suffix(""), file.parent / split, file.parent / f"panoptic_{split}", base / "panoptic"]
        masks += [base / file.stem, file.parent]
        return read_panoptic(file, there, [folder for folder in masks if folder.is_dir()], split, names)

    return read
