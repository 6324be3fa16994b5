"""COCO JSON: one file per split, images somewhere beside it."""

from __future__ import annotations

import codecs
import json
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from phidet.core.errors import InputError
from phidet.data.dataset import Collector, Dataset, RawObject
from phidet.images.decode import image_size

_REQUIRED = {"images", "annotations", "categories"}


def is_coco(path: Path) -> bool:
    """Whether the file begins like COCO JSON; broken ones do too, and their reader says what is wrong."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError:  # a folder, a dangling link
        return False
    return head.startswith(b"{") and any(f'"{key}"'.encode() in head for key in _REQUIRED)


def read_coco(path: Path, folders: Sequence[Path], name: str, class_names: Sequence[str] | None = None) -> Dataset:
    """The images that ``path`` lists.

    Args:
        path: the JSON file.
        folders: where its images may lie, the likeliest first.
        name: of the split.
        class_names: the classes to read, by name; unless given, the file's categories in the order of their ids.

    Raises:
        InputError: the file is not COCO JSON.
    """
    content = _load(path)
    names_by_id = _categories(content["categories"], path)
    collector = Collector(name, path.parent, class_names or list(names_by_id.values()))
    if class_names is None:
        ids = list(names_by_id)
        if _whole(ids) and max(ids) - min(ids) >= len(ids):
            collector.problem("category ids with gaps", path, f"ids {_few(ids)} became 0…{len(ids) - 1}, by name")
    objects = _objects(content["annotations"], names_by_id, path, collector)
    ids_listed = (image.get("id") for image in content["images"] if isinstance(image, dict))
    listed = {i for i in ids_listed if isinstance(i, Hashable)}
    for image_id in [i for i in objects if i not in listed]:
        where = objects.pop(image_id)[0].where
        collector.problem("label unreadable", where, f"image_id {image_id!r} is not among the images; left out")
    seen: set[Any] = set()
    for i, image in enumerate(content["images"]):
        where = f"{path}, images[{i}]"
        try:
            image_id, file_name = image["id"], str(image["file_name"])
            again = image_id in seen
            seen.add(image_id)
        except (TypeError, KeyError) as error:
            collector.problem("label unreadable", where, f"expected an id and a file_name ({error!r}); left out")
            continue
        if again:
            collector.problem("image repeated", where, f"id {image_id!r} is used more than once; the first one counts")
            continue
        _add_image(image, file_name, where, folders, objects.get(image_id, []), collector)
    return collector.dataset()


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    missing = _REQUIRED - content.keys() if isinstance(content, dict) else _REQUIRED
    if missing or not all(isinstance(content[key], list) for key in _REQUIRED):
        raise InputError(f"{path} is not COCO JSON: expected lists named images, annotations, categories")
    lists: dict[str, list[Any]] = content
    return lists


def _categories(categories: list[Any], path: Path) -> dict[Any, str]:
    """Name by id, in the order of the ids."""
    found: dict[Any, str] = {}
    for i, category in enumerate(categories):
        try:
            category_id, name = category["id"], str(category["name"])
            hash(category_id)
        except (TypeError, KeyError) as error:
            raise InputError(f"{path}, categories[{i}]: expected an id and a name, got {category!r}") from error
        if category_id in found or name in found.values():
            raise InputError(f"{path}, categories[{i}]: id {category_id} or name {name!r} occurs twice")
        found[category_id] = name
    if not found:
        raise InputError(f"{path} has no categories: expected at least one class")
    return dict(sorted(found.items(), key=lambda item: (str(type(item[0])), item[0])))


def _whole(ids: list[Any]) -> bool:
    return all(isinstance(i, int) for i in ids)


def _few(items: list[Any]) -> str:
    return ", ".join(map(str, items if len(items) < 6 else [*items[:4], "…", items[-1]]))


def _objects(
    annotations: list[Any], names_by_id: dict[Any, str], path: Path, collector: Collector
) -> dict[Any, list[RawObject]]:
    """Objects by image id."""
    found: dict[Any, list[RawObject]] = defaultdict(list)
    for i, annotation in enumerate(annotations):
        where = f"{path}, annotations[{i}]"
        try:
            x, y, w, h = (float(value) for value in annotation["bbox"])
            image_id, category = annotation["image_id"], annotation["category_id"]
            area = annotation.get("area")
            raw = RawObject(
                where,
                (x, y, x + w, y + h),
                names_by_id.get(category, f"category {category!r}"),
                area=None if area is None else float(area),
                crowd=bool(annotation.get("iscrowd", 0)),
                difficult=bool(annotation.get("difficult", 0)),  # phidet's own key, for data that was VOC's
            )
            found[image_id].append(raw)
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            what = f"expected image_id, category_id and bbox [x, y, width, height] ({error!r}); left out"
            collector.problem("label unreadable", where, what)
    return found


def _add_image(
    image: dict[str, Any],
    file_name: str,
    where: str,
    folders: Sequence[Path],
    objects: Sequence[RawObject],
    collector: Collector,
) -> None:
    names = dict.fromkeys((file_name, file_name.replace("\\", "/")))  # the second: written on Windows
    tries = (folder / name for name in names for folder in folders)
    source = next((path for path in tries if _is_file(path)), None)
    if source is None:
        tried = ", ".join(str(folder) for folder in folders)
        collector.problem("image missing", where, f"no {file_name} in {tried}; left out")
        return
    height, width = image.get("height"), image.get("width")
    if isinstance(height, int) and isinstance(width, int) and 0 < height < 2**31 and 0 < width < 2**31:
        size = height, width
    else:
        try:
            size = image_size(source)
        except InputError as error:
            collector.problem("image unreadable", source, f"{error}; left out")
            return
    collector.add(file_name, source, size, objects)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for any file
        return False
