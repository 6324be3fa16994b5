"""Finds out how a data folder is laid out, and which splits it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from phidet.core.errors import InputError, UnknownNameError
from phidet.data.dataset import Dataset
from phidet.data.readers import coco, tfrecord, voc, yolo

Layout = Literal["coco", "voc", "yolo", "tfrecord", "classes"]
Reader = Callable[[Sequence[str] | None], Dataset]
"""Reads one split; given class names, it maps classes to them by name."""

TRAIN_SPLITS = ("train", "trainval", "training", "train2017")
VAL_SPLITS = ("val", "valid", "validation", "val2017")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.tfrecord)?$")


class DataFolder(NamedTuple):
    """A data folder, recognised.

    Attributes:
        path: what was given.
        layout: how it is laid out.
        readers: one for each split, by name.
    """

    path: Path
    layout: Layout
    readers: dict[str, Reader]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.readers)

    def read(self, split: str, class_names: Sequence[str] | None = None) -> Dataset:
        """One split.

        Args:
            split: its name.
            class_names: map classes to these, by name; unless given, the data's own.

        Raises:
            UnknownNameError: there is no such split.
            InputError: its labels cannot be read at all, or it has no images.
        """
        if split not in self.readers:
            raise UnknownNameError(f"split of {self.path}", split, self.readers)
        dataset = self.readers[split](class_names)
        if len(dataset) == 0:
            problems = "".join(f"\n  {p.where}: {p.what}" for p in dataset.problems[:3])
            raise InputError(f"split {split!r} of {self.path} has no image that can be used{problems}")
        return dataset

    def train_split(self) -> str:
        """The split to train on.

        Raises:
            InputError: which it is cannot be told from the names.
        """
        found = _first_of(TRAIN_SPLITS, self.splits) or (self.splits[0] if len(self.splits) == 1 else None)
        if found is None:
            raise InputError(f"{self.path} has the splits {', '.join(self.splits)}: say which one to train on")
        return found

    def val_split(self) -> str | None:
        """The split to validate on, ``None`` where there is none."""
        return _first_of(VAL_SPLITS, self.splits)


def _first_of(wanted: Sequence[str], splits: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in splits), None)


def open_data(path: str | Path) -> DataFolder:
    """Looks at a folder or file and tells its layout and splits; reads no images.

    Raises:
        InputError: there is nothing at ``path``, or nothing that is known.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no data at {path}")
    damaged: InputError | None = None
    for layout, find in _FINDERS:
        try:
            readers = find(path)
        except InputError as error:  # of another layout, perhaps: a YAML file may lie beside any data
            damaged = damaged or error
            continue
        if readers:
            return DataFolder(path, layout, readers)
    if damaged is not None:
        raise damaged
    raise InputError(
        f"{path} is in no layout that phidet knows: expected COCO JSON (annotations/*.json), Pascal VOC "
        "(Annotations/*.xml), YOLO (data.yaml, or images/ and labels/), or *.tfrecord"
    )


def read_pictures(folder: Path) -> Dataset:
    """All pictures below a folder, without objects: for what looks at pictures only.

    Raises:
        InputError: there is none.
    """
    items = [item._replace(label=folder) for item in yolo.items_in(folder)]  # a folder is no file of labels
    dataset = yolo.read_yolo(items, folder, folder.name, class_names=(), own_names=())
    if not len(dataset):
        raise InputError(f"there are no pictures in {folder}, and no data in a layout that phidet knows")
    return dataset


_COCO_OTHERS = re.compile("(captions|person_keypoints|stuff|panoptic)_")


def _find_coco(path: Path) -> dict[str, Reader]:
    if path.is_file():
        files, root = ([path] if path.suffix == ".json" else []), path.parent
    else:
        files, root = sorted([*path.glob("annotations/*.json"), *path.glob("*.json"), *path.glob("*/*.json")]), path
    readers: dict[str, Reader] = {}
    of_split: dict[str, Path] = {}
    for file in dict.fromkeys(files):
        if not coco.is_coco(file):
            continue
        named = file.stem not in ("_annotations.coco", "annotations", "labels")
        split = file.stem.removeprefix("instances_") if named else file.parent.name
        if _COCO_OTHERS.match(split) and file.with_name(_COCO_OTHERS.sub("instances_", file.name)).is_file():
            continue  # COCO's captions and keypoints are of the images that the instances are of
        base = root.parent if path.is_file() and file.parent.name == "annotations" else root
        folders = [base / split, base / "images" / split, file.parent, file.parent / "images", base / "images", base]

        def read(
            names: Sequence[str] | None, file: Path = file, split: str = split, at: list[Path] = folders
        ) -> Dataset:
            return coco.read_coco(file, [folder for folder in dict.fromkeys(at) if folder.is_dir()], split, names)

        if split in of_split and not of_split[split].samefile(file):
            raise InputError(f"{file} and {of_split[split]} are both of the split {split!r}: rename or remove one")
        of_split[split], readers[split] = file, read
    return readers


