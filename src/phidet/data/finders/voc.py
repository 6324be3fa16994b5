"""Pascal VOC, recognised by XML files that hold an ``<annotation>``; its splits are lists, or folders."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

from phidet.data.data_folder import Found, Reader
from phidet.data.listing import visible
from phidet.data.readers import voc

_SAMPLED = 20  # XML files that are looked into


def find_voc(path: Path) -> Found | None:
    """The VOC data in a folder: ``Annotations`` with lists in ``ImageSets/Main``, or XML files beside the images.

    Raises:
        InputError: a list of a split cannot be read.
    """
    if path.is_file():
        return None
    roots = _roots(path)
    lists = _of_roots(roots) if roots else _beside_images(path)
    every = sorted({file for files in lists.values() for file in files})
    certain = any(map(holds_annotation, islice((file for file in every if file.is_file()), _SAMPLED)))
    if not every or not (certain or roots):
        return None  # XML files about something else

    def reader(split: str) -> Reader:
        return lambda names: voc.read_voc(lists[split], path, split, names or voc.scan_class_names(every))

    return Found(str(every[0].relative_to(path)), {split: reader(split) for split in lists}, certain)


def _roots(path: Path) -> list[Path]:
    """The folders with ``Annotations`` in them: the data folder, or those below it, as ``VOCdevkit/VOC2007``."""
    folders = [folder for pattern in ("", "*/", "*/*/") for folder in visible(path, f"{pattern}Annotations")]
    roots = [folder.parent for folder in folders if folder.is_dir()]
    return [path] if path in roots else roots


def _of_roots(roots: Iterable[Path]) -> dict[str, list[Path]]:
    """The annotation files of each split: those that its lists name, or all."""
    lists: dict[str, list[Path]] = {}
    for root in roots:
        for file in visible(root, "ImageSets/Main/*.txt"):
            if "_" not in file.stem:  # "cat_train.txt" lists one class of a split that is there as well
                lists.setdefault(file.stem, []).extend(voc.listed_files(file, root / "Annotations"))
    return lists or {"all": [file for root in roots for file in voc.xml_files(root / "Annotations")]}


def _beside_images(path: Path) -> dict[str, list[Path]]:
    """Annotation files that lie side by side with images, a folder for each split or one for all."""
    lists: dict[str, list[Path]] = {}
    for folder in [path, *(folder for folder in visible(path) if folder.is_dir())]:
        files = voc.xml_files(folder, below=False)
        if any(map(holds_annotation, files[:_SAMPLED])):
            lists["all" if folder == path else folder.name] = files
    return lists


def holds_annotation(file: Path) -> bool:
    """Whether the outermost element of an XML file is ``<annotation>``; a damaged file may begin well."""
    try:
        with file.open("rb") as stream:
            for _, element in ElementTree.iterparse(stream, ("start",)):
                return str(element.tag) == "annotation"
    except (OSError, ElementTree.ParseError, ValueError, LookupError):
        pass
    return False
