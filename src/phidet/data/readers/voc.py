"""Pascal VOC: one XML file per image; splits are lists of names in ``ImageSets/Main``, or folders.

Coordinates are taken as they stand, xyxy in pixels, as the official EfficientDet converter takes them.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from phidet.core.errors import InputError
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Dataset
from phidet.data.find_images import ImageFinder, name_parts
from phidet.data.flags import flag
from phidet.data.listing import files_below, followed, is_image, same_name
from phidet.data.readers.voc_masks import VocMasks
from phidet.data.text import decode_text, read_lines
from phidet.images.decode import image_size, image_size_or_error
from phidet.images.formats import OTHER_EXTENSIONS

ANNOTATIONS, IMAGE_FOLDERS = "Annotations", ("JPEGImages", "images")
_NOT_XML = (InputError, OSError, ElementTree.ParseError, ValueError, LookupError)  # the last: an unknown encoding
_FLAG = re.compile(r"\s+[+-]?[01]$")  # whether the image has the class, in a list of one class
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z][\w.:-]*)["']""")
_DECLARATION = 200  # bytes from the beginning in which it is looked for


class AnnotationFiles:
    """The annotation files below a folder, found by the names in lists of splits.

    Attributes:
        files: all of them, sorted.
    """

    files: list[Path]

    def __init__(self, folder: Path) -> None:
        self._folder, self.files = folder, []
        self._exact: dict[str, Path] = {}
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        depth = len(folder.parts)
        for file in files_below(folder, is_xml_name):
            real = file if os.path.isfile(file) else followed(file)
            self.files.append(real)
            folders = file.parts[depth:-1]
            self._exact[same_name("/".join((*folders, file.stem)))] = real
            stem = os.path.splitext(file.stem)[0] if is_image(file.stem) else file.stem  # of 0.jpg.xml
            # Under both names, as lists have them with and without the image's ending.
            self._exact.setdefault(same_name("/".join((*folders, stem))), real)
            self._by_stem[same_name(stem)].append(real)

    def listed(self, file: Path) -> list[Path]:
        """The annotation files that a list names; where there is none of a name, the path that it should have.

        A line is a name, which may hold spaces and folders, with or without an ending; ±1 may follow it, as in the
        lists of one class; some tools write the paths of the image and of the annotation file.

        Raises:
            InputError: the list cannot be read.
        """
        return [self._exact.get(same_name(line)) or self._find(line) for line in read_lines(file)]

    def _find(self, line: str) -> Path:
        # A line may be a name with spaces, a name with a flag, or two paths: tried in this order.
        words = line.split()
        pair = words if all(is_image(word) or is_xml_name(word) for word in words) else []
        names = [_bare(text, self._folder.name) for text in (line, _FLAG.sub("", line), *pair)]
        for name in names:
            if same_name(name) in self._exact:
                return self._exact[same_name(name)]
        for name in names:  # its folders may be another computer's
            alike = self._by_stem.get(same_name(PurePosixPath(name).name), [])
            if len(alike) == 1:
                return alike[0]
        return self._folder / f"{names[1]}.xml"


def scan_class_names(files: Iterable[Path]) -> list[str]:
    """Every class name in the files, sorted; files that cannot be read name none."""
    names: set[str] = set()
    for file in files:
        try:
            root = _parsed(file)
        except _NOT_XML:
            continue
        names |= {name for o in root.iter("object") if (name := _text(o, "name"))}
    return sorted({unicodedata.normalize("NFC", name) for name in names})


def read_voc(files: Sequence[Path], root: Path, name: str, class_names: Sequence[str]) -> Dataset:
    """The images that the XML ``files`` describe.

    Args:
        files: annotation files; one that does not exist becomes a problem.
        root: the data folder, which names of images are relative to.
        name: of the split.
        class_names: the classes to read.

    Raises:
        InputError: most boxes are fractions of their images.
    """
    collector = Collector(name, root, class_names, in_pixels=True)
    images = _Images(root, collector)
    masks: dict[Path, VocMasks] = {}
    for file in files:
        _add(file, root, images, masks, collector)
    return collector.dataset()


