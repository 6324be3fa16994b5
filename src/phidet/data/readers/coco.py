"""COCO JSON: one file per split, images somewhere beside it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from phidet.core.errors import InputError
from phidet.core.words import count
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import CocoIds, Dataset
from phidet.data.find_images import ImageFinder
from phidet.data.flags import flag
from phidet.data.listing import path_parts
from phidet.data.mask_labels import NO_MASK, MaskLabel, coco_label, is_ring, polygons_label
from phidet.data.readers.coco_corners import refuse_corners
from phidet.data.text import read_text, unicode_encoding
from phidet.images.decode import image_size

_REQUIRED = {"images", "annotations", "categories"}


def is_coco(path: Path) -> bool:
    """Whether the file begins like COCO JSON; for damaged ones, too, the reader then reports what is wrong."""
    try:
        with path.open("rb") as file:
            content = file.read(1 << 16)
    except OSError:  # a folder, a dangling link
        return False
    head = content.decode(unicode_encoding(content), "ignore").lstrip()
    return head.startswith("{") and any(f'"{key}"' in head for key in _REQUIRED)


def read_coco(
    path: Path, folders: Sequence[Path], name: str, class_names: Sequence[str] | None = None, within: Path | None = None
) -> Dataset:
    """The images that ``path`` lists.

    Args:
        path: the JSON file.
        folders: where its images may lie, the likeliest first.
        name: of the split.
        class_names: the classes to read, by name; unless given, the file's categories in the order of their ids.
        within: the data folder, which is searched for images that are in none of ``folders``; unless given, those of
            ``folders`` that the file does not lie in are.

    Raises:
        InputError: the file is not COCO JSON, or its boxes are fractions or corners.
    """
    content = load(path)
    class_of, groups = _categories(content, path)
    collector = Collector(name, path, class_names or list(class_of.values()), in_pixels=True)
    if class_names is None:
        for group, members in groups.items():
            why = f"only groups {_few(members)}" if members else "is what lies between the objects"
            what = f"{group!r} has no objects and {why}: it is not used as a class"
            collector.problem("grouping category", path, what)
        ids = list(class_of)
        if _whole(ids) and max(ids) - min(ids) >= len(ids):
            collector.problem("category ids with gaps", path, f"ids {_few(ids)} became 0…{len(ids) - 1}, by name")
    tracked = _is_tracked(content)
    in_file = listed(content["images"], path, collector)
    known = _Known(Ids(in_file), Ids(class_of), class_of)
    objects = _objects(content["annotations"], known, collector, "track_id" if tracked else "group")
    # Objects of images that the file does not list: of another split, or of a file that was edited by hand.
    for image_id in [i for i in objects if i not in in_file]:
        lost = objects.pop(image_id)
        what = f"image_id {image_id!r} is not among the images; {count(len(lost), 'object')} left out"
        collector.problem("label unreadable", lost[0].where, what)
    read: list[tuple[tuple[int, int], list[RawObject]]] = []
    names: dict[Path, str] = {}
    names_of_images: dict[Any, str] = {}
    right: dict[str, bool] = {}
    finder = ImageFinder(folders, name, within or path)
    for image_id, (image, source, size_hw) in located(in_file, path, finder, collector).items():
        read.append((size_hw, objects.get(image_id, [])))
        # One file under two names is one image.
        names[source] = collector.add(names.get(source, image.name), source, size_hw, read[-1][1])
        names_of_images[image_id] = names[source]
        if image.right is not None:
            right[names[source]] = image.right
    refuse_corners(read, collector)
    dataset = collector.dataset()
    dataset.right = right
    dataset.frames = _frames(in_file, names_of_images) if tracked else {}
    # Ids that are text cannot stand in COCO's results, so that there is nothing to keep them for.
    if _whole([*names_of_images, *class_of]):
        dataset.coco_ids = CocoIds(names_of_images, class_of)
    return dataset


def load(path: Path) -> dict[str, list[Any]]:
    try:
        content: Any = json.loads(read_text(path))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    missing = _REQUIRED - content.keys() if isinstance(content, dict) else _REQUIRED
    if missing or not all(isinstance(content[key], list) for key in _REQUIRED):
        raise InputError(f"{path} is not COCO JSON: expected lists named images, annotations, categories")
    lists: dict[str, list[Any]] = content
    return lists


def _categories(content: dict[str, list[Any]], path: Path) -> tuple[dict[Any, str], dict[str, list[str]]]:
    """Name by id, in the order of the ids; and the members of categories that are no classes, by their name.

    Roboflow writes the name of the project as a category, which all classes have as their supercategory and no object
    has; others write the background as one. As classes these would take part in training without an example.
    """
    found: list[tuple[Any, str]] = []
    members: dict[str, list[tuple[Any, str]]] = defaultdict(list)
    for i, category in enumerate(content["categories"]):
        try:
            category_id, name = category["id"], class_name(category["name"])
            # A list or object as id would fail later, without the place in the file.
            hash(category_id)
            members[str(category.get("supercategory"))].append((category_id, name))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise InputError(f"{path}, categories[{i}]: expected an id and a name, got {category!r}") from error
        found.append((category_id, name))
    groups: dict[Any, list[str]] = {}
    for category_id, name in found:
        others = [member for i, member in members.get(name, ()) if i != category_id]
        if others or name.strip("_").lower() == "background":
            groups[category_id] = others
    if groups:
        # A group that has objects of its own is a class after all.
        ids = (a.get("category_id") for a in content["annotations"] if isinstance(a, dict))
        used = {category_id for category_id in ids if isinstance(category_id, Hashable)}
        groups = {i: others for i, others in groups.items() if i not in used}
    classes = [one for one in found if one[0] not in groups or len(groups) == len(found)]
    names = names_by_id(classes, path)
    return names, {name: groups[i] for i, name in found if i in groups and i not in names}


def class_name(value: Any) -> str:
    """The name of a category, which some tools write as a number.

    Raises:
        ValueError: it is something else, or blank.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"expected a name, got {value!r}")
    return str(value)


