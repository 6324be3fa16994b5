"""YOLO's labels: a text file for each image, with a line for each object.

A line is ``class x y width height`` (centre, fractions of the image), perhaps followed by a score or by key points; or
``class x1 y1 x2 y2 x3 y3 …``, the corners of a polygon or of a rotated box. Nothing in a file says which, so the
lines of a whole split are interpreted together.
"""

from __future__ import annotations

import math
import os
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Dataset
from phidet.data.mask_labels import NO_MASK, polygons_label
from phidet.data.text import read_text
from phidet.images.decode import image_size_or_error

MOST_CLASSES = 10_000
_LINE = "expected 'class x y width height' or 'class x1 y1 x2 y2 x3 y3 …'"
_FEWEST = 3  # lines from which key points may be inferred
_SLACK = 0.1  # of the box's sides by which a key point may lie outside


class Item(NamedTuple):
    """An image and its labels.

    Attributes:
        name: path by which the image is known, where links keep their names.
        image: the file itself.
        label: the file with its labels; ``None`` where there is none: the image has no objects.
    """

    name: Path
    image: Path
    label: Path | None


class ClassLists(NamedTuple):
    """What the class ids 0, 1, … of label files are called.

    Attributes:
        default: in all folders that have no list of their own.
        by_folder: lists of single folders, for the label files in them.
        assumed: whether ``default`` was made up, as no list was found.
    """

    default: Sequence[str]
    by_folder: Mapping[Path, Sequence[str]] = {}
    assumed: bool = False

    def of(self, label: Path) -> Sequence[str]:
        """The classes of one label file."""
        return self.by_folder.get(label.parent, self.default)

    def names(self) -> list[str]:
        """The names of all lists; what one list names twice stays, so that it is found."""
        known = list(self.default)
        for names in self.by_folder.values():
            known += [name for name in names if name not in known]
        return known


class KeyPoints(NamedTuple):
    """How many key points follow a box, and how many numbers each of them has (``kpt_shape``)."""

    points: int
    numbers: int

    @property
    def values(self) -> int:
        """Numbers of a line without its class."""
        return 4 + self.points * self.numbers


class _Rows(NamedTuple):
    """The lines of a label file that are not empty, packed.

    Attributes:
        lines: their numbers in the file.
        values: the numbers in all of them, one line after the other.
        lengths: how many each line has; 0 where they are not numbers.
    """

    lines: array[int]
    values: array[float]
    lengths: array[int]

    def numbered(self) -> Iterator[tuple[int, array[float]]]:
        """Line number and numbers of each line."""
        start = 0
        for line, length in zip(self.lines, self.lengths, strict=True):
            yield line, self.values[start : start + length]
            start += length


class _Shape(NamedTuple):
    """What the lines of a split are.

    Attributes:
        key_points: what follows their boxes; ``None`` where several corners make a polygon.
        declared: whether the data declare it.
        scores: whether a fifth number after the class is a score.
        rotated: whether every polygon has four corners: rotated boxes, which are no masks.
    """

    key_points: KeyPoints | None
    declared: bool
    scores: bool
    rotated: bool = False


def count_classes(items: Sequence[Item]) -> int:
    """One more than the largest class id in the labels, for folders that name no classes.

    Ids from ``MOST_CLASSES`` on are mistakes, and are reported as such when the labels are read.
    """
    largest = -1
    for item in items:
        rows = _rows(item.label)
        for _, values in rows.numbered() if isinstance(rows, _Rows) else ():
            if values and values[0].is_integer() and values[0] < MOST_CLASSES:
                largest = max(largest, int(values[0]))
    return largest + 1


def holds_labels(path: Path) -> bool:
    """Whether the first line of a file that is not empty consists of the numbers of an object."""
    rows = _rows(path, limit=1)
    return isinstance(rows, _Rows) and bool(rows.lengths) and rows.lengths[0] >= 5 and rows.values[0].is_integer()


def could_hold_labels(path: Path) -> bool:
    """Whether the first line that is not empty ends like a label, which may be damaged; captions and notes do not."""
    try:
        words = next((line.split() for line in read_text(path).splitlines() if line.strip()), [])
        return len(words) >= 5 and all(map(math.isfinite, map(float, words[-4:])))
    except InputError:
        return True  # its reader reports what is wrong
    except ValueError:
        return False


