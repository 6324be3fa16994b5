"""YOLO data as its tools leave them: ``data.yaml``, Darknet's ``obj.data``, lists of images, or folders alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from operator import methodcaller
from pathlib import Path

from phidet.core.errors import InputError
from phidet.data.data_folder import TEST_SPLITS, Found, is_split_name
from phidet.data.dataset import Dataset, Problem
from phidet.data.finders.class_lists import class_lists, is_class_list, read_class_list
from phidet.data.finders.yolo_files import YoloFiles
from phidet.data.finders.yolo_yaml import YAML_SUFFIXES, YoloYaml, read_yolo_yaml
from phidet.data.listing import files_below, followed, is_image, subfolders, visible
from phidet.data.readers.yolo import ClassLists, Item, KeyPoints, holds_labels, read_yolo
from phidet.data.text import read_lines

_LABELS_SAMPLED = 100  # label files that are read to recognise the layout
_LINES_SAMPLED = 20  # of a list of images


@dataclass(frozen=True)
class _Description:
    """YOLO data as a file or a folder describes them.

    Attributes:
        evidence: the file or folder, for messages.
        root: the data folder, which names of images are relative to.
        splits: of each split, what finds its items.
        names: what reads the names of the classes; ``None`` of it where it has none.
        otherwise: names for labels that have no list of classes beside them.
        key_points: what follows each box, where that is declared.
        report: what says which images belong to no split.
    """

    evidence: Path
    root: Path
    splits: Mapping[str, Callable[[YoloFiles], Iterable[Item]]]
    names: Callable[[], Sequence[str] | None] = lambda: None
    otherwise: Sequence[str] | None = None
    key_points: KeyPoints | None = None
    report: Callable[[YoloFiles], None] | None = None

    @cached_property
    def class_lists(self) -> ClassLists:
        """What the classes are called; for that, all labels of data without a list are read once."""
        names = self.names()
        return class_lists(list(self.items()), self.root, self.otherwise) if names is None else ClassLists(names)

    def items(self) -> Iterator[Item]:
        """The items of all splits; nothing of those that cannot be found."""
        files = YoloFiles(self.root)
        for find in self.splits.values():
            try:
                yield from find(files)
            except InputError:  # raised again when the split is read
                continue

    def found(self) -> Found:
        """The readers of its splits."""
        labels = (item.label for item in self.items() if item.label is not None)
        certain = any(map(holds_labels, islice(labels, _LABELS_SAMPLED)))
        readers = {split: partial(self._read, split) for split in self.splits}
        return Found(self.evidence.name or str(self.evidence), readers, certain)

    def _read(self, split: str, names: Sequence[str] | None) -> Dataset:
        # A new YoloFiles for each read: its problems belong to that split alone.
        files, own = YoloFiles(self.root), self.class_lists
        items = list(self.splits[split](files))
        if self.report is not None and split == next(iter(self.splits)):  # once, not in every split
            self.report(files)
        class_names = names or own.names()
        dataset = read_yolo(items, self.root, split, class_names=class_names, own=own, key_points=self.key_points)
        # What was assumed about paths comes before problems of single labels.
        dataset.problems[:0] = files.problems
        return dataset


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
            return None if described is None else _of_yaml(described).found()
        if suffix == ".data":
            darknet = _of_darknet(path)
            return None if darknet is None else darknet.found()
        is_list = suffix == ".txt" and _lists_images(path)
        return _of_lists([path], path.parent).found() if is_list else None
    # Explicit descriptions first, folders by convention last.
    yamls, darknets = _descriptions(files_below(path, _may_describe, levels=0))
    found = (
        _only([_of_yaml(described) for described in yamls if described.splits], path)
        or _only(darknets, path)
        or _certain(_of_lists(_split_lists(path), path).found())
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
    return _certain(_only(descriptions, path))


def _only(descriptions: Sequence[_Description], path: Path) -> Found | None:
    """The one that describes data that are there.

    Raises:
        InputError: several do.
    """
    found = [(description, description.found()) for description in descriptions]
    # Several descriptions often lie side by side (templates, old copies): those with labels that exist are meant.
    found = [one for one in found if one[1].certain] or found
    if len(found) > 1:
        named = " and ".join(str(description.evidence.relative_to(path)) for description, _ in found)
        raise InputError(f"{named} in {path} describe different YOLO data: give the right one of these files instead")
    return found[0][1] if found else None


def _certain(found: Found | None) -> Found | None:
    return found if found is not None and found.certain else None


def _of_yaml(described: YoloYaml) -> _Description:
    file, bases = described.file, described.bases
    there = {split: entries for split, entries in described.splits.items() if not _is_no_test(described, split)}
    splits = {split: partial(_named, file, split, entries, bases) for split, entries in there.items()}
    return _Description(file, file.parent, splits, lambda: described.names, key_points=described.key_points)


def _is_no_test(described: YoloYaml, split: str) -> bool:
    """Whether a split is a test that is not there: tools name one in every file, whether they write it or not."""
    if split not in TEST_SPLITS or len(described.splits) == 1:
        return False
    files = YoloFiles(described.file.parent)
    return all(files.entry(entry, described.bases) is None for entry in described.splits[split])


def _named(file: Path, split: str, entries: Sequence[str], bases: Sequence[Path], files: YoloFiles) -> Iterator[Item]:
    """The items of the folders and lists that ``file`` names for a split."""
    for entry in entries:
        found = files.entry(entry, bases)
        if found is None:
            tried = " or ".join(str(base / entry) for base in bases)
            raise InputError(f"{file}: {split}: there is no {tried}")
        yield from files.in_folder(found) if followed(found).is_dir() else files.in_list(found, bases)


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
    # Darknet runs in the folder above the one that holds its files.
    root, bases = file.parent, [file.parent, file.parent.parent]

    def names() -> Sequence[str] | None:
        listed = YoloFiles(root).entry(content["names"], bases) if "names" in content else None
        return None if listed is None else read_class_list(listed)

    return _Description(
        file, root, {split: partial(_named, file, split, [entry], bases) for split, entry in splits.items()}, names
    )


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
    splits = {file.stem: methodcaller("in_list", file, [root]) for file in lists}
    return _Description(lists[0] if lists else root, root, splits)


def _from_folders(path: Path, names: Sequence[str] | None) -> Found | None:
    """Images with labels beside them or in a folder of their own, a folder for each split or one for all.

    Args:
        path: the data folder.
        names: of the classes, from a YAML file that says no more.

    Raises:
        InputError: there are labels, but no images.
    """
    folders = _split_folders(path)
    splits = {split: methodcaller("in_folder", folder) for split, folder in folders.items()}
    report = partial(_report_outside, folders)
    # Only YOLO's folders may have other images beside their splits; descriptions say themselves what is in them.
    description = _Description(path, path, splits, otherwise=names, report=report)
    if any(item.label is not None for item in description.items()):
        return description.found()._replace(evidence="images with labels (*.txt) of the same names")
    # Images without any labels: not YOLO data, perhaps another layout.
    if next(files_below(path, is_image), None) is not None:
        return None
    labels = next((file for file in files_below(path, _is_text) if "labels" in file.parts and holds_labels(file)), None)
    if labels is not None:
        raise InputError(f"{path} has labels ({labels.relative_to(path)}, …), but no images: put them into images/")
    return None


def _report_outside(folders: Mapping[str, Path], files: YoloFiles) -> None:
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
