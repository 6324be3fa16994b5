"""COCO panoptic: ``annotations/panoptic_SPLIT.json`` with a folder of PNGs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from phidet.data.data_folder import Found
from phidet.data.dataset import Dataset
from phidet.data.finders.coco import add_split, json_files
from phidet.data.readers.panoptic import is_panoptic, read_panoptic


def find_panoptic(path: Path) -> Found | None:
    """The COCO panoptic JSON in a folder, a file for each split, or the one at ``path``.

    Raises:
        InputError: two files are of one split.
    """
    files, root = json_files(path)
    splits: dict[str, Path] = {}
    for file in filter(is_panoptic, files):
        add_split(splits, file.stem.removeprefix("panoptic_") or file.stem, file)
    if not splits:
        return None
    evidence = next(iter(splits.values())).relative_to(root)
    return Found(str(evidence), {split: partial(_read, file, split, root) for split, file in splits.items()})


def _read(file: Path, split: str, root: Path, names: Sequence[str] | None) -> Dataset:
    base = root.parent if file.parent == root and root.name == "annotations" else root
    # Also beside the data folder: the images are those of COCO's other annotations.
    images = [folder / name for folder in (base, base.parent) for name in (split, f"images/{split}", "images", "")]
    # COCO's archives unpack into a folder called as the JSON; other tools have one for all splits, or none.
    masks = [file.with_suffix(""), file.parent / split, file.parent / f"panoptic_{split}", base / "panoptic"]
    masks += [base / file.stem, file.parent]
    images, masks = ([place for place in dict.fromkeys(places) if place.is_dir()] for places in (images, masks))
    return read_panoptic(file, images, masks, split, names)
