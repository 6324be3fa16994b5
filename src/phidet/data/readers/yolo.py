"""YOLO: a text file per image, one ``class x y width height`` (centre, fractions of the image) or polygon per line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from phidet.core.errors import InputError
from phidet.data.dataset import Collector, Dataset, RawObject
from phidet.images.decode import image_size_or_error
from phidet.images.formats import EXTENSIONS

MOST_CLASSES = 10_000


class Item(NamedTuple):
    """An image file and the file with its labels, which may not exist."""

    image: Path
    label: Path


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a ``data.yaml``.

    Raises:
        InputError: it is not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold keys like names, train, val, got a {type(content).__name__}")
    return content


def yaml_class_names(content: dict[str, Any], path: Path) -> list[str]:
    """The classes of a ``data.yaml``, by id.

    Raises:
        InputError: ``names`` is missing, empty, or has gaps.
    """
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise InputError(f"{path}: names should be numbered 0…{len(names) - 1}, got {sorted(names)[:10]}")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(f"{path} has no names: expected the classes as a list, or as 0: first, 1: second, …")
    return [str(name) for name in names]


def yaml_items(content: dict[str, Any], split: str, path: Path) -> list[Item]:
    """The images of one split of a ``data.yaml``: folders, lists in ``.txt`` files, or several of these.

    Raises:
        InputError: one of them does not exist.
    """
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    bases = [path.parent / str(content.get("path") or ""), path.parent]
    items: list[Item] = []
    for entry in map(str, entries):
        # Roboflow writes ../train/images for a folder that lies beside the file.
        tried = [*(base / entry for base in bases), path.parent / entry.lstrip("./")]
        found = next((t for t in tried if followed(t).exists()), None)
        if found is None:
            raise InputError(f"{path}: {split}: there is no {' or '.join(str(t) for t in dict.fromkeys(tried))}")
        if followed(found).is_dir():
            items += items_in(found)
        else:
            lines = [line.strip() for line in found.read_text(encoding="utf-8", errors="replace").splitlines()]
            items += [item_of(found.parent / line) for line in lines if line]
    return items


def items_in(folder: Path) -> list[Item]:
    """Every image below ``folder``, sorted."""
    real = followed(folder)
    images = sorted(path for path in real.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    return [item_of(folder / image.relative_to(real)) for image in images]


def item_of(image: Path) -> Item:
    """The image, and its labels: ``labels/`` in the place of the last ``images/`` of its path, else beside it."""
    parts = list(image.parts)
    label = image.with_suffix(".txt")
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            label = Path(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
            break
    return Item(followed(image), followed(label))


def followed(path: Path) -> Path:
    """``path`` with the links in it followed that git left as small text files where it could not make links."""
    for ancestor in [path, *path.parents]:
        if ancestor.exists():
            if ancestor == path or not ancestor.is_file() or ancestor.stat().st_size > 512:
                return path
            target = ancestor.parent / ancestor.read_text(encoding="utf-8", errors="replace").strip()
            return target / path.relative_to(ancestor) if target.is_dir() else path
    return path


def count_classes(items: Sequence[Item]) -> int:
    """One more than the largest class id in the labels, for folders that name no classes.

    Ids from ``MOST_CLASSES`` on are mistakes, and are told as such when the labels are read.
    """
    largest = -1
    for item in items:
        for _, numbers in _lines(item.label):
            if numbers and numbers[0].is_integer() and numbers[0] < MOST_CLASSES:
                largest = max(largest, int(numbers[0]))
    return largest + 1


def read_yolo(
    items: Sequence[Item], root: Path, name: str, *, class_names: Sequence[str], own_names: Sequence[str]
) -> Dataset:
    """The images with their labels; one without a label file has no objects.

    Args:
        items: image and label files.
        root: the data folder, which names of images are relative to.
        name: of the split.
        class_names: the classes to read, by name.
        own_names: what the ids 0, 1, … of the labels are called.
    """
    collector = Collector(name, root, class_names)
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(image_size_or_error, [item.image for item in items])
    for (image, label), size in zip(items, sizes, strict=True):
        if isinstance(size, InputError):
            kind = "image unreadable" if image.is_file() else "image missing"
            collector.problem(kind, image, f"{size}; left out")
            continue
        relative = str(image.relative_to(root)) if image.is_relative_to(root) else str(image)
        collector.add(relative, image, size, _objects(label, size, own_names, collector))
    return collector.dataset()


def _objects(
    file: Path, size_hw: tuple[int, int], own_names: Sequence[str], collector: Collector
) -> Iterator[RawObject]:
    height, width = size_hw
    for line, numbers in _lines(file):
        where = f"{file}, line {line}"
        if numbers is None or len(numbers) < 5 or not numbers[0].is_integer():
            what = "expected 'class x y width height' or 'class x1 y1 x2 y2 x3 y3 …'; left out"
            collector.problem("label unreadable", where, what)
            continue
        class_id, *values = numbers
        if len(values) == 4:
            x, y, w, h = values
            box = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        elif len(values) >= 6 and len(values) % 2 == 0:  # a polygon
            box = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
        else:
            collector.problem(
                "label unreadable", where, f"{len(numbers)} numbers are neither box nor polygon; left out"
            )
            continue
        if max(box) > 2:
            collector.problem("box invalid", where, "expected fractions of the image, 0…1, got pixels; left out")
            continue
        known = 0 <= class_id < len(own_names)
        class_name = own_names[int(class_id)] if known else f"class id {int(class_id)}"
        x1, y1, x2, y2 = box
        yield RawObject(where, (x1 * width, y1 * height, x2 * width, y2 * height), class_name)


def _lines(file: Path) -> Iterator[tuple[int, list[float] | None]]:
    """Line number and numbers of every line that is not empty; ``None`` where they are not numbers."""
    if not file.is_file():
        return
    for i, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if line.strip():
            try:
                yield i, [float(word) for word in line.split()]
            except ValueError:
                yield i, None
