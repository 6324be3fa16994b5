"""TFRecord shards as the official converters write them: encoded image, boxes in fractions, class names.

TensorFlow Datasets' records are read as well: their features have other names, which become the official ones here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar, cast

from phidet.core.errors import InputError
from phidet.core.words import few
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Dataset
from phidet.data.label_map import read_label_map
from phidet.data.listing import visible
from phidet.data.mask_labels import IN_RECORD, NO_MASK, record_label
from phidet.data.text import read_lines
from phidet.data.tfrecord_file import ENCODED_IMAGE, RecordImage, Value, parse_example, scan
from phidet.images.decode import encoded, image_size

_BOX = tuple(f"image/object/bbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax"))
_LABEL, _TEXT = "image/object/class/label", "image/object/class/text"
_AREA, _CROWD, _DIFFICULT = "image/object/area", "image/object/is_crowd", "image/object/difficult"
_GROUP = "image/object/group_of"  # Open Images: a box around many objects, as a crowd is
_KNOWN = frozenset({*_BOX, _LABEL, _TEXT})
# Features of TensorFlow Datasets, and what they are called in the official records.
_TFDS_BOXES, _TFDS_LABELS = "objects/bbox", "objects/label"
_TFDS = {"objects/area": _AREA, "objects/is_crowd": _CROWD, "objects/is_difficult": _DIFFICULT}
_LABEL_MAP = re.compile(r"(label|class|map).*\.pbtxt$", re.IGNORECASE)
_TFDS_CLASSES = "objects-label.labels.txt"
MOST_CLASSES = 10_000
T = TypeVar("T")
_LARGEST_FRACTION = 2.0  # a box may reach out of the image, but not by its whole side; beyond that it is in pixels


def own_class_names(shards: Sequence[Path], every: Sequence[Path], root: Path) -> list[str]:
    """What the labels 1, 2, … of some shards are called.

    The names come from a label map, beside the shards or else beside those of other splits or in the data folder; from
    the class list of TensorFlow Datasets; or from the texts in all records.

    Args:
        shards: of one split.
        every: the shards of all splits.
        root: the data folder.

    Raises:
        InputError: the label map cannot be read, or a label stands for two names.
    """
    folders = [shard.parent for shard in (*shards, *every)]
    for folder in dict.fromkeys([*folders, root, root / "annotations"]):
        # In folders of data sets there may be thousands of shards: one listing finds both kinds of files.
        names = sorted(path.name for path in visible(folder)) if folder.is_dir() else []
        maps = [name for name in names if _LABEL_MAP.search(name)]
        if maps:
            return read_label_map(folder / maps[0])
        if _TFDS_CLASSES in names:
            return read_lines(folder / _TFDS_CLASSES)
    return scan_class_names(every)


def scan_class_names(shards: Sequence[Path]) -> list[str]:
    """The classes in the order of their labels (1-based in the files); those that never occur are ``class-N``.

    Classes that are only named, in records without labels, follow in alphabetical order.

    Raises:
        InputError: a label stands for two names.
    """
    names: dict[int, str] = {}
    without_label: set[str] = set()
    for shard in shards:
        for _, payload in _records(shard, None):
            try:
                example = _official(parse_example(payload))
            except InputError:
                continue  # reported when the record is read
            labels, texts = example.get(_LABEL, []), example.get(_TEXT, [])
            if not labels:
                without_label |= {_class_text(text) for text in texts if isinstance(text, bytes) and text}
            for label, text in zip_longest(labels, texts):
                if isinstance(label, int) and 1 <= label <= MOST_CLASSES:
                    name = _class_text(text) if isinstance(text, bytes) and text else f"class-{label - 1}"
                    if names.setdefault(label, name) != name:
                        raise InputError(f"{shard}: label {label} is both {names[label]!r} and {name!r}")
    labelled = [names.get(label, f"class-{label - 1}") for label in range(1, max(names, default=0) + 1)]
    return [*labelled, *sorted(without_label - set(labelled))]


def read_tfrecord(
    shards: Sequence[Path], root: Path, name: str, *, class_names: Sequence[str], own_names: Sequence[str]
) -> Dataset:
    """The images inside the ``shards``.

    Args:
        shards: TFRecord files; what follows a damaged record of one is left out.
        root: the data folder.
        name: of the split.
        class_names: the classes to read, by name.
        own_names: what the labels 1, 2, … of the files are called.
    """
    collector = Collector(name, root, class_names)
    for shard in shards:
        for offset, payload in _records(shard, collector):
            where = f"{shard}, byte {offset}"
            source = RecordImage(shard, offset)
            try:
                example = _official(parse_example(payload))
                image = next(iter(_values(example, ENCODED_IMAGE[0], bytes)), None)
                if not image:
                    raise InputError(f"it holds no {ENCODED_IMAGE[0]}; its features are {few(sorted(example), 8)}")
                size = _size(example, image, source, collector)
            except InputError as error:
                collector.problem("image unreadable", where, f"{error}; left out")
                continue
            try:
                image_name = _unique_name(_names(example), source, image, collector)
                objects = list(_objects(example, source, size, own_names, collector))
            except InputError as error:  # an image without its objects would teach that there are none
                collector.problem("label unreadable", where, f"{error}; left out")
                continue
            collector.add(image_name, collector.source(image_name) or source, size, objects)
    return collector.dataset()


def _records(shard: Path, collector: Collector | None) -> Iterator[tuple[int, bytes]]:
    """The records up to the first damaged one."""
    try:
        yield from scan(shard)
    except InputError as error:
        if collector is not None:
            collector.problem("label unreadable", shard, f"{error}; the file is left out from there on")


def _official(example: dict[str, Value]) -> dict[str, Value]:
    """The features by their official names.

    Raises:
        InputError: boxes of TensorFlow Datasets are not made of four numbers each.
    """
    if not example.get(ENCODED_IMAGE[0]) and ENCODED_IMAGE[1] in example:
        example[ENCODED_IMAGE[0]] = example.pop(ENCODED_IMAGE[1])
    if _TFDS_BOXES not in example:
        return example
    boxes, labels = _values(example, _TFDS_BOXES, float), _values(example, _TFDS_LABELS, int)
    if len(boxes) % 4:
        raise InputError(f"{_TFDS_BOXES} has {len(boxes)} numbers, expected four for each box")
    for start, key in enumerate(("ymin", "xmin", "ymax", "xmax")):
        # TensorFlow Datasets interleave ymin, xmin, ymax, xmax in one list.
        example[f"image/object/bbox/{key}"] = boxes[start::4]
    # Their labels count from 0, the official ones from 1.
    example[_LABEL] = [label + 1 for label in labels]
    for theirs, official in _TFDS.items():
        if theirs in example:
            example[official] = example[theirs]
    return example


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _class_text(value: bytes) -> str:
    """A class name, of which Unicode has two forms."""
    return unicodedata.normalize("NFC", _text(value))


def _values(example: dict[str, Value], key: str, kind: type[T]) -> list[T]:
    """The values of a feature, none where it is missing.

    Raises:
        InputError: they are of another kind.
    """
    values = example.get(key, [])
    # Some writers have whole numbers where fractions belong.
    if values and not isinstance(values[0], (kind, int) if kind is float else kind):
        raise InputError(f"{key} should hold {kind.__name__}, it holds {type(values[0]).__name__}")
    return cast("list[T]", values)


def _names(example: dict[str, Value]) -> list[str]:
    """What a record calls its image: the file, and the number or path in the set that it comes from."""
    names = [*_values(example, "image/filename", bytes)[:1], *_values(example, "image/source_id", bytes)[:1]]
    return [_text(name) for name in names if name]


def _unique_name(names: Sequence[str], source: RecordImage, image: bytes, collector: Collector) -> str:
    """A name that no other image has: frames of several videos may all be called ``0.jpg``.

    The same image under the same name is one image, listed twice.
    """
    place = f"{source.path.name}@{source.offset}"
    if not names:
        return place
    earlier = collector.source(names[0])
    if earlier is None or encoded(earlier) == image:
        return names[0]
    # Told apart by the number or path in the set that it comes from, else by its place in the shard.
    file_name = names[0].rsplit("/", 1)[-1]
    longer = [f"{prefix}/{file_name}" for prefix in (*names[1:], place, f"{source.path}@{source.offset}")]
    return next(name for name in longer if collector.source(name) is None)


def _size(example: dict[str, Value], image: bytes, source: RecordImage, collector: Collector) -> tuple[int, int]:
    """Height and width of the image, of which boxes are fractions, whatever else the record says."""
    said = (*_values(example, "image/height", int)[:1], *_values(example, "image/width", int)[:1])
    try:
        own = image_size(image)
    except InputError:
        if len(said) == 2 and 0 < min(said) <= max(said) < 2**31:
            return said[0], said[1]  # what is wrong with it is said when it is decoded
        return image_size(source)  # which raises with its place
    # The sides of a turned image the other way round may mean that boxes are those of the image before it was turned.
    if said[::-1] == own != said:
        return said[0], said[1]
    if len(said) == 2 and said != own:
        what = f"its record says {said[1]}×{said[0]} pixels, it has {own[1]}×{own[0]}: these are used"
        collector.problem("image size corrected", f"{source.path}, byte {source.offset}", what)
    return own


def _objects(
    example: dict[str, Value],
    record: RecordImage,
    size_hw: tuple[int, int],
    own_names: Sequence[str],
    collector: Collector,
) -> Iterator[RawObject]:
    """The objects of a record.

    Raises:
        InputError: its lists are of different lengths or of wrong kinds, or it names its objects' features otherwise.
    """
    height, width = size_hw
    columns, labels = [_values(example, key, float) for key in _BOX], _values(example, _LABEL, int)
    texts = [] if labels else _values(example, _TEXT, bytes)  # some writers give names alone
    lengths = [len(labels) or len(texts), *map(len, columns)]
    # Lists that do not line up could assign boxes to the wrong classes.
    if len(set(lengths)) > 1:
        raise InputError(f"it has {lengths[0]} labels for {', '.join(map(str, lengths[1:]))} xmin, ymin, xmax, ymax")
    if not lengths[0] and (others := _other_objects(example)):
        raise InputError(f"it has no {_BOX[0]}, but {few(sorted(others), 8)}, which phidet does not know")
    areas, crowds, groups = _values(example, _AREA, float), _values(example, _CROWD, int), _values(example, _GROUP, int)
    hard, masks = _values(example, _DIFFICULT, int), _values(example, IN_RECORD, bytes)
    if masks and len(masks) != lengths[0]:
        raise InputError(f"it has {lengths[0]} objects and {len(masks)} values of {IN_RECORD}")
    for i, (x1, y1, x2, y2) in enumerate(zip(*columns, strict=True)):
        place = f"{record.path}, byte {record.offset}, object {i + 1}"
        # Pixels in place of fractions would otherwise become boxes far outside the image.
        if max(x1, y1, x2, y2) > _LARGEST_FRACTION:
            collector.problem("box invalid", place, "expected fractions of the image, 0…1, got pixels; left out")
            continue
        yield RawObject(
            place,
            (x1 * width, y1 * height, x2 * width, y2 * height),
            _text(texts[i]) if texts else _class_name(labels[i], own_names),
            area=areas[i] if i < len(areas) else None,
            crowd=any(bool(flags[i]) for flags in (crowds, groups) if i < len(flags)),
            difficult=bool(hard[i]) if i < len(hard) else False,
            mask=record_label(record.path, record.offset, i) if masks and masks[i] else NO_MASK,
        )


def _class_name(label: int, own_names: Sequence[str]) -> str:
    return own_names[label - 1] if 1 <= label <= len(own_names) else f"label {label}"


def _other_objects(example: dict[str, Value]) -> list[str]:
    """Features that are about objects in another spelling, where those that are known are missing."""
    if not _KNOWN.isdisjoint(example):
        return []
    # An image that only seems to have no objects would be learned as background.
    words = ("object", "bbox", "bndbox", "box")
    return [key for key, values in example.items() if values and any(word in key.lower() for word in words)]
