"""One kind of data set behind every layout on disk.

Annotations are held packed, a few arrays for the whole set, so that worker processes share them and memory stays flat
however many epochs read them. Images are decoded when they are asked for.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.data.tfrecord_file import ImageSource, RecordImage
from phidet.detections.fields import NO_FIELDS, Fields, join_fields, take_fields
from phidet.images.decode import read_image


class Annotations(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes_xyxy: (N, 4) float32, pixels of the image as :meth:`Dataset.image` gives it, inside it, never empty.
        class_ids: (N,) int64, 0…C−1.
        areas: (N,) float32, px²: of the object where the labels have it (COCO's segments), else of the box. It decides
            which objects count as small, medium and large.
        crowd: (N,) bool, regions of many objects (COCO's ``iscrowd``): never a target, never a mistake to detect.
        difficult: (N,) bool, hard to see (VOC): a target to train on, neither right nor wrong in VOC's evaluation.
        fields: more columns by name, one row for each object; see :mod:`phidet.detections.fields`.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float32]
    crowd: npt.NDArray[np.bool_]
    difficult: npt.NDArray[np.bool_]
    fields: Fields = NO_FIELDS

    def take(self, part: slice | npt.NDArray[np.bool_]) -> Annotations:
        """Some of the objects; views where ``part`` is a slice."""
        return Annotations(
            self.boxes_xyxy[part],
            self.class_ids[part],
            self.areas[part],
            self.crowd[part],
            self.difficult[part],
            take_fields(self.fields, part),
        )


class Problem(NamedTuple):
    """Something in the data that was left out or set right.

    Attributes:
        kind: "image missing", "image unreadable", "image misnamed", "image found by name", "image repeated",
            "label unreadable", "box invalid", "box empty", "box outside", "box clipped", "class unknown",
            "category ids with gaps", "grouping category"; of YOLO "class names missing", "image hidden", "image in no
            split", "key points inferred", "label shared", "path moved", "score unused". What
            :mod:`phidet.data.doctor.advice` has to say goes by it.
        where: file, and line, index or id in it.
        what: one sentence for the owner of the data.
        image: name of the image that it is about, where that is in the data set.
        box_xyxy: the box that it is about, pixels of that image; ``None`` also where it is not made of numbers.
    """

    kind: str
    where: str
    what: str
    image: str | None = None
    box_xyxy: tuple[float, ...] | None = None


class CocoIds(NamedTuple):
    """The numbers by which COCO's files name images and classes.

    Attributes:
        images: id → name of the image; several ids of one file have one name.
        categories: id → name of the class.
    """

    images: Mapping[int, str]
    categories: Mapping[int, str]


class Dataset:
    """Images with objects, by index.

    Attributes:
        name: of the split, for messages.
        class_names: their index is the class id.
        names: of the images, unique: paths relative to the data folder.
        problems: what the reader left out or set right.
        coco_ids: the ids that the data's own file has; ``None`` for other layouts than COCO JSON.
    """

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        *,
        names: Sequence[str],
        sources: Sequence[ImageSource],
        annotations: Sequence[Annotations],
        sizes_hw: npt.NDArray[np.int32],
        problems: Sequence[Problem] = (),
        coco_ids: CocoIds | None = None,
    ) -> None:
        self.coco_ids = coco_ids
        self.name, self.class_names, self.problems = name, tuple(class_names), list(problems)
        self.names: npt.NDArray[np.str_] = np.array(names, dtype=np.str_)
        records = [source if isinstance(source, RecordImage) else None for source in sources]
        paths = [str(source.path if isinstance(source, RecordImage) else source) for source in sources]
        self._paths: npt.NDArray[np.str_] = np.array(paths, dtype=np.str_)
        # Sources as two flat arrays instead of objects: forked workers then share the memory without touching counters.
        self._offsets: npt.NDArray[np.int64] = np.array([-1 if r is None else r.offset for r in records], np.int64)
        self._sizes_hw = sizes_hw
        self._starts = np.cumsum([0, *(len(a.class_ids) for a in annotations)])
        self._all = _concatenated(annotations)

    def __len__(self) -> int:
        return len(self.names)

    def annotations(self, index: int) -> Annotations:
        """The objects of image ``index``; views, not to be written to."""
        return self._all.take(slice(self._starts[index], self._starts[index + 1]))

    @property
    def all_annotations(self) -> Annotations:
        """The objects of all images, in their order."""
        return self._all

    def size_hw(self, index: int) -> tuple[int, int]:
        """Height and width of image ``index`` in pixels, without decoding it."""
        return int(self._sizes_hw[index, 0]), int(self._sizes_hw[index, 1])

    def source(self, index: int) -> ImageSource:
        """Where the encoded image lies."""
        path, offset = Path(str(self._paths[index])), int(self._offsets[index])
        return path if offset < 0 else RecordImage(path, offset)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Image ``index`` as RGB, (H, W, 3).

        Raises:
            InputError: it cannot be decoded, or its size is not the one that the boxes were made for.
        """
        image = read_image(self.source(index), self.size_hw(index))
        if image.shape[:2] != self.size_hw(index):
            raise InputError(
                f"{self.names[index]} has {image.shape[1]}×{image.shape[0]} pixels, its labels say "
                f"{self._sizes_hw[index, 1]}×{self._sizes_hw[index, 0]}: correct the labels, or bring the right image"
            )
        return image

    def subset(self, indices: Sequence[int], name: str) -> Dataset:
        """A data set of some of the images; problems of single boxes go with their images, others stay."""
        kept = {str(self.names[i]) for i in indices}
        return Dataset(
            name,
            self.class_names,
            names=[str(self.names[i]) for i in indices],
            sources=[self.source(i) for i in indices],
            annotations=[self.annotations(i) for i in indices],
            sizes_hw=self._sizes_hw[list(indices)],
            problems=[problem for problem in self.problems if problem.image is None or problem.image in kept],
            coco_ids=self.coco_ids,
        )

    def without(self, broken: Mapping[int, str]) -> Dataset:
        """The data set without some images, which become problems: index → why it cannot be used."""
        if not broken:
            return self
        kept = self.subset([index for index in range(len(self)) if index not in broken], self.name)
        for index, reason in sorted(broken.items()):
            kept.problems.append(Problem("image unreadable", str(self.source(index)), f"{reason}; left out"))
        return kept


