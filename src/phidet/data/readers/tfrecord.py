"""TFRecord shards as the official converters write them: encoded image, boxes in fractions, class names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from phidet.core.errors import InputError
from phidet.data.dataset import Collector, Dataset, RawObject
from phidet.data.tfrecord_file import Value, parse_example, scan
from phidet.images.decode import RecordImage, image_size

_BOX = tuple(f"image/object/bbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax"))
_LABEL, _TEXT = "image/object/class/label", "image/object/class/text"
MOST_CLASSES = 10_000


def scan_class_names(shards: Sequence[Path]) -> list[str]:
    """The classes in the order of their labels (1-based in the files); those that never occur are ``class-N``.

    Raises:
        InputError: a label stands for two names.
    """
    names: dict[int, str] = {}
    for shard in shards:
        for _, payload in _records(shard, None):
            try:
                example = parse_example(payload)
            except InputError:
                continue  # told when the record is read
            for label, text in zip_longest(example.get(_LABEL, []), example.get(_TEXT, [])):
                if isinstance(label, int) and 1 <= label <= MOST_CLASSES:
                    name = text.decode("utf-8", "replace") if isinstance(text, bytes) and text else f"class-{label - 1}"
                    if names.setdefault(label, name) != name:
                        raise InputError(f"{shard}: label {label} is both {names[label]!r} and {name!r}")
    return [names.get(label, f"class-{label - 1}") for label in range(1, max(names, default=0) + 1)]


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
                example = parse_example(payload)
                size = _size(example, source)
                if not _texts(example, "image/encoded"):
                    raise InputError("it holds no image/encoded")
            except InputError as error:
                collector.problem("image unreadable", where, f"{error}; left out")
                continue
            try:
                name_of_image = _name(example, f"{shard.name}@{offset}")
                objects = _objects(example, size, own_names, where)
            except InputError as error:  # an image without its objects would teach that there are none
                collector.problem("label unreadable", where, f"{error}; left out")
                continue
            collector.add(name_of_image, source, size, objects)
    return collector.dataset()


def _records(shard: Path, collector: Collector | None) -> Iterator[tuple[int, bytes]]:
    """The records up to the first damaged one."""
    try:
        yield from scan(shard)
    except InputError as error:
        if collector is not None:
            collector.problem("label unreadable", shard, f"{error}; the rest of the file is left out")


def _texts(example: dict[str, Value], key: str) -> list[bytes]:
    return [value for value in _of_kind(example, key, bytes) if isinstance(value, bytes)]


def _numbers(example: dict[str, Value], key: str) -> list[float]:
    return [value for value in _of_kind(example, key, float, int) if isinstance(value, float | int)]


def _whole(example: dict[str, Value], key: str) -> list[int]:
    return [value for value in _of_kind(example, key, int) if isinstance(value, int)]


def _of_kind(example: dict[str, Value], key: str, *kinds: type) -> Value:
    values = example.get(key, [])
    if values and not isinstance(values[0], kinds):
        raise InputError(f"{key} should hold {kinds[0].__name__}, it holds {type(values[0]).__name__}")
    return values


def _name(example: dict[str, Value], otherwise: str) -> str:
    names = [*_texts(example, "image/filename"), *_texts(example, "image/source_id")]
    return next((name.decode("utf-8", "replace") for name in names if name), otherwise)


def _size(example: dict[str, Value], source: RecordImage) -> tuple[int, int]:
    size = [*_whole(example, "image/height")[:1], *_whole(example, "image/width")[:1]]
    return (size[0], size[1]) if len(size) == 2 and 0 < min(size) <= max(size) < 2**31 else image_size(source)


def _objects(
    example: dict[str, Value], size_hw: tuple[int, int], own_names: Sequence[str], where: str
) -> list[RawObject]:
    """The objects of a record.

    Raises:
        InputError: its lists are of different lengths or of wrong kinds.
    """
    height, width = size_hw
    labels, columns = _whole(example, _LABEL), [_numbers(example, key) for key in _BOX]
    lengths = [len(labels), *map(len, columns)]
    if len(set(lengths)) > 1:
        raise InputError(f"it has {lengths[0]} labels for {', '.join(map(str, lengths[1:]))} xmin, ymin, xmax, ymax")
    areas = _numbers(example, "image/object/area")
    crowds = _whole(example, "image/object/is_crowd")
    hard = _whole(example, "image/object/difficult")
    objects = []
    for i, (label, x1, y1, x2, y2) in enumerate(zip(labels, *columns, strict=True)):
        objects.append(
            RawObject(
                f"{where}, object {i + 1}",
                (x1 * width, y1 * height, x2 * width, y2 * height),
                own_names[label - 1] if 1 <= label <= len(own_names) else f"label {label}",
                area=areas[i] if i < len(areas) else None,
                crowd=bool(crowds[i]) if i < len(crowds) else False,
                difficult=bool(hard[i]) if i < len(hard) else False,
            )
        )
    return objects