def _find_voc(path: Path) -> dict[str, Reader]:
    if path.is_file():
        return {}
    nested = [*path.glob("*/Annotations"), *path.glob("*/*/Annotations")]  # the latter: VOCdevkit/VOC2007
    roots = [path] if (path / "Annotations").is_dir() else sorted(p.parent for p in nested if p.is_dir())
    lists: dict[str, list[Path]] = {}
    for root in roots:
        for file in sorted((root / "ImageSets" / "Main").glob("*.txt")):
            if "_" not in file.stem:  # "cat_train.txt" lists one class of a split that is there as well
                lists.setdefault(file.stem, []).extend(_voc_listed(file, root / "Annotations"))
    if roots and not lists:
        lists["all"] = sorted(file for root in roots for file in (root / "Annotations").glob("*.xml"))
    if not roots:  # images and XML files side by side, a folder for each split or one for all
        for folder in [path, *sorted(p for p in path.iterdir() if p.is_dir())]:
            files = sorted(folder.glob("*.xml"))
            if files:
                lists["all" if folder == path else folder.name] = files
    every = sorted({file for files in lists.values() for file in files})

    def reader(split: str) -> Reader:
        return lambda names: voc.read_voc(lists[split], path, split, names or voc.scan_class_names(every))

    return {split: reader(split) for split in lists}


def _voc_listed(file: Path, annotations: Path) -> list[Path]:
    """The annotation files that a list names: a name on each line, which may hold spaces, or be followed by ±1."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    whole = [annotations / f"{line}.xml" for line in lines if line]
    return [xml if xml.is_file() else annotations / f"{xml.stem.split()[0]}.xml" for xml in whole]


def _find_yolo(path: Path) -> dict[str, Reader]:
    if path.is_file():
        return _yolo_from_yaml(path) if path.suffix in (".yaml", ".yml") else {}
    for file in sorted([*path.glob("*.yaml"), *path.glob("*.yml")]):
        readers = _yolo_from_yaml(file)
        if readers:
            return readers
    splits = _bare_yolo_splits(path)
    every = [item for items in splits.values() for item in items]
    if not any(item.label.is_file() for item in every):
        return {}
    names_file = next((f for f in (path / "classes.txt", path / "labels" / "classes.txt") if f.is_file()), None)

    def own_names() -> list[str]:
        if names_file is not None:
            return [
                line.strip()
                for line in names_file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
                if line.strip()
            ]
        return [f"class-{i}" for i in range(max(1, yolo.count_classes(every)))]

    def reader(split: str) -> Reader:
        def read(names: Sequence[str] | None) -> Dataset:
            own = own_names()
            return yolo.read_yolo(splits[split], path, split, class_names=names or own, own_names=own)

        return read

    return {split: reader(split) for split in splits}


def _bare_yolo_splits(path: Path) -> dict[str, list[yolo.Item]]:
    """Folders of images: ``images/train``, ``train/images``, ``images``, or the folder itself."""
    found = {p.name: p for p in sorted((path / "images").glob("*")) if p.is_dir()}
    found |= {p.parent.name: p for p in sorted(path.glob("*/images")) if p.is_dir()}
    if not found:
        found = {"all": path / "images" if (path / "images").is_dir() else path}
    splits = {name: yolo.items_in(folder) for name, folder in found.items()}
    return {name: items for name, items in splits.items() if items}


def _yolo_from_yaml(file: Path) -> dict[str, Reader]:
    content = yolo.read_yaml(file)
    splits = [key for key in ("train", "val", "valid", "test") if isinstance(content.get(key), str | list)]
    if "names" not in content or not splits:
        return {}

    def reader(split: str) -> Reader:
        def read(names: Sequence[str] | None) -> Dataset:
            own = yolo.yaml_class_names(content, file)
            items = yolo.yaml_items(content, split, file)
            return yolo.read_yolo(items, file.parent, split, class_names=names or own, own_names=own)

        return read

    return {split: reader(split) for split in splits}


def _find_tfrecord(path: Path) -> dict[str, Reader]:
    base = path.parent if path.is_file() else path
    files = [path] if path.is_file() else sorted(p for p in [*path.glob("*"), *path.glob("*/*")] if p.is_file())
    shards: dict[str, list[Path]] = {}
    for file in files:
        match = _SHARD.match(file.name)
        if match or file.suffix in (".tfrecord", ".tfrecords"):
            own = match[1] if match else file.stem
            shards.setdefault(own if file.parent == base else file.parent.name, []).append(file)
    every = [file for group in shards.values() for file in group]

    def reader(split: str) -> Reader:
        def read(names: Sequence[str] | None) -> Dataset:
            own = tfrecord.own_class_names(every)
            return tfrecord.read_tfrecord(shards[split], path, split, class_names=names or own, own_names=own)

        return read

    return {split: reader(split) for split in shards}


_FINDERS: tuple[tuple[Layout, Callable[[Path], dict[str, Reader]]], ...] = (
    ("voc", _find_voc),
    ("yolo", _find_yolo),
    ("coco", _find_coco),
    ("tfrecord", _find_tfrecord),
)