def _concatenated(parts: Sequence[Annotations]) -> Annotations:
    return Annotations(
        _join((a.boxes_xyxy for a in parts), np.float32, (0, 4)),
        _join((a.class_ids for a in parts), np.int64),
        _join((a.areas for a in parts), np.float32),
        _join((a.crowd for a in parts), np.bool_),
        _join((a.difficult for a in parts), np.bool_),
        join_fields([(a.fields, len(a.areas)) for a in parts]),
    )


def _join(parts: Iterable[npt.NDArray[Any]], dtype: npt.DTypeLike, empty: tuple[int, ...] = (0,)) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(empty, dtype), *parts]).astype(dtype, copy=False)


class RawObject(NamedTuple):
    """An object as a label file describes it, not yet checked.

    Attributes:
        where: file and line, index or id, for messages.
        box_xyxy: pixels; may be anything.
        class_name: as in the label file.
        area: px², ``None`` where the labels have none; an invalid one is ignored.
        crowd, difficult: as in :class:`Annotations`.
    """

    where: str
    box_xyxy: tuple[float, float, float, float]
    class_name: str
    area: float | None = None
    crowd: bool = False
    difficult: bool = False


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
        InputError: two classes of one name.
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
        kept = [checked for o in objects if (checked := self._check(o, name, size_hw)) is not None]
        annotations = Annotations(
            np.array([box for box, _, _ in kept], np.float32).reshape(-1, 4),
            np.array([class_id for _, class_id, _ in kept], np.int64),
            np.array([(b[2] - b[0]) * (b[3] - b[1]) if o.area is None else o.area for b, _, o in kept], np.float32),
            np.array([o.crowd for _, _, o in kept], np.bool_),
            np.array([o.difficult for _, _, o in kept], np.bool_),
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
        """Everything that was added.

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
        sizes = np.array(self._sizes, np.int32).reshape(-1, 2)
        return Dataset(
            self.name,
            self.class_names,
            names=list(self._names),
            sources=self._sources,
            annotations=self._annotations,
            sizes_hw=sizes,
            problems=self.problems,
        )

    def _merge(self, index: int, name: str, size_hw: tuple[int, int], later: Annotations) -> None:
        """Merges a later entry of the same image into it."""
        count = len(later.class_ids)
        if size_hw != self._sizes[index]:  # the boxes are of another image, or of a resized copy
            height, width = self._sizes[index]
            what = (
                f"listed more than once, first with {width}×{height} pixels, then with {size_hw[1]}×{size_hw[0]}: "
                f"{count} {'object' if count == 1 else 'objects'} of the later entry left out"
            )
            self.problem("image repeated", name, what)
            return
        first = self._annotations[index]
        # Compared by class and box, so that a file that is listed twice does not double its objects.
        present = set(_keys(first))
        fresh = later.take(np.array([key not in present for key in _keys(later)], np.bool_))
        added = len(fresh.class_ids)
        if not added:
            self.problem("image repeated", name, "listed more than once, with the same objects: used once")
            return
        self._annotations[index] = _concatenated([first, fresh])
        objects, are = ("object", "is") if count == 1 else ("objects", "are")
        what = f"listed more than once: {added} of the {count} {objects} of the later entry {are} new and added"
        self.problem("image repeated", name, what)

    def _class_id(self, class_name: str) -> int | None:
        """``None`` where the class is not one of the classes."""
        found = self._ids.get(class_name)
        return found if found is not None else self._ids.get(unicodedata.normalize("NFC", class_name))

    def _check(
        self, o: RawObject, image: str, size_hw: tuple[int, int]
    ) -> tuple[tuple[float, float, float, float], int, RawObject] | None:
        """The box inside the image and the class id, or ``None`` where the object cannot be used."""
        finite = all(map(math.isfinite, o.box_xyxy))

        def tell(kind: str, what: str) -> None:
            self.problems.append(Problem(kind, o.where, what, image, o.box_xyxy if finite else None))

        self._objects += 1
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
        return box, class_id, o


def _keys(annotations: Annotations) -> Iterator[tuple[float, ...]]:
    """Keys by which two objects of an image are the same: class and box."""
    for class_id, box in zip(annotations.class_ids.tolist(), annotations.boxes_xyxy.tolist(), strict=True):
        yield class_id, *box


def box_text(box: Sequence[float]) -> str:
    """A box for messages: ``[1, 2.5, 3, 4]``."""
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
