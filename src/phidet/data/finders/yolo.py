"""YOLO data as its tools leave them: ``data.yaml``, Darknet's ``obj.data``, lists of images, or folders alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from phidet.core.errors import InputError
from phidet.data.data_folder import Found, Reader, is_split_name
from phidet.data.dataset import Dataset, Problem
from phidet.data.finders.class_lists import class_lists, is_class_list, read_class_list
from phidet.data.finders.yolo_files import YoloFiles
from phidet.data.finders.yolo_yaml import YAML_SUFFIXES, YoloYaml, read_yolo_yaml
from phidet.data.listing import files_below, followed, is_image, subfolders, visible
from phidet.data.readers.yolo import ClassLists, Item, KeyPoints, holds_labels, read_yolo
from phidet.data.text import read_lines

_LABELS_SAMPLED = 100  # label files that are read to recognise the layout
_LINES_SAMPLED = 20  # of a list of images


class _Description(NamedTuple):
    """A description of YOLO data by a file or folder.

    Attributes:
        evidence: the file or folder, for messages.
        root: the data folder, which names of images are relative to.
        splits: of each split, what finds its items.
        class_lists: what finds the names of its classes.
        key_points: what follows each box, where that is declared.
        report: what says which images belong to no split.
    """

    evidence: Path
    root: Path
    splits: Mapping[str, Callable[[YoloFiles], Iterator[Item]]]
    class_lists: Callable[[], ClassLists]
    key_points: KeyPoints | None = None
    report: Callable[[YoloFiles], None] | None = None


def find_yolo(path: Path) -> Found | None:
    """The YOLO data in a folder, or those that a ``data.yaml``, an ``obj.data`` or a list of images describes.

    Raises:
        InputError: several files describe different data, or the only one that could is damaged.
    """
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in YAML_SUFFIXES:
            described = read_yolo_yaml(path)
            if described is not None and not described.splits:
                raise InputError(f"{path} names no images: expected train: and val:, each with a folder or a list")
            return None if described is None else _found(_of_yaml(described))
        if suffix == ".data":
            darknet = _of_darknet(path)
            return None if darknet is None else _found(darknet)
        is_list = suffix == ".txt" and _lists_images(path)
        return _found(_of_lists([path], path.parent)) if is_list else None
    # Explicit descriptions first, folders by convention last.
    yamls, darknets = _descriptions(files_below(path, _may_describe, levels=0))
    found = (
        _only([_of_yaml(described) for described in yamls if described.splits], path)
        or _only(darknets, path)
        or _certain(_of_lists(_split_lists(path), path))
        or _of_subfolder(path)
    )
    if found is not None:
        return found
    names = next((described.names for described in yamls if described.names is not None), None)
    return _from_folders(path, names)


def _may_describe(name: str) -> bool:
    """Whether a file of that name may be YAML, or Darknet's ``obj.data``."""
    return os.path.splitext(name)[1].lower() in (*YAML_SUFFIXES, ".data")


def _descriptions(files: Iterable[Path]) -> tuple[list[YoloYaml], list[_Description]]:
    """What some files say: the YAML files, and those of Darknet.

    Raises:
        InputError: one of them is damaged, and no other describes data.
    """
    yamls: list[YoloYaml | None] = []
    darknets: list[_Description | None] = []
    damaged: InputError | None = None
    for file in files:
        try:
            if file.suffix.lower() in YAML_SUFFIXES:
                yamls.append(read_yolo_yaml(file))
            else:
                darknets.append(_of_darknet(file))
        except InputError as error:
            damaged = damaged or error
    # A damaged file matters only where no intact one describes the data.
    if damaged is not None and not any(darknets) and not any(found is not None and found.splits for found in yamls):
        raise damaged
    return [found for found in yamls if found is not None], [found for found in darknets if found is not None]


