"""Pascal VOC: one XML file per image; splits are lists of names in ``ImageSets/Main``, or folders.

Coordinates are taken as they stand, xyxy in pixels, as the official EfficientDet converter takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from phidet.core.errors import InputError
from phidet.data.dataset import Collector, Dataset, RawObject
from phidet.images.decode import image_size
from phidet.images.formats import EXTENSIONS

IMAGE_FOLDER = "JPEGImages"
_NOT_XML = (OSError, ElementTree.ParseError, ValueError, LookupError)  # the last two: of an unknown encoding


def scan_class_names(files: Iterable[Path]) -> list[str]:
    """Every class name in the files, sorted; files that cannot be read name none."""
    names: set[str] = set()
    for file in files:
        try:
            root = ElementTree.parse(file).getroot()
        except _NOT_XML:
            continue
        names |= {name for o in root.iter("object") if (name := (o.findtext("name") or "").strip())}
    return sorted(names)


def read_voc(files: Sequence[Path], root: Path, name: str, class_names: Sequence[str]) -> Dataset:
    """The images that the XML ``files`` describe.

    Args:
        files: annotation files; one that does not exist becomes a problem.
        root: the data folder, which names of images are relative to.
        name: of the split.
        class_names: the classes to read.
    """
    collector = Collector(name, root, class_names)
    for file in files:
        _add(file, root, collector)
    return collector.dataset()


def _add(file: Path, root: Path, collector: Collector) -> None:
    try:
        tree = ElementTree.parse(file).getroot()
    except FileNotFoundError:
        collector.problem("label unreadable", file, "listed in the split, but there is no such file; left out")
        return
    except _NOT_XML as error:
        collector.problem("label unreadable", file, f"not XML that can be read ({error}); left out")
        return
    source = _image(file, tree.findtext("filename") or "")
    if source is None:
        collector.problem("image missing", file, f"no image {file.stem} in {IMAGE_FOLDER} or beside it; left out")
        return
    try:
        size_hw = _labelled_size(tree) or image_size(source)
    except InputError as error:
        collector.problem("image unreadable", source, f"{error}; left out")
        return
    objects = []
    for i, element in enumerate(tree.iter("object")):
        where = f"{file}, object {i + 1}"
        try:
            x1, y1, x2, y2 = (_number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError as error:
            collector.problem("label unreadable", where, f"{error}; left out")
            continue
        class_name = (element.findtext("name") or "").strip()
        difficult = (element.findtext("difficult") or "0").strip() not in ("0", "")
        objects.append(RawObject(where, (x1, y1, x2, y2), class_name, difficult=difficult))
    name = str(source.relative_to(root)) if source.is_relative_to(root) else source.name
    collector.add(name, source, size_hw, objects)


def _labelled_size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width) as the labels tell it; many tools leave it out or write zeros."""
    try:
        height, width = _number(tree, "size/height"), _number(tree, "size/width")
    except ValueError:
        return None
    return (int(height), int(width)) if 1 <= height < 2**31 and 1 <= width < 2**31 else None


def _image(file: Path, file_name: str) -> Path | None:
    """The image of an annotation file: the name it gives, else its own name with an image's ending."""
    folders = (file.parent.parent / IMAGE_FOLDER, file.parent, file.parent.parent / "images")
    names = [Path(file_name.replace("\\", "/")).name] if file_name.strip() else []
    for folder in folders:
        for name in [*names, *(file.stem + ending for end in sorted(EXTENSIONS) for ending in (end, end.upper()))]:
            if (folder / name).is_file():
                return folder / name
    return None


def _number(element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"expected a number in <{path.replace('/', '><')}>, got {text!r}") from None