def read_yolo(
    items: Sequence[Item],
    root: Path,
    name: str,
    *,
    class_names: Sequence[str],
    own: ClassLists,
    key_points: KeyPoints | None = None,
) -> Dataset:
    """The images with their labels; one without a label file has no objects.

    Args:
        items: image and label files.
        root: the data folder, which names of images are relative to.
        name: of the split.
        class_names: the classes to read, by name.
        own: what the ids of the labels are called.
        key_points: what follows each box, where the data declare it.
    """
    collector = Collector(name, root, class_names)
    with ThreadPoolExecutor() as pool:
        # Headers and labels are many small files: threads hide the latency of the disk.
        sizes = pool.map(image_size_or_error, [item.image for item in items])
        labels = list(pool.map(_rows, [item.label for item in items]))
    shape = _shape([rows for rows in labels if isinstance(rows, _Rows)], key_points)
    _report_assumptions(items, labels, shape, own, collector)
    for item, size, rows in zip(items, sizes, labels, strict=True):
        if isinstance(size, InputError):
            # Lists name images that are not there; that is another mistake than a damaged file.
            kind = "image unreadable" if os.path.isfile(item.image) else "image missing"
            collector.problem(kind, item.image, f"{size}; left out")
        elif isinstance(rows, InputError):  # the image without its objects would teach that there are none
            collector.problem("label unreadable", item.label, f"{rows}; the image is left out")
        else:
            known = str(item.name.relative_to(root)) if item.name.is_relative_to(root) else str(item.name)
            collector.add(known, item.image, size, _objects(item.label, rows, shape, size, own, collector))
    return collector.dataset()


def _rows(file: Path | None, limit: int | None = None) -> _Rows | InputError:
    """The first ``limit`` lines of a label file that are not empty, or all; an error where it cannot be read."""
    # Packed: large data have tens of millions of numbers, which take four times the memory as objects.
    rows = _Rows(array("l"), array("d"), array("l"))
    try:
        lines = () if file is None else read_text(file).splitlines()
    except InputError as error:
        return error
    for i, line in enumerate(lines, start=1):
        words = line.split()
        if words:
            try:
                values = [float(word) for word in words]
            except ValueError:
                values = []
            rows.lines.append(i)
            rows.values.extend(values)
            rows.lengths.append(len(values))
            if len(rows.lines) == limit:
                break
    return rows