def _of_subfolder(path: Path) -> Found | None:
    """The data that a file in one of the folders in ``path`` describes."""
    try:
        files = files_below(path, _may_describe, levels=1)
        yamls, darknets = _descriptions(file for file in files if file.parent != path)
    except InputError:  # of something damaged, in a folder of its own
        return None
    descriptions = [*(_of_yaml(described) for described in yamls if described.splits), *darknets]
    found = _only(descriptions, path)
    return found if found is not None and found.certain else None


def _only(descriptions: Sequence[_Description], path: Path) -> Found | None:
    """The one that describes data that are there.

    Raises:
        InputError: several do.
    """
    found = [(description, _found(description)) for description in descriptions]
    # Several descriptions often lie side by side (templates, old copies): those with labels that exist are meant.
    found = [one for one in found if one[1].certain] or found
    if len(found) > 1:
        named = " and ".join(str(description.evidence.relative_to(path)) for description, _ in found)
        raise InputError(f"{named} in {path} describe different YOLO data: give the right one of these files instead")
    return found[0][1] if found else None


def _certain(description: _Description) -> Found | None:
    found = _found(description)
    return found if found.certain else None


def _found(description: _Description) -> Found:
    def reader(split: str) -> Reader:
        def read(names: Sequence[str] | None) -> Dataset:
            files = YoloFiles(description.root)
            # A new YoloFiles for each read: its problems belong to that split alone.
            items = list(description.splits[split](files))
            if description.report is not None and split == next(iter(description.splits)):  # once, not in every split
                description.report(files)
            own = description.class_lists()
            dataset = read_yolo(
                items,
                description.root,
                split,
                class_names=names or own.names(),
                own=own,
                key_points=description.key_points,
            )
            # What was assumed about paths comes before problems of single labels.
            dataset.problems[:0] = files.problems
            return dataset

        return read

    readers = {split: reader(split) for split in description.splits}
    return Found(description.evidence.name or str(description.evidence), readers, _has_labels(_items(description)))


def _items(description: _Description) -> Iterator[Item]:
    """The items of all splits; nothing of those that cannot be found."""
    files = YoloFiles(description.root)
    for find in description.splits.values():
        try:
            yield from find(files)
        except InputError:  # raised again when the split is read
            continue


def _has_labels(items: Iterable[Item]) -> bool:
    labels = (item.label for item in items if item.label is not None)
    return any(map(holds_labels, islice(labels, _LABELS_SAMPLED)))


def _of_yaml(described: YoloYaml) -> _Description:
    root = described.file.parent

    def items(entries: Sequence[str], split: str) -> Callable[[YoloFiles], Iterator[Item]]:
        def find(files: YoloFiles) -> Iterator[Item]:
            for entry in entries:
                found = files.entry(entry, described.bases)
                if found is None:
                    tried = " or ".join(str(base / entry) for base in described.bases)
                    raise InputError(f"{described.file}: {split}: there is no {tried}")
                yield from files.in_folder(found) if followed(found).is_dir() else files.in_list(found, described.bases)

        return find

    splits = {split: items(entries, split) for split, entries in described.splits.items()}

    @cache
    def own() -> ClassLists:
        if described.names is not None:
            return ClassLists(described.names)
        return class_lists(list(_items(description)), root)

    description = _Description(described.file, root, splits, own, described.key_points)
    return description


def _of_darknet(file: Path) -> _Description | None:
    """Reads an ``obj.data``: lines ``train = data/train.txt``; ``None`` where the file is about something else."""
    try:
        lines = [line.partition("=") for line in read_lines(file)]
    except InputError:
        return None
    content = {key.strip(): value.strip() for key, equals, value in lines if equals}
    splits = {key: content[key] for key in ("train", "valid", "val", "test") if content.get(key)}
    if not splits or not {"classes", "names"} & content.keys():
        return None
    root, bases = file.parent, [file.parent, file.parent.parent]

    def items(entry: str, split: str) -> Callable[[YoloFiles], Iterator[Item]]:
        def find(files: YoloFiles) -> Iterator[Item]:
            found = files.entry(entry, bases)
            if found is None:
                raise InputError(f"{file}: {split}: there is no {root / entry}")
            yield from files.in_folder(found) if followed(found).is_dir() else files.in_list(found, bases)

        return find

    @cache
    def own() -> ClassLists:
        named = content.get("names")
        listed = None if named is None else YoloFiles(root).entry(named, bases)
        return class_lists(list(_items(description)), root) if listed is None else ClassLists(read_class_list(listed))

    description = _Description(file, root, {split: items(entry, split) for split, entry in splits.items()}, own)
    return description


