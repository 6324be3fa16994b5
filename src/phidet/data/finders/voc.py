"""Pascal VOC, recognised by XML files that hold an ``<annotation>``; its splits are lists, or folders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from phidet.data.data_folder import Found, is_split_name
from phidet.data.dataset import Dataset
from phidet.data.listing import files_below, followed, subfolders, visible
from phidet.data.readers import voc
from phidet.data.text import unicode_encoding

_SAMPLED = 20  # XML files whose content is checked
_HEAD = 4096  # bytes in which an XML file's outermost element begins
# What may stand before it: declaration, comments, document type.
_ANNOTATION = re.compile(r"(?:<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(?:\[.*?\])?\s*>|\s)*<annotation[\s>]", re.DOTALL)


def find_voc(path: Path) -> Found | None:
    """The VOC data in a folder: ``Annotations`` with lists in ``ImageSets/Main``, or XML files beside the images.

    Raises:
        InputError: a list of a split cannot be read.
    """
    if path.is_file():
        return None
    roots = _roots(path)
    lists = _of_roots(roots) if roots else _beside_images(path)
    every = list(dict.fromkeys(file for files in lists.values() for file in files))
    certain = any(map(holds_annotation, islice(filter(os.path.isfile, every), _SAMPLED)))
    if not every or not (certain or roots):
        return None  # XML files about something else

    def read(split: str, names: Sequence[str] | None) -> Dataset:
        return voc.read_voc(lists[split], path, split, names or voc.scan_class_names(every))

    return Found(str(min(every).relative_to(path)), {split: partial(read, split) for split in lists}, certain)


def _roots(path: Path) -> list[Path]:
    """The ``Annotations`` of the data folder, or those below it, as in ``VOCdevkit/VOC2007``."""
    name = _any_case(voc.ANNOTATIONS)
    folders = [folder for pattern in ("", "*/", "*/*/") for folder in visible(path, f"{pattern}{name}")]
    roots = [folder for folder in folders if folder.is_dir()]
    own = [folder for folder in roots if folder.parent == path]
    return own[:1] or roots


def _any_case(name: str) -> str:
    """A pattern of ``name`` in small or capital letters."""
    return "".join(f"[{letter.lower()}{letter.upper()}]" if letter.isalpha() else letter for letter in name)


def _lists(root: Path, annotations: voc.AnnotationFiles) -> list[Path]:
    """Lists of splits: in ``ImageSets/Main``, else in ``ImageSets`` or beside it, if they name annotation files."""
    sets, endings = _any_case("ImageSets"), _any_case(".txt")
    main = visible(root, f"{sets}/{_any_case('Main')}/*{endings}")
    others = [*visible(root, f"{sets}/*{endings}"), *visible(root, f"*{endings}")]
    named = (file for file in others if is_split_name(file.stem))
    return main or [file for file in named if any(map(os.path.isfile, annotations.listed(file)))]


def _of_roots(roots: Sequence[Path]) -> dict[str, list[Path]]:
    """The annotation files of each split: those that its lists name; else those of each root, or all.

    Args:
        roots: folders of annotation files.
    """
    lists: dict[str, list[Path]] = {}
    annotations = {root: voc.AnnotationFiles(root) for root in roots}
    for root in roots:
        files = _lists(root.parent, annotations[root])
        stems = {file.stem for file in files}
        for file in files:
            # "cat_train.txt" lists one class of a split that is there as well.
            parts = file.stem.split("_")
            if not any("_".join(parts[i:]) in stems for i in range(1, len(parts))):
                lists.setdefault(file.stem, []).extend(annotations[root].listed(file))
    if lists:
        return lists
    # VOC2007 and VOC2012 are years with lists in each; train/ and val/ without lists are splits.
    if len(roots) > 1 and all(is_split_name(root.parent.name) for root in roots):
        return {root.parent.name: annotations[root].files for root in roots}
    return {"all": [file for root in roots for file in annotations[root].files]}


def _beside_images(path: Path) -> dict[str, list[Path]]:
    """Annotation files that lie side by side with images, a folder for each split or one for all."""
    lists: dict[str, list[Path]] = {}
    for folder in [path, *subfolders(path)]:
        files = [followed(file) for file in files_below(folder, voc.is_xml_name, levels=0)]
        if any(map(holds_annotation, files[:_SAMPLED])):
            lists["all" if folder == path else folder.name] = files
    return lists


def holds_annotation(file: Path) -> bool:
    """Whether the outermost element of an XML file is ``<annotation>``; what follows may be damaged."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return False
    # In every encoding of XML that is not Unicode, the letters of a tag are those of ASCII.
    return _ANNOTATION.match(head.decode(unicode_encoding(head), "ignore")) is not None
