"""COCO JSON, recognised by the lists in it: ``annotations/*.json``, a file in each split's folder, or a file alone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from phidet.core.errors import InputError
from phidet.data.data_folder import Found, Reader
from phidet.data.dataset import Dataset
from phidet.data.listing import files_below, followed
from phidet.data.readers import coco
from phidet.data.readers.panoptic import is_panoptic
from phidet.data.text import contains

_OTHERS = re.compile("(captions|person_keypoints|stuff|panoptic)_")
_LISTS = tuple(re.compile(rb'"%s"\s*:\s*\[' % key) for key in (b"images", b"annotations", b"categories"))
_UNNAMED = ("_annotations.coco", "annotations", "labels")
"""File names without the name of a split; Roboflow's among them."""


def find_coco(path: Path) -> Found | None:
    """The COCO JSON in a folder, a file for each split, or the one at ``path``.

    Raises:
        InputError: two files are of one split.
    """
    files, root = json_files(path)
    # The usual place first, so that its files are the ones named as evidence.
    files.sort(key=lambda file: file.parent.name != "annotations")
    found = [file for file in files if coco.is_coco(file) and not is_panoptic(file)]
    whole = [file for file in found if contains(file, *_LISTS)]
    if whole:  # what is cut off among them is a split that its reader cannot read; anything else is about other things
        found = [file for file in found if file in whole or _is_cut_off(file)]
    splits: dict[str, Path] = {}
    readers: dict[str, Reader] = {}
    for file in found:
        # COCO names its files by split; Roboflow gives all the same name, in a folder for each split.
        split = file.parent.name if file.stem in _UNNAMED else file.stem.removeprefix("instances_")
        if _OTHERS.match(split) and file.with_name(_OTHERS.sub("instances_", file.name)).is_file():
            continue  # COCO's captions and keypoints are of the images that the instances are of
        add_split(splits, split, file)
        base = root.parent if path.is_file() and file.parent.name == "annotations" else root
        # Where the images of COCO, Roboflow, Label Studio and CVAT lie, the likeliest first.
        folders = [base / split, base / "images" / split, file.parent, file.parent / "images", base / "images", base]
        readers[split] = partial(_read, file, folders, split, None if path.is_file() else path)
    if not splits:
        return None
    first = next(iter(splits.values()))
    return Found(str(first.relative_to(root)), readers, certain=bool(whole))


def json_files(path: Path) -> tuple[list[Path], Path]:
    """The JSON files in a folder and the folders in it, or the one at ``path``; and the data folder."""
    if path.is_file():
        return ([path] if _is_json(path.name) else []), path.parent
    return [followed(file) for file in files_below(path, _is_json, levels=1)], path


def add_split(splits: dict[str, Path], split: str, file: Path) -> None:
    """Notes the file of a split.

    Raises:
        InputError: it has another one already.
    """
    # The same file may be found twice, through a link.
    if not splits.setdefault(split, file).samefile(file):
        raise InputError(f"{file} and {splits[split]} are both of the split {split!r}: rename or remove one")


def _is_json(name: str) -> bool:
    return name.lower().endswith(".json")


def _read(file: Path, folders: Sequence[Path], split: str, within: Path | None, names: Sequence[str] | None) -> Dataset:
    there = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    return coco.read_coco(file, there, split, names, within)


def _is_cut_off(file: Path) -> bool:
    """Whether a file that begins with a brace does not end with one."""
    with file.open("rb") as stream:
        # Tools end a file with line breaks; a copy that was cut off may be filled with zeros.
        stream.seek(-min(file.stat().st_size, 64), os.SEEK_END)
        return not stream.read().rstrip(b"\0 \t\r\n").endswith(b"}")