def _shape(labels: Sequence[_Rows], declared: KeyPoints | None) -> _Shape:
    """What the lines of a split are, from all of them."""
    lengths = {length - 1 for rows in labels for length in rows.lengths if length}
    scores = 5 not in lengths or all(
        0 <= values[5] <= 1 for rows in labels for _, values in rows.numbered() if len(values) == 6
    )
    if declared is not None:
        return _Shape(declared, True, scores)
    # Only lines longer than a box with a score can hold key points or polygons.
    long = [length for length in lengths if length > 5]
    # Key points are equally many for every object; 8 numbers are four corners, which every rotated box has.
    if len(long) != 1 or long[0] == 8:
        return _Shape(None, False, scores, rotated=long == [8])
    lines = [values[1:] for rows in labels for _, values in rows.numbered() if len(values) == long[0] + 1]
    table = np.array(lines, np.float64)
    for numbers in (3, 2):
        found = KeyPoints((long[0] - 4) // numbers, numbers)
        enough = len(table) >= _FEWEST or long[0] % 2 == 1  # an odd number is no polygon at all
        if found.values == long[0] and enough and _are_key_points(table, numbers):
            return _Shape(found, False, scores)
    return _Shape(None, False, scores)


def _are_key_points(table: npt.NDArray[np.float64], numbers: int) -> bool:
    """Whether the rows are x, y, width, height and points that lie in this box; points at 0, 0 are not visible.

    Pairs could be the corners of a polygon, too: then the "box" is its first two corners. The second of them lies near
    the others, where a width and a height as a rule do not; unless objects are large, but then points fill their box.
    """
    centre, size = table[:, None, :2], table[:, None, 2:4]
    points = table[:, 4:].reshape(len(table), -1, numbers)
    places = points[..., :2]
    hidden = (places == 0).all(-1)
    if numbers == 3:
        if not np.isin(points[..., 2], (0, 1, 2)).all():
            return False
        hidden |= points[..., 2] == 0
    inside = (np.abs(places - centre) <= size * (0.5 + _SLACK)).all(-1)
    if hidden.all() or not (inside | hidden).all():
        return False
    if numbers == 3:
        return True
    # Only points that are visible: hidden ones lie at 0, 0.
    low = np.where(hidden[..., None], np.inf, places).min(1)
    high = np.where(hidden[..., None], -np.inf, places).max(1)
    low, high, size = (array[~hidden.all(1)] for array in (low, high, size[:, 0]))
    extent = high - low
    far = ((size < low - extent) | (size > high + extent)).any(1)
    filled = (extent / np.maximum(size, 1e-9)).min(1)
    return bool(far.mean() > 0.5 or np.median(filled) > 0.5)


def _report_assumptions(
    items: Sequence[Item], labels: Sequence[_Rows | InputError], shape: _Shape, own: ClassLists, collector: Collector
) -> None:
    """Reports, once for the split, what was assumed about labels that do not state it."""
    shared: dict[Path, list[str]] = defaultdict(list)
    scored = 0
    for item, rows in zip(items, labels, strict=True):
        if item.label is not None and isinstance(rows, _Rows):
            shared[item.label].append(item.image.name)
            scored += rows.lengths.count(6) if shape.scores else 0
    for label, images in shared.items():
        if len(images) > 1 and len(set(images)) > 1:
            what = f"these labels are shared by {len(images)} images ({', '.join(images[:4])}): each has their objects"
            collector.problem("label shared", label, what)
    if not shared:
        return
    first = next(iter(shared))
    if own.assumed and own.default:
        what = f"no list of classes (classes.txt, obj.names, data.yaml) is there: they are called {own.default[0]}, …"
        collector.problem("class names missing", first.parent, what)
    if scored:
        what = f"{scored:,} lines have a sixth number, taken for a score and not used"
        collector.problem("score unused", first.parent, what)
    if shape.key_points is not None and not shape.declared:
        points, numbers = shape.key_points
        what = (
            f"every long line is taken for a box and {points} key points of {numbers} numbers, which lie in it; "
            f"'kpt_shape: [{points}, {numbers}]' in data.yaml would say so"
        )
        collector.problem("key points inferred", first.parent, what)


def _objects(
    file: Path | None, rows: _Rows, shape: _Shape, size_hw: tuple[int, int], own: ClassLists, collector: Collector
) -> Iterator[RawObject]:
    height, width = size_hw
    own_names = () if file is None else own.of(file)
    for line, numbers in rows.numbered():
        where = f"{file}, line {line}"
        if len(numbers) < 5 or not numbers[0].is_integer():
            collector.problem("label unreadable", where, f"{_LINE}; left out")
            continue
        box = _box(numbers[1:], shape)
        if isinstance(box, str):
            collector.problem("label unreadable", where, f"{box}; left out")
            continue
        # Slightly above 1 is rounding or a box that reaches out; above 2 it must be pixels.
        if max(box) > 2:
            collector.problem("box invalid", where, "expected fractions of the image, 0…1, got pixels; left out")
            continue
        class_id = int(numbers[0])
        known = 0 <= class_id < len(own_names)
        class_name = own_names[class_id] if known else f"class id {class_id}"
        x1, y1, x2, y2 = box
        mask = NO_MASK
        # Rotated boxes are labels of boxes; as masks they would be learned as rectangles.
        if len(numbers) > 6 and shape.key_points is None and not shape.rotated and math.isfinite(sum(numbers)):
            mask = polygons_label([np.array(numbers[1:]).reshape(-1, 2) * [width, height]])
        yield RawObject(where, (x1 * width, y1 * height, x2 * width, y2 * height), class_name, mask=mask)


def _box(values: array[float], shape: _Shape) -> tuple[float, float, float, float] | str:
    """x1, y1, x2, y2 in fractions of the image; or what is wrong."""
    n, key_points = len(values), shape.key_points
    if n == 5 and not shape.scores:
        return (
            f"the sixth number, {values[4]:g}, is no score in 0…1; a rotated box must have its four corners "
            "(class x1 y1 … x4 y4)"
        )
    # A declared or inferred set of key points may be followed by a score, too.
    if n in (4, 5) or (key_points is not None and n in (key_points.values, key_points.values + 1)):
        x, y, w, h = values[:4]
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    if key_points is not None and shape.declared:
        return (
            f"expected 5 or {key_points.values + 1} numbers (kpt_shape [{key_points.points}, {key_points.numbers}]), "
            f"got {n + 1}"
        )
    if n % 2:
        return f"{n + 1} numbers are neither box nor polygon; if key points follow a box, add kpt_shape to data.yaml"
    # The box around the polygon: alternating x and y.
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
