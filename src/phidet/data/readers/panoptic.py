"""COCO panoptic (cocodataset.org/#format-data): every pixel belongs to one segment, of a thing or of stuff.

The segments of an image are listed in the JSON; a PNG has the id of one at each pixel, as a colour. Things are
countable and have a segment each; all of one kind of stuff in an image, such as its sky, is one segment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phidet.core.errors import InputError
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import CocoIds, Dataset
from phidet.data.find_images import ImageFinder
from phidet.data.flags import flag
from phidet.data.mask_labels import image_label
from phidet.data.readers import coco
from phidet.data.text import contains

_SEGMENTS = re.compile(rb'"segments_info"\s*:\s*\[')


def is_panoptic(file: Path) -> bool:
    """Whether a JSON file, which may be large, lists segments."""
    return contains(file, _SEGMENTS)


def read_panoptic(
    path: Path, folders: Sequence[Path], masks: Sequence[Path], name: str, class_names: Sequence[str] | None = None
) -> Dataset:
    """The images that ``path`` lists, with every segment as an object.

    Args:
        path: the JSON file.
        folders: where its images may lie, the likeliest first.
        masks: where its PNGs may lie.
        name: of the split.
        class_names: the classes to read, by name; unless given, the file's categories in the order of their ids.

    Raises:
        InputError: the file is not COCO panoptic JSON.
    """
    content = coco.load(path)
    names_by_id, things = _categories(content, path)
    collector = Collector(name, path, class_names or list(names_by_id.values()), in_pixels=True)
    listed = coco.listed(content["images"], path, collector)
    found = coco.located(listed, path, ImageFinder(folders, name, path), collector)
    names: dict[int, str] = {}
    annotated: set[Any] = set()
    image_ids, category_ids = coco.Ids(listed), coco.Ids(names_by_id)
    for i, annotation in enumerate(content["annotations"]):
        where = f"{path}, annotations[{i}]"
        try:
            image_id, file_name = image_ids(annotation["image_id"]), str(annotation["file_name"])
            segments = list(annotation["segments_info"])
            is_listed = image_id in listed
        except (TypeError, KeyError) as error:
            what = f"expected image_id, file_name and segments_info ({error!r}); left out"
            collector.problem("label unreadable", where, what)
            continue
        if not is_listed:
            collector.problem("label unreadable", where, f"image_id {image_id!r} is not among the images; left out")
        if image_id not in found:
            continue
        annotated.add(image_id)
        # The PNG is named by the JSON, but the folder that holds it is not.
        png = next((folder / file_name for folder in masks if (folder / file_name).is_file()), None)
        if png is None:
            collector.problem("label unreadable", where, f"there is no {file_name} beside {path.name}; left out")
            continue
        image, source, size_hw = found[image_id]
        objects = _objects(segments, png, (category_ids, names_by_id), where, collector)
        names[image_id] = collector.add(image.name, source, size_hw, objects)
    for image_id in (i for i in found if i not in annotated):  # in the file's order
        collector.problem("label unreadable", listed[image_id].where, "no annotation is about it; left out")
    dataset = collector.dataset()
    dataset.coco_ids = CocoIds(names, names_by_id)
    # Unless the JSON says that a class is stuff, it is a thing: things are also measured one by one.
    dataset.stuff = frozenset(i for i, class_name in enumerate(dataset.class_names) if things.get(class_name) is False)
    return dataset


def _categories(content: dict[str, list[Any]], path: Path) -> tuple[dict[int, str], dict[str, bool]]:
    """Name by id, in the order of the ids; and whether each name is that of a thing."""
    found: list[tuple[int, str]] = []
    things: dict[str, bool] = {}
    for i, category in enumerate(content["categories"]):
        try:
            found.append((int(category["id"]), coco.class_name(category["name"])))
            things[found[-1][1]] = flag(category.get("isthing", 1))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}, categories[{i}]: expected an id, a name and isthing 0 or 1, got {category!r}"
            ) from error
    return coco.names_by_id(found, path), things


def _objects(
    segments: Sequence[Any], png: Path, categories: tuple[coco.Ids, dict[int, str]], where: str, collector: Collector
) -> Iterator[RawObject]:
    ids, names_by_id = categories
    for k, segment in enumerate(segments):
        place = f"{where}, segments_info[{k}]"
        try:
            x, y, w, h = (float(value) for value in segment["bbox"])
            category, number = ids(segment["category_id"]), int(segment["id"])
            yield RawObject(
                place,
                (x, y, x + w, y + h),
                names_by_id.get(category, f"category {category!r}"),
                area=float(segment["area"]) if "area" in segment else None,
                crowd=flag(segment.get("iscrowd")),
                mask=image_label(png, number),
            )
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            what = f"expected id, category_id and bbox [x, y, width, height] ({error!r}); left out"
            collector.problem("label unreadable", place, what)
