"""``classes.txt``, ``obj.names`` and similar files: class names, one a line, beside YOLO's labels."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from phidet.core.errors import InputError
from phidet.data.listing import files_below, is_hidden
from phidet.data.readers.yolo import ClassLists, Item, count_classes
from phidet.data.text import read_text

_FILE_NAMES = ("classes.txt", "class_names.txt", "predefined_classes.txt", "obj.names", "_darknet.labels")
_SUFFIXES = (".names", ".labels")


def is_class_list(name: str) -> bool:
    """Whether a file of that name lists classes."""
    return name.casefold() in _FILE_NAMES or name.casefold().endswith(_SUFFIXES)


def read_class_list(path: Path) -> list[str]:
    """The names in a file; an empty line between them holds the place of a class without a name.

    Raises:
        InputError: it cannot be read, or names no class.
    """
    names = [unicodedata.normalize("NFC", line.strip()) for line in read_text(path).splitlines()]
    # Trailing empty lines are no classes; those in between keep the ids of what follows.
    while names and not names[-1]:
        names.pop()
    if not names:
        raise InputError(f"{path} names no class: expected a name on each line")
    return [name or f"class-{i}" for i, name in enumerate(names)]


def class_lists(items: Sequence[Item], root: Path, otherwise: Sequence[str] | None = None) -> ClassLists:
    """What the ids in the labels of ``items`` are called.

    labelImg writes a list into each folder of labels, and appends to it as classes come; so each label file goes by the
    list in its own folder or the nearest above it, then by the one beside its image. Lists that begin alike are one.

    Args:
        items: of all splits.
        root: the data folder, above which nothing is looked for.
        otherwise: names for labels that have no list; unless given, "class-0", "class-1", …

    Raises:
        InputError: a list cannot be read, or labels have no list and which of several others they go by is unknown.
    """
    folders = {item.label.parent: item.name.parent for item in items if item.label is not None}
    # Beside the labels, where labelImg writes it; else beside the images.
    near = {labels: _nearest(labels, root) or _nearest(images, root) for labels, images in folders.items()}
    files = set(near.values()) - {None}
    if None in near.values() and otherwise is None:
        files |= set(files_below(root, is_class_list))
    lists = {file: read_class_list(file) for file in sorted(file for file in files if file is not None)}
    if not lists:
        if otherwise is not None:
            return ClassLists(otherwise)
        return ClassLists([f"class-{i}" for i in range(max(1, count_classes(items)))], assumed=True)
    # Lists that grew with the labelling are prefixes of the longest one, which then holds for all.
    longest = max(lists.values(), key=len)
    if all(names == longest[: len(names)] for names in lists.values()):
        return ClassLists(longest)
    for labels, file in near.items():
        if file is None and otherwise is None:
            named = ", ".join(str(path) for path in list(lists)[:3])
            raise InputError(
                f"the labels in {labels} have no list of classes, and those elsewhere differ ({named}): "
                f"put the right one there as classes.txt"
            )
    return ClassLists(otherwise or longest, {labels: lists[file] for labels, file in near.items() if file is not None})


def _nearest(folder: Path, root: Path) -> Path | None:
    """The list in ``folder``, or in the nearest folder above it up to ``root``."""
    places = [folder, *folder.parents] if folder.is_relative_to(root) else [folder]
    for place in places:
        found = _list_in(place)
        if found is not None or place == root:
            return found
    return None


def _list_in(folder: Path) -> Path | None:
    """The list in a folder; of several, the one of the most usual name."""
    # The order of a folder's entries differs between systems, and with it which of several lists would be used.
    names = sorted(name for name in os.listdir(folder) if is_class_list(name) and not is_hidden(name))
    usual = [name for usual_name in _FILE_NAMES for name in names if name.casefold() == usual_name]
    return next((folder / name for name in [*usual, *names]), None)
