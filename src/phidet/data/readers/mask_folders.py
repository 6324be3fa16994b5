"""Masks as images, a folder for each class: ``masks/CLASS/NAME.png`` for ``images/NAME.jpg``.

A mask is one object where all its pixels that are not 0 have one value; otherwise each value is an object. Several
files of one image are ``NAME_1.png``, ``NAME-2.png``, …
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from phidet.core.errors import InputError
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Dataset
from phidet.data.listing import files_below, followed, is_image, same_name, subfolders
from phidet.data.mask_labels import MaskLabel, image_label
from phidet.detections.masks import Masks
from phidet.images.decode import image_size_or_error
from phidet.images.label_image import read_label_image

_NUMBER = re.compile(r"[ _.-]\(?\d+\)?$")  # of several masks of one image
_MOST = 4096  # objects in one file; a photograph among the masks has more values


class _Object(NamedTuple):
    label: MaskLabel
    box_xyxy: tuple[float, float, float, float]
    area: int


def read_mask_folders(images: Path, masks: Path, root: Path, name: str, class_names: Sequence[str]) -> Dataset:
    """The images of a split with the objects that their masks show; an image without a mask has none.

    Args:
        images: the folder of images.
        masks: the folder with a folder of masks for each class.
        root: the data folder, which names of images are relative to.
        name: of the split.
        class_names: the classes to read, by name.
    """
    collector = Collector(name, root, class_names)
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for file in files_below(images, is_image):
        by_stem[same_name(str(file.relative_to(images).with_suffix("")))].append(file)
    for alike in by_stem.values():
        if len(alike) > 1:
            what = f"its masks are also those of {', '.join(file.name for file in alike[1:])}: each has their objects"
            collector.problem("label shared", alike[0], what)
    files: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for folder in subfolders(masks):
        for file in files_below(folder, is_image):
            stem = same_name(str(file.relative_to(folder).with_suffix("")))
            # A name may end in a number of its own: that of an image goes before that of several masks of one.
            owner = stem if stem in by_stem else _NUMBER.sub("", stem)
            if owner in by_stem:
                files[owner].append((folder.name, file))
            else:
                collector.problem("label unreadable", file, f"there is no image {stem} in {images}; left out")
    order = [(stem, file) for stem, alike in by_stem.items() for file in alike]
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(lambda item: image_size_or_error(followed(item[1])), order)
        contents = pool.map(lambda item: [_objects(followed(file)) for _, file in files[item[0]]], order)
        for (stem, file), size_hw, found in zip(order, sizes, contents, strict=True):
            if isinstance(size_hw, InputError):
                collector.problem("image unreadable", followed(file), f"{size_hw}; left out")
                continue
            known = str(file.relative_to(root)) if file.is_relative_to(root) else str(followed(file))
            collector.add(known, followed(file), size_hw, _raw(files[stem], found, size_hw, collector))
    return collector.dataset()


def _raw(
    files: Sequence[tuple[str, Path]],
    contents: Sequence[tuple[tuple[int, int], list[_Object]] | InputError],
    size_hw: tuple[int, int],
    collector: Collector,
) -> Iterator[RawObject]:
    for (class_name, file), content in zip(files, contents, strict=True):
        if isinstance(content, InputError):
            collector.problem("label unreadable", file, f"{content}; left out")
        elif content[0] != size_hw:
            (own_height, own_width), (height, width) = content[0], size_hw
            what = f"it has {own_width}×{own_height} pixels, its image {width}×{height}; left out"
            collector.problem("mask invalid", file, what)
        else:
            for one in content[1]:
                yield RawObject(str(file), one.box_xyxy, class_name, area=one.area, mask=one.label)


def _objects(file: Path) -> tuple[tuple[int, int], list[_Object]] | InputError:
    """Size and objects of a mask."""
    try:
        image = read_label_image(file)
    except InputError as error:
        return error
    values = np.unique(image)
    values = values[values != 0]
    if len(values) > _MOST:
        return InputError(f"{file} has {len(values):,} values: expected a mask, or ids of objects")
    found = Masks.from_ids(image, values)
    size_hw = found.size_hw
    boxes, areas = found.boxes_xyxy.tolist(), found.areas.tolist()
    labels = [image_label(file)] if len(values) == 1 else [image_label(file, int(value)) for value in values]
    return size_hw, [_Object(*one) for one in zip(labels, map(tuple, boxes), areas, strict=True)]