def _add(file: Path, root: Path, images: _Images, masks: dict[Path, VocMasks], collector: Collector) -> None:
    try:
        tree = _parsed(file)
    except FileNotFoundError:
        collector.problem("label unreadable", file, "listed in the split, but there is no such file; left out")
        return
    except OSError as error:
        collector.problem("label unreadable", file, f"it cannot be read ({error.strerror or error}); left out")
        return
    except _NOT_XML as error:
        collector.problem("label unreadable", file, f"not XML that can be read ({error}); left out")
        return
    if tree.tag.casefold() != "annotation" and tree.find("object") is None:
        return  # XML about something else, such as pom.xml
    size_hw = _labelled_size(tree)
    source = images.of(file, _text(tree, "folder"), _text(tree, "filename"), size_hw)
    if source is None:
        return
    try:
        size_hw = size_hw or image_size(source)
    except InputError as error:
        collector.problem("image unreadable", source, f"{error}; left out")
        return
    name = str(source.relative_to(root)) if source.is_relative_to(root) else str(source)
    # Masks lie beside Annotations, of which there may be several (VOC2007, VOC2012).
    top = _annotations_folder(file.parent).parent
    if top not in masks:
        masks[top] = VocMasks(top, collector.class_names)
    collector.add(name, source, size_hw, _objects(tree, file, masks[top], collector))


def _annotations_folder(folder: Path) -> Path:
    """``Annotations``, where that is the folder or above it; else the folder itself."""
    return next((p for p in (folder, *folder.parents) if p.name.casefold() == ANNOTATIONS.casefold()), folder)


