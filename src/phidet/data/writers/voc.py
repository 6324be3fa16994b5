"""Writes Pascal VOC: ``Annotations``, ``JPEGImages`` and a list for each split in ``ImageSets/Main``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from phidet.core.errors import ConfigError
from phidet.core.numbers import shortest_float
from phidet.core.words import few
from phidet.data.dataset import Dataset, Problem
from phidet.data.readers.voc_masks import CLASSES, OBJECTS
from phidet.data.writers.files import (
    FreeNames,
    PreparedImage,
    Written,
    atomic_folder,
    check_splits,
    count_written,
    decodable_images,
    file_name,
    marks_lost,
    text_name,
)
from phidet.data.writers.masks import masks_left_out, readable_or_none, voc_images
from phidet.images.label_image import palette_colour

_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_voc(datasets: Mapping[str, Dataset], out: Path) -> Written:
    """Writes ``out/JPEGImages/NAME``, ``out/Annotations/NAME.xml`` and ``out/ImageSets/Main/SPLIT.txt``.

    Masks become ``SegmentationObject`` and ``SegmentationClass``, whose numbers ``labelmap.txt`` names; where objects
    overlap, the smallest keeps the pixels. Boxes stand as they are, in pixels, whole numbers without a point. An image
    that several splits share is written once. Regions of many objects (``iscrowd``) are left out and areas are lost:
    VOC has no place for them. Nor has it a list of classes, so that those without an object are lost.
    :attr:`Written.problems` counts all of these.

    Args:
        datasets, out: as :func:`~phidet.data.writers.coco.write_coco` takes them. ``_`` in the name of a split becomes
            ``-``: VOC takes ``cat_train.txt`` for a list of one class.

    Raises:
        ConfigError, InputError, PhidetError: as there, or where two splits would get one name, or the name of a class
            cannot be written in XML.
    """
    check_splits(datasets)
    lists = {split: f"{split.replace('_', '-')}.txt" for split in datasets}
    if len(set(lists.values())) < len(lists):
        raise ConfigError(f"the splits {', '.join(lists)} would have the same lists in VOC: choose others with --split")
    class_names = next(iter(datasets.values())).class_names
    for class_name in class_names:
        if _NO_XML.search(class_name) or class_name != class_name.strip():
            raise ConfigError(f"the class name {class_name!r} cannot be written in XML: rename the class first")
    written = Written({}, {}, [], [])
    with atomic_folder(out) as folder:
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        images = _Images(folder)
        for split, dataset in datasets.items():
            kept, stems = [], []
            for index, image in decodable_images(dataset, range(len(dataset)), written.problems, for_tensorflow=False):
                stems.append(images.write(dataset, index, image, written.problems))
                kept.append(index)
            count_written(written, split, dataset, kept, crowd=False)
            written.problems.extend(marks_lost(split, dataset, kept, "VOC", difficult=False))
            (folder / "ImageSets/Main" / lists[split]).write_text("".join(f"{s}\n" for s in stems), encoding="utf-8")
            written.files.append(Path("ImageSets/Main", lists[split]))
            images.list_segmented(stems, lists[split])
        images.write_summary(class_names, written.problems)
        # Classes are known from the objects only, so one without an object would be gone when the data are read.
        occurring = {class_names[c] for dataset in datasets.values() for c in set(dataset.all_annotations.class_ids)}
        missing = [class_name for class_name in class_names if class_name not in occurring]
        if missing:
            what = f"{len(missing):,} classes without an object ({few(missing)}); VOC has no list of classes"
            written.problems.append(Problem("class not kept", "all splits", what))
    return written


class _Images:
    """Writes images with their annotation files, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._names = folder, FreeNames(by_stem=True)
        self._stems: dict[tuple[str, bytes], str] = {}
        self._segmented: set[str] = set()
        self._hidden, self._unmasked = 0, 0

    def write(self, dataset: Dataset, index: int, image: PreparedImage, problems: list[Problem]) -> str:
        """The stem of an image's files, which are written unless an earlier split had the same image and objects."""
        source = dataset.source(index)
        tree = _annotation(dataset, index)
        # By source and content: the same image with other objects in another split needs files of its own.
        known = str(source), ElementTree.tostring(tree)
        if known not in self._stems:
            wanted = text_name(file_name(str(dataset.names[index]), index, image.format, source))
            name = self._names.claim(PurePosixPath(wanted.name))  # VOC knows no folders
            (self._folder / "JPEGImages" / name).write_bytes(image.content)
            tree[1].text = name
            ElementTree.indent(tree, "\t")
            # The image's name, with a suffix where it was taken, is only known now; its element was left empty for it.
            stem = PurePosixPath(name).stem
            if self._write_masks(dataset, index, stem, problems):
                tree[3].text = "1"
            file = self._folder / "Annotations" / f"{stem}.xml"
            file.write_bytes(ElementTree.tostring(tree, encoding="utf-8") + b"\n")
            self._stems[known] = stem
        return self._stems[known]

    def list_segmented(self, stems: Sequence[str], file: str) -> None:
        """Lists those of a split's images that have masks."""
        text = "".join(f"{stem}\n" for stem in stems if stem in self._segmented)
        if text:
            (self._folder / "ImageSets/Segmentation").mkdir(exist_ok=True)
            (self._folder / "ImageSets/Segmentation" / file).write_text(text, encoding="utf-8")

    def write_summary(self, class_names: Sequence[str], problems: list[Problem]) -> None:
        """Writes which number is which class in the label images, and notes what they could not hold."""
        if self._segmented:
            colours = [(name, palette_colour(i)) for i, name in enumerate(("background", *class_names))]
            text = "".join(f"{name}:{','.join(map(str, rgb))}::\n" for name, rgb in colours)
            (self._folder / "labelmap.txt").write_text(text, encoding="utf-8")
        if self._hidden:
            what = f"{self._hidden:,} pixels of several objects; VOC gives each to one, here to the smallest"
            problems.append(Problem("mask overlap lost", "all splits", what))
        if self._unmasked:
            why = "has them for all objects of an image or none, and for 254 at most"
            problems.append(masks_left_out("all splits", "VOC", self._unmasked, why))

    def _write_masks(self, dataset: Dataset, index: int, stem: str, problems: list[Problem]) -> bool:
        """Writes the label images of an image that has masks; returns whether it has."""
        labels = dataset.annotations(index).mask_labels
        if labels is None or not labels.known.any():
            return False
        masks = readable_or_none(voc_images, dataset, index, problems)
        if masks is None:
            self._unmasked += int(labels.known.sum())
            return False
        for name, image in ((OBJECTS, masks.objects), (CLASSES, masks.classes)):
            (self._folder / name).mkdir(exist_ok=True)
            image.save(self._folder / name / f"{stem}.png")
        self._segmented.add(stem)
        self._hidden += masks.hidden
        return True


def _annotation(dataset: Dataset, index: int) -> ElementTree.Element:
    """The content of an annotation file; its second element waits for the name of the image."""
    height, width = dataset.size_hw(index)
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", "")
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, key, str(value))
    _add(root, "segmented", "0")
    a = dataset.annotations(index)
    for k in range(len(a.class_ids)):
        if a.crowd[k]:
            continue
        element = ElementTree.SubElement(root, "object")
        _add(element, "name", dataset.class_names[a.class_ids[k]])
        _add(element, "pose", "Unspecified")
        _add(element, "truncated", "0")
        _add(element, "difficult", str(int(a.difficult[k])))
        box = ElementTree.SubElement(element, "bndbox")
        for key, number in zip(("xmin", "ymin", "xmax", "ymax"), a.boxes_xyxy[k], strict=True):
            # Many readers take whole numbers only, so those that are whole have no point.
            _add(box, key, str(int(number)) if number == int(number) else repr(shortest_float(number)))
    return root


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text
