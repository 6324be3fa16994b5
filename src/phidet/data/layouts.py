"""Recognises the layout of a data folder, and finds its splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

from phidet.core.errors import InputError, UnknownNameError
from phidet.core.words import few
from phidet.data.class_folders import find_class_folders
from phidet.data.data_folder import (
    LAYOUT_NAMES,
    TEST_SPLITS,
    TRAIN_SPLITS,
    VAL_SPLITS,
    DataFolder,
    Found,
    Layout,
    Reader,
)
from phidet.data.dataset import Dataset
from phidet.data.finders.coco import find_coco
from phidet.data.finders.masks import find_masks
from phidet.data.finders.panoptic import find_panoptic
from phidet.data.finders.tfrecord import find_tfrecord
from phidet.data.finders.voc import find_voc
from phidet.data.finders.yolo import find_yolo
from phidet.data.finders.yolo_files import YoloFiles
from phidet.data.listing import files_below, followed, visible
from phidet.data.readers.yolo import ClassLists, read_yolo

_FINDERS: dict[Layout, Callable[[Path], Found | None]] = {
    "voc": find_voc,
    "yolo": find_yolo,
    "coco": find_coco,
    "tfrecord": find_tfrecord,
    "panoptic": find_panoptic,
    "masks": find_masks,
    "folders": find_class_folders,
}
_OF_LAYOUTS = {*TRAIN_SPLITS, *VAL_SPLITS, *TEST_SPLITS, "annotations", "images", "jpegimages", "labels", "masks"}
"""Names of folders that are a part of a layout, and no wrapping around it."""
_SECOND: tuple[Layout, ...] = ("panoptic", "masks")
"""Layouts that may lie beside another one of the same images, which then is taken unless these are asked for."""


def open_data(path: str | Path, layout: Layout | None = None) -> DataFolder:
    """Finds the layout and the splits of a data folder or file by what its files hold; decodes no images.

    Hidden files, and what systems leave beside data (``._photo.jpg``, ``__MACOSX``), are no part of the data.

    Args:
        path: a folder, or a COCO JSON, ``data.yaml``, ``obj.data``, list of images or TFRecord file.
        layout: how the data are laid out, where the files fit several layouts; "folders" takes a folder of images for
            each class as images of one object that fills them. Recognised unless given.

    Raises:
        InputError: there is nothing at ``path``; it fits no layout, several, or not the one that is asked for; or its
            labels are damaged.
        UnknownNameError: there is no such layout.
    """
    path = Path(path)
    if layout is not None and layout not in get_args(Layout):
        raise UnknownNameError("layout", layout, get_args(Layout))
    if not path.exists():
        raise InputError(f"there is no data at {path}: no such file or folder")
    if layout != "folders":  # where each folder is a class
        path = _unwrapped(path)
    found = _find(path, layout)
    if found is not None:
        return DataFolder(path, *found)
    if layout is not None:
        raise InputError(f"{path} holds no data in the layout {layout} ({LAYOUT_NAMES[layout]})")
    raise InputError(
        f"{path} is in no layout that phidet knows: expected COCO JSON (annotations/*.json), Pascal VOC "
        "(Annotations/*.xml), YOLO (data.yaml, obj.data, or images/ and labels/), *.tfrecord, COCO panoptic "
        "(annotations/panoptic_*.json), or masks (images/ and masks/CLASS/). "
        f"Folders of images for each class are for 'phidet train --task classify'{_empty_labels(path)}"
    )


def _empty_labels(path: Path) -> str:
    """Files that could be labels, and hold nothing: an export or a copy that was broken off."""
    endings = (".json", ".xml", ".yaml", ".yml", ".tfrecord")
    files = [path] if path.is_file() else files_below(path, lambda name: name.lower().endswith(endings))
    empty = [str(file) for file in files if followed(file).is_file() and followed(file).stat().st_size == 0]
    return f". Empty: {few(sorted(empty), 3)}" if empty else ""


def _unwrapped(path: Path) -> Path:
    """The folder with the data in it, where an archive unpacked into a folder in a folder."""
    # Archives often unpack into one folder inside another, several levels deep.
    while path.is_dir():
        inside = visible(path)
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].name.casefold() in _OF_LAYOUTS:
            break
        path = inside[0]
    return path


def _find(path: Path, layout: Layout | None) -> tuple[Layout, Mapping[str, Reader]] | None:
    """The layout that fits, and its readers; ``None`` where none does.

    Raises:
        InputError: several layouts fit, or files that could decide are damaged.
    """
    if layout is not None:
        found = _FINDERS[layout](path)
        return None if found is None else (layout, found.readers)
    candidates: dict[Layout, Found] = {}
    damaged: InputError | None = None
    # All finders run, even after a match: data that fit two layouts must be reported, not guessed.
    for name, find in _FINDERS.items():
        if name == "folders":  # any folders of images would do: the user must say that their names are classes
            continue
        try:
            found = find(path)
        except InputError as error:  # of files that may lie beside data in another layout
            damaged = damaged or error
            continue
        if found is not None:
            candidates[name] = found
    # COCO's folder may have its panoptic labels beside the boxes, any data a folder of masks made from them.
    others = {name: found for name, found in candidates.items() if name not in _SECOND and found.certain}
    candidates = others or candidates
    # Content beats names: YOLO's folders beside a COCO file, say, do not make the data ambiguous.
    if any(found.certain for found in candidates.values()):
        candidates = {name: found for name, found in candidates.items() if found.certain}
    elif damaged is not None:
        raise damaged
    if len(candidates) > 1:
        fits = " and ".join(f"{LAYOUT_NAMES[name]} ({found.evidence})" for name, found in candidates.items())
        options = " or ".join(f"--layout {name}" for name in candidates)
        raise InputError(f"{path} fits {len(candidates)} layouts, {fits}: choose one with {options}")
    return next(((name, found.readers) for name, found in candidates.items()), None)


def read_images(folder: Path) -> Dataset:
    """All images below a folder, without objects: for calibration and the like, which need no labels.

    Raises:
        InputError: there is none.
    """
    items = [item._replace(label=None) for item in YoloFiles(folder).in_folder(folder)]
    dataset = read_yolo(items, folder, folder.name, class_names=(), own=ClassLists(()))
    if not len(dataset):
        raise InputError(f"there are no images in {folder}, and no data in a layout that phidet knows")
    return dataset