def names_by_id(categories: Sequence[tuple[Any, str]], path: Path) -> dict[Any, str]:
    """Names of categories in the order of their ids.

    Raises:
        InputError: an id or a name occurs twice, or there is no category.
    """
    names: dict[Any, str] = {}
    for category_id, name in categories:
        if category_id in names or name in names.values():
            raise InputError(f"{path}, categories: id {category_id} or name {name!r} occurs twice")
        names[category_id] = name
    if not names:
        raise InputError(f"{path} has no categories: expected at least one class")
    # By type first: ids may be numbers and text, which do not compare.
    return dict(sorted(names.items(), key=lambda item: (str(type(item[0])), item[0])))


def _whole(ids: list[Any]) -> bool:
    return all(isinstance(i, int) for i in ids)


def _few(items: list[Any]) -> str:
    return ", ".join(map(str, items if len(items) < 6 else [*items[:4], "…", items[-1]]))


class Ids:
    """Ids of images or categories, also where another part of the file writes numbers as text, or text as numbers."""

    def __init__(self, ids: Collection[Any]) -> None:
        self._ids, self._by_text = ids, {str(i): i for i in ids}

    def __call__(self, value: Any) -> Any:
        """The id that is meant; ``value`` itself where none is."""
        return value if value in self._ids else self._by_text.get(str(value), value)


class _Known(NamedTuple):
    """What annotations refer to."""

    image: Ids
    category: Ids
    class_of: dict[Any, str]


def _objects(annotations: list[Any], known: _Known, collector: Collector, group_key: str) -> dict[Any, list[RawObject]]:
    """Objects by image id; ``group_key`` says which of them belong together."""
    found: dict[Any, list[RawObject]] = defaultdict(list)
    for i, annotation in enumerate(annotations):
        where = f"{collector.root}, annotations[{i}]"
        try:
            x, y, w, h = (float(value) for value in annotation["bbox"])
            image_id, category = known.image(annotation["image_id"]), known.category(annotation["category_id"])
            area = annotation.get("area")
            raw = RawObject(
                where,
                (x, y, x + w, y + h),
                known.class_of.get(category, f"category {category!r}"),
                area=None if area is None else float(area),
                crowd=flag(annotation.get("iscrowd")),
                difficult=flag(annotation.get("difficult")),  # phidet's own key, for data that was VOC's
                mask=_mask(annotation.get("segmentation"), where, collector),
                turned=_turned(annotation),
                group=_group(annotation.get(group_key)),
            )
            found[image_id].append(raw)
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            what = f"expected image_id, category_id and bbox [x, y, width, height] ({error!r}); left out"
            collector.problem("label unreadable", where, what)
    return found


def _is_tracked(content: dict[str, list[Any]]) -> bool:
    """Whether objects have identities; these mean something only in frames of videos."""
    framed = any(isinstance(image, dict) and _frame(image) is not None for image in content["images"])
    tracks = (a.get("track_id") for a in content["annotations"] if isinstance(a, dict))
    return framed and any(_group(track) is not None for track in tracks)


def _group(value: Any) -> int | None:
    """phidet's own key: objects of one number belong together, for instance the parts of a module."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _turned(annotation: dict[str, Any]) -> float:
    """By how many degrees its box is turned: CVAT's attribute, beside a ``bbox`` as it was before."""
    attributes = annotation.get("attributes")
    degrees = attributes.get("rotation") if isinstance(attributes, dict) else None
    return float(degrees) if isinstance(degrees, int | float) and not isinstance(degrees, bool) else 0.0


