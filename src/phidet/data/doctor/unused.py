"""Files that lie in the data folder and that no split uses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from phidet.data.data_folder import DataFolder
from phidet.data.dataset import Dataset
from phidet.data.finders.class_lists import is_class_list
from phidet.data.finders.voc import holds_annotation
from phidet.data.finders.yolo_files import YoloFiles
from phidet.data.listing import files_below, followed, is_image
from phidet.data.readers.voc_masks import CLASSES, OBJECTS
from phidet.data.readers.yolo import could_hold_labels
from phidet.images.formats import other_image


def unused_files(folder: DataFolder, datasets: Sequence[Dataset], mentioned: Iterable[str]) -> list[str]:
    """Images that no split lists, and labels (YOLO, VOC) without an image, relative to the data folder.

    Args:
        folder: the data.
        datasets: its splits.
        mentioned: ``where`` of the problems; what is named there is not named again.
    """
    # A file names what it wants of a folder that may hold more; a TFRecord holds its images itself.
    if folder.path.is_file() or folder.layout == "tfrecord":
        return []
    sources = (source for dataset in datasets for source in dataset.sources)
    images = {source.resolve() for source in sources if isinstance(source, Path)}
    masks = (labels.files for dataset in datasets if (labels := dataset.all_annotations.mask_labels) is not None)
    used = images.union(*({file.resolve() for file in files} for files in masks))
    named = {file_of(where) for where in mentioned}
    # By stem, so that the image of a label that was reported is not reported again.
    known = {path.stem for path in named}
    found = [
        path
        for path in files_below(folder.path, lambda _: True)
        if (is_image(path.name) or other_image(followed(path)) is not None)
        and path.stem not in known
        and followed(path).resolve() not in used
    ]
    if folder.layout == "yolo":
        found += _unused_texts(folder.path, datasets, named)
    if folder.layout == "voc":
        stems = known | {path.stem for path in images}
        # Where objects have masks, those of their classes are not read, and belong to the image all the same.
        found = [path for path in found if not (path.parent.name in (OBJECTS, CLASSES) and path.stem in stems)]
        xml_files = files_below(folder.path, lambda name: name.lower().endswith(".xml"))
        found += [path for path in xml_files if path.stem not in stems and holds_annotation(followed(path))]
    return [str(path.relative_to(folder.path)) for path in sorted(found)]


def file_of(where: str) -> Path:
    """The file in a problem's ``where``, without the line, index or id in it."""
    return Path(where.rsplit(", ", 1)[0])


def _unused_texts(root: Path, datasets: Sequence[Dataset], named: Iterable[Path]) -> list[Path]:
    """YOLO's label files that belong to no image of the ``datasets`` and to no image or file that is ``named``."""
    files = YoloFiles(root)
    images = [*(root / str(name) for dataset in datasets for name in dataset.names), *named]
    labels = (files.item(image).label for image in images)
    used = {os.path.realpath(label) for label in labels if label is not None}
    used |= {os.path.realpath(path) for path in named if "\0" not in str(path)}  # which a list may hold, but no path
    texts = files_below(root, lambda name: name.lower().endswith(".txt") and not is_class_list(name))
    return [
        path for path in texts if os.path.realpath(followed(path)) not in used and could_hold_labels(followed(path))
    ]
