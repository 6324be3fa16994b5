"""Checks images and objects of every layout, each once and in the same way."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from phidet.core.errors import InputError
from phidet.core.words import count
from phidet.data.dataset import Annotations, Dataset, Problem, _concatenated
from phidet.data.mask_labels import NO_MASK, MaskLabel, MaskLabels, runs_size_hw
from phidet.data.tfrecord_file import ImageSource
from phidet.detections.graphs.related import GROUP
from phidet.detections.masks import FIELD as MASKS


class RawObject(NamedTuple):
    """An object as a label file describes it, not yet checked.

    Attributes:
        where: file and line, index or id, for messages.
        box_xyxy: pixels; may be anything.
        class_name: as in the label file.
        area: px², ``None`` where the labels have none; an invalid one is ignored.
        crowd, difficult: as in :class:`Annotations`.
        mask: which pixels belong to it.
        group: number of the group that it belongs to, ``None`` for none.
        turned: degrees by which the box is turned around its centre, in either direction.
    """

    where: str
    box_xyxy: tuple[float, float, float, float]
    class_name: str
    area: float | None = None
    crowd: bool = False
    difficult: bool = False
    mask: MaskLabel = NO_MASK
    group: int | None = None
    turned: float = 0.0


SMALLEST_SIDE = 1e-3  # pixels; a box below that is a point or a line, whatever rounding made of it


LARGEST = 1e30  # pixels; beyond that float32 overflows


TOLERANCE = 1.0  # pixels outside the image that are rounding, and not reported


# Fractions of an image that are taken for pixels end up in its first two pixels (two: x + width where both are
# fractions), where boxes drawn by hand do not lie. In an icon they may.
FRACTIONS_END = 2.0  # pixels


SMALLEST_FOR_FRACTIONS = 32  # pixels, of the shorter side of the image


class Collector:
    """Collects a reader's images and objects, and checks each of them the same way for every layout.

    Class names are compared in Unicode's composed form: macOS and some tools write "ü" as two characters.

    Args:
        name: of the split.
        root: the data folder, for messages.
        class_names: the classes to read, by name.
        in_pixels: whether the layout has boxes in pixels, so that fractions are a mistake to look for.

    Raises:
        InputError: two classes of one name, or one without a name.
    """

    def __init__(self, name: str, root: Path, class_names: Sequence[str], *, in_pixels: bool = False) -> None:
        self.name, self.root = name, root
        self.class_names = tuple(unicodedata.normalize("NFC", class_name) for class_name in class_names)
        self.problems: list[Problem] = []
        self._ids = {class_name: i for i, class_name in enumerate(self.class_names)}
        if len(self._ids) < len(self.class_names):
            twice = sorted(class_name for class_name, n in Counter(self.class_names).items() if n > 1)
            raise InputError(
                f"{root}: the class {', '.join(twice)} is named more than once: give each class its own name"
            )
        nameless = [str(i) for i, class_name in enumerate(self.class_names) if not class_name.strip()]
        if nameless:
            raise InputError(f"{root}: class {', '.join(nameless)} has no name: give each class its own name")
        self._in_pixels = in_pixels
        self._objects, self._in_fractions = 0, 0
        self._first_in_fractions: RawObject | None = None
        # Index of each image by name: a dict keeps the order and finds repeated entries at once.
        self._names: dict[str, int] = {}
        self._sources: list[ImageSource] = []
        self._annotations: list[Annotations] = []
        self._sizes: list[tuple[int, int]] = []

    def problem(self, kind: str, where: object, what: str) -> None:
        """Notes something that is left out or set right."""
        self.problems.append(Problem(kind, str(where), what))

    def add(self, name: str, source: ImageSource, size_hw: tuple[int, int], objects: Iterable[RawObject]) -> str:
        """One image of ``size_hw`` pixels with its objects; objects that cannot be used become problems.

        An image that was added before gets those objects that it does not have yet. Another image of the same name is
        called by its place.

        Returns:
            what the image is called.
        """
        # Two different images may have one name in different folders; the path tells them apart.
        if self.source(name) not in (None, source):
            name = str(source)
        upright = (self._upright(o, name) for o in objects)
        kept = [checked for o in upright if (checked := self._check(o, name, size_hw)) is not None]
        annotations = Annotations(
            np.array([box for box, _, _ in kept], np.float32).reshape(-1, 4),
            np.array([class_id for _, class_id, _ in kept], np.int64),
            np.array([(b[2] - b[0]) * (b[3] - b[1]) if o.area is None else o.area for b, _, o in kept], np.float32),
            np.array([o.crowd for _, _, o in kept], np.bool_),
            np.array([o.difficult for _, _, o in kept], np.bool_),
            {
                MASKS: MaskLabels.of([o.mask for _, _, o in kept]),
                GROUP: np.array([-1 if o.group is None else o.group for _, _, o in kept], np.int64),
            },
        )
        index = self._names.setdefault(name, len(self._sources))
        if index < len(self._sources):
            self._merge(index, name, size_hw, annotations)
        else:
            self._sources.append(source)
            self._sizes.append(size_hw)
            self._annotations.append(annotations)
        return name

    def source(self, name: str) -> ImageSource | None:
        """Where the image of that name lies; ``None`` where none was added."""
        index = self._names.get(name)
        return None if index is None else self._sources[index]

    def dataset(self) -> Dataset:
        """The data set of all that was added.

        Raises:
            InputError: most boxes are fractions of the image where pixels were expected.
        """
        first = self._first_in_fractions
        if first is not None and self._in_fractions > self._objects / 2:
            raise InputError(
                f"{first.where}: {self._in_fractions} of {self._objects} boxes look like fractions of the image "
                f"(0…1), for example {box_text(first.box_xyxy)} (x1, y1, x2, y2); expected pixels. Multiply x by the "
                "width and y by the height of each image"
            )
        # A field that says nothing of any object is left out.
        masks = any(a.mask_labels is not None and a.mask_labels.known.any() for a in self._annotations)
        groups = any((np.asarray(a.fields[GROUP]) >= 0).any() for a in self._annotations)
        used = {name for name, is_used in ((MASKS, masks), (GROUP, groups)) if is_used}
        annotations = [a._replace(fields={n: v for n, v in a.fields.items() if n in used}) for a in self._annotations]
        return Dataset(
            self.name,
            self.class_names,
            names=list(self._names),
            sources=self._sources,
            annotations=annotations,
            sizes_hw=np.array(self._sizes, np.int32).reshape(-1, 2),
            problems=self.problems,
        )

    def _merge(self, index: int, name: str, size_hw: tuple[int, int], later: Annotations) -> None:
        """Merges a later entry of the same image into it."""
        first, listed = self._annotations[index], count(len(later.class_ids), "object")
        # Compared by class and box, so that a file that is listed twice does not double its objects.
        present = set(_keys(first))
        fresh = later.take(np.array([key not in present for key in _keys(later)], np.bool_))
        if size_hw != self._sizes[index]:  # the boxes are of another image, or of a resized copy
            (height, width), (later_height, later_width) = self._sizes[index], size_hw
            what = f", first with {width}×{height} pixels, then with {later_width}×{later_height}: {listed} of the "
            what += "later entry left out"
        elif not len(fresh.class_ids):
            what = ", with the same objects: used once"
        else:
            self._annotations[index] = _concatenated([first, fresh])
            are = "is" if len(later.class_ids) == 1 else "are"
            what = f": {len(fresh.class_ids)} of the {listed} of the later entry {are} new and added"
        self.problem("image repeated", name, f"listed more than once{what}")

    def _class_id(self, class_name: str) -> int | None:
        """The class id; ``None`` where the class is not one of the classes."""
        found = self._ids.get(class_name)
        return found if found is not None else self._ids.get(unicodedata.normalize("NFC", class_name))

    def _upright(self, o: RawObject, image: str) -> RawObject:
        """The object in the upright box around its turned one."""
        # A mask says what is there, whatever a box was before it was turned.
        if o.mask != NO_MASK or not all(map(math.isfinite, (*o.box_xyxy, o.turned))) or o.turned % 180 == 0:
            return o
        box = around_turned(o.box_xyxy, o.turned)
        what = f"its box is turned by {o.turned:g}°; the upright one around it is used"
        self.problems.append(Problem("box turned", o.where, what, image, box))
        return o._replace(box_xyxy=box)

    def _check(
        self, o: RawObject, image: str, size_hw: tuple[int, int]
    ) -> tuple[tuple[float, float, float, float], int, RawObject] | None:
        """The box inside the image and the class id, or ``None`` where the object cannot be used."""
        finite = all(map(math.isfinite, o.box_xyxy))

        def tell(kind: str, what: str) -> None:
            self.problems.append(Problem(kind, o.where, what, image, o.box_xyxy if finite else None))

        self._objects += 1
        # The class first: of a class that was not asked for, nothing else matters.
        class_id = self._class_id(o.class_name)
        if class_id is None:
            tell("class unknown", f"class {o.class_name!r} is not one of the classes; left out")
            return None
        height, width = size_hw
        # Also false for NaN, which then counts as missing.
        if o.area is not None and not 0 <= o.area < LARGEST:
            o = o._replace(area=None)
        if not finite:
            tell("box invalid", f"box {box_text(o.box_xyxy)} is not made of numbers; left out")
            return None
        # Judged as float32, as which it is kept, so that what was kept once is kept again.
        x1, y1, x2, y2 = (float(np.float32(min(max(value, -LARGEST), LARGEST))) for value in o.box_xyxy)
        if x2 - x1 < SMALLEST_SIDE or y2 - y1 < SMALLEST_SIDE:
            tell("box empty", f"box {box_text(o.box_xyxy)} has no area; left out")
            return None
        if self._in_pixels and max(x2, y2) <= FRACTIONS_END and min(size_hw) >= SMALLEST_FOR_FRACTIONS:
            self._in_fractions += 1
            self._first_in_fractions = self._first_in_fractions or o
            tell("box invalid", f"box {box_text(o.box_xyxy)} looks like fractions, 0…1; expected pixels; left out")
            return None
        box = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if box[2] - box[0] < SMALLEST_SIDE or box[3] - box[1] < SMALLEST_SIDE:
            tell("box outside", f"box {box_text(o.box_xyxy)} is outside {width}×{height} pixels; left out")
            return None
        if max(abs(a - b) for a, b in zip(box, o.box_xyxy, strict=True)) > TOLERANCE:
            tell("box clipped", f"box {box_text(o.box_xyxy)} reaches out of {width}×{height} pixels; cut")
        # Run lengths that were made for another size of image show nonsense; polygons are cut at its border.
        own_size_hw = runs_size_hw(o.mask)
        if own_size_hw not in (None, size_hw):
            own_height, own_width = own_size_hw or size_hw
            tell("mask invalid", f"its mask has {own_width}×{own_height} pixels, its image {width}×{height}; left out")
            o = o._replace(mask=NO_MASK)
        return box, class_id, o


def around_turned(box_xyxy: tuple[float, float, float, float], degrees: float) -> tuple[float, float, float, float]:
    """The upright box around a box that is turned around its centre."""
    x1, y1, x2, y2 = box_xyxy
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    half_width, half_height = (x2 - x1) / 2, (y2 - y1) / 2
    x, y = half_width * cos + half_height * sin, half_width * sin + half_height * cos
    return (x1 + x2) / 2 - x, (y1 + y2) / 2 - y, (x1 + x2) / 2 + x, (y1 + y2) / 2 + y


def _keys(annotations: Annotations) -> Iterator[tuple[float, ...]]:
    """Keys by which two objects of an image are the same: class and box."""
    for class_id, box in zip(annotations.class_ids.tolist(), annotations.boxes_xyxy.tolist(), strict=True):
        yield class_id, *box


def box_text(box: Sequence[float]) -> str:
    """A box for messages: ``[1, 2.5, 3, 4]``."""
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