def _split_lists(path: Path) -> list[Path]:
    """The lists of images in a folder that have the name of a split.

    Raises:
        InputError: a file of that name is not in an encoding that is read.
    """
    files = [file for file in visible(path, "*.[tT][xX][tT]") if is_split_name(file.stem)]
    return [file for file in files if file.is_file() and _lists_images(file)]


def _lists_images(file: Path) -> bool:
    lines = read_lines(file)[:_LINES_SAMPLED]
    # Most lines, because a list may have a few broken ones.
    return sum(map(is_image, lines)) > len(lines) / 2


def _of_lists(lists: Sequence[Path], root: Path) -> _Description:
    def items(file: Path) -> Callable[[YoloFiles], Iterator[Item]]:
        return lambda files: files.in_list(file, [root])

    evidence = lists[0] if lists else root
    description = _Description(
        evidence,
        root,
        {file.stem: items(file) for file in lists},
        cache(lambda: class_lists(list(_items(description)), root)),
    )
    return description


def _from_folders(path: Path, names: Sequence[str] | None) -> Found | None:
    """Images with labels beside them or in a folder of their own, a folder for each split or one for all.

    Args:
        path: the data folder.
        names: of the classes, from a YAML file that says no more.

    Raises:
        InputError: there are labels, but no images.
    """

    def items(folder: Path) -> Callable[[YoloFiles], Iterator[Item]]:
        return lambda files: files.in_folder(folder)

    folders = _split_folders(path)
    splits = {split: items(folder) for split, folder in folders.items()}

    @cache
    def own() -> ClassLists:
        return class_lists(list(_items(description)), path, names)

    description = _Description(path, path, splits, own, report=lambda files: _report_outside(files, folders))
    if any(item.label is not None for item in _items(description)):
        return _found(description)._replace(evidence="images with labels (*.txt) of the same names")
    # Images without any labels: not YOLO data, perhaps another layout.
    if next(files_below(path, is_image), None) is not None:
        return None
    labels = next((file for file in files_below(path, _is_text) if "labels" in file.parts and holds_labels(file)), None)
    if labels is not None:
        raise InputError(f"{path} has labels ({labels.relative_to(path)}, …), but no images: put them into images/")
    return None


def _report_outside(files: YoloFiles, folders: Mapping[str, Path]) -> None:
    """Reports labelled images that lie beside the folders of the splits."""
    outside = [
        item.name
        for item in files.in_folder(files.root)
        if item.label is not None and not any(item.name.is_relative_to(folder) for folder in folders.values())
    ]
    if outside:
        splits = ", ".join(folders)
        what = f"{len(outside):,} labelled images lie outside the splits {splits} (first {outside[0]}); left out"
        files.problems.append(Problem("image in no split", str(files.root), what))


def _is_text(name: str) -> bool:
    return name.lower().endswith(".txt") and not is_class_list(name)


def _split_folders(path: Path) -> dict[str, Path]:
    """Folders of images: ``images/train``, ``train/images`` or ``train`` for each split; else all in one."""
    inside = next((folder for folder in subfolders(path) if folder.name.casefold() == "images"), None)
    found = {folder.name: folder for folder in (() if inside is None else subfolders(inside))}
    for folder in subfolders(path):
        own = next((sub for sub in subfolders(folder) if sub.name.casefold() == "images"), folder)
        found.setdefault(folder.name, own)
    splits = {name: folder for name, folder in found.items() if is_split_name(name)}
    splits = {name: folder for name, folder in splits.items() if any(files_below(folder, is_image))}
    # No folder has the name of a split: everything is one split.
    return splits or {"all": inside or path}