def _mask(segmentation: Any, where: str, collector: Collector) -> MaskLabel:
    """The mask; tools leave an empty list where there is none."""
    if not segmentation:
        return NO_MASK
    try:
        return coco_label(segmentation)
    except InputError as error:
        # Tools leave a point or a line where a polygon was cut; the others are the object all the same.
        usable = [ring for ring in segmentation if is_ring(ring)] if isinstance(segmentation, list) else []
        rest = "the mask is made of the other polygons" if usable else "the object has its box only"
        collector.problem("mask invalid", where, f"{error}; {rest}")
        return polygons_label(usable) if usable else NO_MASK


class ListedImage(NamedTuple):
    """An image as it is listed.

    Attributes:
        where: its index in the file, for messages.
        file_name: as it is written.
        size_hw: pixels, ``None`` where the file does not say.
        right: whether what it shows is complete and right, phidet's own key; ``None`` where the file does not say.
        frame: the video that it is a frame of, and its number there; ``None`` where the file does not say.
    """

    where: str
    file_name: str
    size_hw: tuple[int, int] | None
    right: bool | None = None
    frame: tuple[str, int] | None = None

    @property
    def name(self) -> str:
        """The path without parts that lead out of the data folder: a drive, the root, ``..``."""
        return "/".join(path_parts(self.file_name)) or self.file_name


def listed(images: Sequence[Any], path: Path, collector: Collector) -> dict[Any, ListedImage]:
    """The images by id."""
    found: dict[Any, ListedImage] = {}
    for i, image in enumerate(images):
        where = f"{path}, images[{i}]"
        try:
            image_id, file_name = image["id"], str(image["file_name"])
            again = image_id in found
        except (TypeError, KeyError) as error:
            collector.problem("label unreadable", where, f"expected an id and a file_name ({error!r}); left out")
            continue
        if again:
            collector.problem("image repeated", where, f"id {image_id!r} is used more than once; the first one counts")
            continue
        height, width = image.get("height"), image.get("width")
        # Missing or absurd sizes are read from the image itself instead.
        known = isinstance(height, int) and isinstance(width, int) and 0 < height < 2**31 and 0 < width < 2**31
        right = image.get("right")
        size_hw = (height, width) if known else None
        known_right = bool(right) if right in (0, 1) else None
        found[image_id] = ListedImage(where, file_name, size_hw, known_right, _frame(image))
    return found


def _frames(images: Mapping[Any, ListedImage], names: Mapping[Any, str]) -> dict[str, tuple[str, int]]:
    """Name of an image → its video and number, of images that are frames."""
    framed = {names[image_id]: image.frame for image_id, image in images.items() if image_id in names}
    return {name: frame for name, frame in framed.items() if frame is not None}


def _frame(image: dict[str, Any]) -> tuple[str, int] | None:
    """The keys of COCO's extensions to videos: ``video_id`` and ``frame_id``."""
    video, frame = image.get("video_id"), image.get("frame_id")
    if not isinstance(video, int | str) or not isinstance(frame, int) or isinstance(frame, bool):
        return None
    return str(video), frame


def located(
    images: Mapping[Any, ListedImage], path: Path, finder: ImageFinder, collector: Collector
) -> dict[Any, tuple[ListedImage, Path, tuple[int, int]]]:
    """File and size of each image by id; those that are not there or cannot be read become problems."""
    sources = _find_sources(images.values(), path, finder, collector)
    found: dict[Any, tuple[ListedImage, Path, tuple[int, int]]] = {}
    for image_id, image in images.items():
        source = sources.get(image.file_name)
        try:
            if source is not None:
                found[image_id] = image, source, image.size_hw or image_size(source)
        except InputError as error:
            collector.problem("image unreadable", source, f"{error}; left out")
    return found


def _find_sources(
    images: Collection[ListedImage], path: Path, finder: ImageFinder, collector: Collector
) -> dict[str, Path]:
    """The image files by the name that is written; those that are not there become problems."""
    exact = {image.file_name: finder.exact(image.file_name) for image in images}
    sources = {name: source for name, source in exact.items() if source is not None}
    if len(sources) == len(exact):
        return sources
    search = finder.search([name for name, source in exact.items() if source is None], sources)
    if search.found:
        name, source = next(iter(search.found.items()))
        what = f"{len(search.found)} of {len(exact)} images are not where file_name says, and were found by their names"
        collector.problem("image found by name", path, f"{what}, for example {name!r} as {source}")
    for image in images:
        if exact[image.file_name] is None and image.file_name not in search.found:
            tried = ", ".join(str(folder) for folder in finder.folders)
            reason = search.reasons.get(image.file_name, f"it is not in {tried}")
            collector.problem("image missing", image.where, f"no {image.file_name}: {reason}; left out")
    return sources | search.found
