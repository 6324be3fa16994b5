"""TFRecord shards as the official converters write them: encoded image, boxes in fractions, class names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from phidet.data.dataset import Collector, Dataset, RawObject
from phidet.data.images import RecordImage, image_size
from phidet.data.tfrecord_file import Value, parse_example, scan
from phidet.errors import InputError

_BOX = tuple(f"image/object/bbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax"))
_LABEL, _TEXT = "image/object/class/label", "image/object/class/text"


def scan_class_names(shards: Sequence[Path]) -> list[str]:
    """The classes in the order of their labels (1-based in the files); those that never occur are ``class-N``.

    Raises:
        InputError: a label stands for two names.
    """
    names: dict[int, str] = {}
    for shard in shards:
        for _, payload in _records(shard, None):
            example = parse_example(payload)
            for label, text in zip_longest(example.get(_LABEL, []), example.get(_TEXT, [])):
                if isinstance(label, int) and label >= 1:
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
            try:
                example = parse_example(payload)
                size = _size(example, RecordImage(shard, offset))
            except InputError as error:
                collector.problem("image unreadable", where, f"{error}; left out")
                continue
            file_name = _first(example, "image/filename", b"") or _first(example, "image/source_id", b"")
            image_name = file_name.decode("utf-8", "replace") or f"{shard.name}@{offset}"
            objects = list(_objects(example, size, own_names, where))
            collector.add(image_name, RecordImage(shard, offset), size, objects)
    return collector.dataset()


def _records(shard: Path, collector: Collector | None) -> Iterator[tuple[int, bytes]]:
    """The records up to the first damaged one."""
    try:
        yield from scan(shard)
    except InputError as error:
        if collector is not None:
            collector.problem("label unreadable", shard, f"{error}; the rest of the file is left out")


def _first(example: dict[str, Value], key: str, default: Any) -> Any:
    values = example.get(key)
    return values[0] if values else default


def _size(example: dict[str, Value], source: RecordImage) -> tuple[int, int]:
    height, width = _first(example, "image/height", 0), _first(example, "image/width", 0)
    return (height, width) if height > 0 and width > 0 else image_size(source)


def _objects(
    example: dict[str, Value], size_hw: tuple[int, int], own_names: Sequence[str], where: str
) -> Iterator[RawObject]:
    height, width = size_hw
    labels: list[Any] = list(example.get(_LABEL, []))
    columns: list[list[Any]] = [list(example.get(key, [])) for key in _BOX]
    count = min(len(column) for column in [labels, *columns])
    areas: list[Any] = list(example.get("image/object/area", []))
    crowds: list[Any] = list(example.get("image/object/is_crowd", []))
    hard: list[Any] = list(example.get("image/object/difficult", []))
    for i in range(count):
        x1, y1, x2, y2 = (column[i] for column in columns)
        known = 1 <= labels[i] <= len(own_names)
        yield RawObject(
            f"{where}, object {i + 1}",
            (x1 * width, y1 * height, x2 * width, y2 * height),
            own_names[labels[i] - 1] if known else f"label {labels[i]}",
            area=areas[i] if i < len(areas) else None,
            crowd=bool(crowds[i]) if i < len(crowds) else False,
            difficult=bool(hard[i]) if i < len(hard) else False,
        )