def _objects(tree: ElementTree.Element, file: Path, masks: VocMasks, collector: Collector) -> Iterator[RawObject]:
    for i, element in enumerate(tree.iter("object")):
        where = f"{file}, object {i + 1}"
        try:
            x1, y1, x2, y2 = (_number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
            difficult = _difficult(element)
        except ValueError as error:
            collector.problem("label unreadable", where, f"{error}; left out")
            continue
        class_name = _text(element, "name")
        mask = masks.of(file.stem, i + 1, class_name, (x1, y1, x2, y2))
        turned = _turned(element)
        yield RawObject(where, (x1, y1, x2, y2), class_name, difficult=difficult, mask=mask, turned=turned)


def _difficult(element: ElementTree.Element) -> bool:
    try:
        return flag(element.findtext("difficult"))
    except ValueError as error:
        raise ValueError(f"difficult: {error}") from error


def _turned(element: ElementTree.Element) -> float:
    """By how many degrees its box is turned: CVAT's attribute, beside a ``bndbox`` as it was before."""
    for attribute in element.iter("attribute"):
        if (attribute.findtext("name") or "").strip() == "rotation":
            try:
                return float(attribute.findtext("value") or 0)
            except ValueError:
                return 0.0  # the user's own attribute, which says something else
    return 0.0


class _Images:
    """Finds the image that an annotation file is about."""

    def __init__(self, root: Path, collector: Collector) -> None:
        self._root, self._collector = root, collector
        self._finders: dict[Path, ImageFinder] = {}
        self._places: dict[Path, tuple[ImageFinder, tuple[str, ...]]] = {}

    def of(self, file: Path, folder: str, file_name: str, size_hw: tuple[int, int] | None) -> Path | None:
        """The image with the name of ``file``, else the one that ``<filename>`` in it names; ``None`` is a problem.

        The file's own name goes first: labelling tools leave ``<filename>`` as it was when both are renamed.

        Args:
            file: the annotation file.
            folder: what it calls the folder of its image, which decides only between several images.
            file_name: what it calls its image, which may be empty or a path of another computer.
            size_hw: of the image according to the labels.
        """
        if file.parent not in self._places:
            self._places[file.parent] = self._place(file.parent)
        finder, below = self._places[file.parent]
        name = name_parts(file_name)[-1]
        own = finder.of_stem((*below, file.stem)) or (finder.named(file.stem) if is_image(file.stem) else [])
        if len(own) > 1:  # of several endings or in several folders, <filename> and <folder> mean one
            own = [image for image in own if same_name(image.name) == same_name(name)] or own
            own = [image for image in own if image.parent.name == folder] or own
        if own and same_name(own[0].stem) == same_name(os.path.splitext(name)[0]):
            named = own
        else:
            # The ending may be another where images were converted.
            named = (finder.named(file_name) or finder.named(os.path.splitext(file_name)[0])) if name else []
            named = [image for image in named if image.parent.name == folder] or named
        if len(own or named) > 1:
            self._missing(file, f"{len(own or named)} images could be it, {', '.join(i.name for i in own or named)}")
            return None
        if own and named and own != named:
            return self._in_conflict(file, own[0], named[0], size_hw)
        if own:
            return own[0]
        if not named:
            names = [f"{file.stem}{ending}" for ending in sorted(OTHER_EXTENSIONS)]
            other = next((name for name in names for place in finder.folders if (place / name).is_file()), None)
            reason = "" if other is None else f"; {other} is of a format that is not read"
            self._missing(file, f"no image {file.stem} in {IMAGE_FOLDERS[0]} or beside it{reason}")
            return None
        # That image has an annotation file of its own: taking it here would give it these objects, too.
        if file.with_stem(named[0].stem).is_file():
            self._missing(file, f"no image {file.stem}; <filename> is {named[0].name}, which has labels of its own")
            return None
        return named[0]

    def _place(self, folder: Path) -> tuple[ImageFinder, tuple[str, ...]]:
        """What finds the images of a folder of annotation files, and where that is below ``Annotations``."""
        root = _annotations_folder(folder)
        if root not in self._finders:
            places = [root.parent / IMAGE_FOLDERS[0], root, root.parent / IMAGE_FOLDERS[1], root.parent]
            folders = [place for place in places if place.is_dir()]
            self._finders[root] = ImageFinder(folders, self._collector.name, self._root)
        return self._finders[root], folder.relative_to(root).parts

    def _missing(self, file: Path, what: str) -> None:
        self._collector.problem("image missing", file, f"{what}; left out")

    def _in_conflict(self, file: Path, own: Path, named: Path, size_hw: tuple[int, int] | None) -> Path:
        """The one of two images that the labels are about: decided by its size, else by the name of the file."""
        chosen = own
        if size_hw is not None and image_size_or_error(own) != size_hw == image_size_or_error(named):
            chosen = named
        self._collector.problem(
            "image misnamed",
            file,
            f"<filename> is {named.name}, but this file has the name of {own.name}: its boxes are used for "
            f"{chosen.name}{', which has the size that is labelled' if chosen is named else ''}",
        )
        return chosen


def _parsed(file: Path) -> ElementTree.Element:
    """The outermost element of an XML file in any encoding that Python knows.

    Unicode is recognised by the content: some tools declare UTF-16 and write UTF-8.
    """
    # Parsed from text decoded here: expat itself knows few encodings, and trusts wrong declarations.
    content = file.read_bytes()
    declared = _DECLARED.match(content[:_DECLARATION])
    encoding = declared[1].decode() if declared is not None else "utf-8"
    text = decode_text(content, file) if encoding.lower().startswith("utf") else content.decode(encoding)
    tree = ElementTree.fromstring(text)  # of a str, the declared encoding is ignored
    # Names are compared without the namespace that a tool may declare.
    for element in tree.iter():
        element.tag = element.tag.rpartition("}")[2]
    return tree


def _labelled_size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width) according to the labels; many tools leave it out or write zeros."""
    try:
        height, width = _number(tree, "size/height"), _number(tree, "size/width")
    except ValueError:
        return None
    return (int(height), int(width)) if 1 <= height < 2**31 and 1 <= width < 2**31 else None


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"expected a number in <{path.replace('/', '><')}>, got {text!r}") from None


def is_xml_name(name: str) -> bool:
    """Whether a file of that name may hold annotations: GDAL writes ``IMAGE.aux.xml`` beside an image."""
    return name.lower().endswith(".xml") and not name.lower().endswith(".aux.xml")


def _bare(text: str, annotations: str) -> str:
    """A name or path in a list without its ending and the folders down to that of images or annotations."""
    parts = name_parts(text)
    tops = {same_name(folder) for folder in (annotations, *IMAGE_FOLDERS)}
    start = max((i + 1 for i, part in enumerate(parts[:-1]) if same_name(part) in tops), default=0)
    stem, suffix = os.path.splitext(parts[-1])
    return "/".join((*parts[start:-1], stem if is_image(parts[-1]) or suffix.lower() == ".xml" else parts[-1]))
