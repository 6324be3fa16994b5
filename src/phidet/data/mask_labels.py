"""Masks as labels hold them: polygons, run lengths, or values in an image; made into pixels when they are needed.

What a label says is kept packed, in three arrays for a whole data set: pixels of all its objects would take a hundred
times the memory, and reading them all would take minutes before the first image.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.data.tfrecord_file import parse_example, read_record
from phidet.detections import rle
from phidet.detections.fields import Column
from phidet.detections.masks import Masks
from phidet.images.label_image import read_label_image

_SIZE = struct.Struct("<II")
_BOX = struct.Struct("<4d")
_VALUE = struct.Struct("<q")
_PLACE = struct.Struct("<qq")
IN_RECORD = "image/object/mask"
"""Name of the feature of a TFRecord that holds a PNG for each object; empty for one without a mask."""


class Kind(IntEnum):
    """How a mask is labelled."""

    NONE = 0  # the object has a box only
    POLYGONS = 1
    RUNS = 2  # COCO's compressed run lengths
    VALUE = 3  # the pixels of an image that hold a value
    NONZERO = 4  # the pixels of an image that are not 0
    VALUE_IN_BOX = 5  # the pixels of an image that hold a value, and lie in a box
    RECORD = 6  # the pixels of an image in a TFRecord file that are not 0


_BEFORE_PATH = {
    Kind.VALUE: _VALUE.size,
    Kind.NONZERO: 0,
    Kind.VALUE_IN_BOX: _BOX.size + _VALUE.size,
    Kind.RECORD: _PLACE.size,
}
"""Of labels with a path: how many bytes stand before it."""


class MaskLabel(NamedTuple):
    """One label, packed: its kind, and bytes that :class:`MaskLabels` understands."""

    kind: Kind
    content: bytes


NO_MASK = MaskLabel(Kind.NONE, b"")


def polygons_label(rings: Iterable[Sequence[float] | npt.NDArray[np.float64]]) -> MaskLabel:
    """A label of polygons, [x1, y1, x2, y2, …] or (P, 2) each, in pixels.

    Raises:
        InputError: a polygon with fewer than 3 corners, an odd number of coordinates, or some that are not finite.
    """
    parts = []
    for ring in rings:
        try:
            values = np.asarray(ring, np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise InputError(f"expected polygons [x1, y1, x2, y2, …], got {error}") from error
        if len(values) < 6 or len(values) % 2:
            raise InputError(f"a polygon has {len(values)} coordinates: expected x and y of at least 3 corners")
        if not np.isfinite(values).all():
            raise InputError("a polygon has coordinates that are infinite or no numbers")
        parts.append(values)
    if not parts:
        raise InputError("a mask has no polygon")
    # How many rings, how many coordinates each, then all coordinates.
    head = np.array([len(parts), *map(len, parts)], np.int64)
    return MaskLabel(Kind.POLYGONS, head.tobytes() + b"".join(values.tobytes() for values in parts))


def is_ring(ring: Any) -> bool:
    """Whether :func:`polygons_label` takes it as a polygon."""
    try:
        polygons_label([ring])
    except InputError:
        return False
    return True


def coco_label(segmentation: Any) -> MaskLabel:
    """A label from COCO's ``segmentation``: a list of polygons, or run lengths, compressed or not.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(segmentation, Mapping):
        if not isinstance(segmentation, list):
            raise InputError(f"expected polygons or run lengths, got {type(segmentation).__name__}")
        return polygons_label(segmentation)
    try:
        height, width = (int(side) for side in segmentation["size"])
        counts = segmentation["counts"]
        text = counts.encode("ascii") if isinstance(counts, str) else rle.encode_text(np.asarray(counts, np.int64))
        # Decoded once to see that it fits its size: later there would be no place in a file to name.
        rle.from_counts([rle.decode_text(text)], [(height, width)])
        return MaskLabel(Kind.RUNS, _SIZE.pack(height, width) + text)
    except (KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise InputError(f"expected run lengths with size and counts, got {error!r}") from error


def image_label(file: Path, value: int | None = None, within_xyxy: Sequence[float] | None = None) -> MaskLabel:
    """The pixels of a label image that hold ``value``, or those that are not 0; see :func:`read_label_image`.

    Args:
        file: the label image, of its image's size.
        value: of the object, or of its class.
        within_xyxy: a box in pixels outside which others have that value, too.
    """
    path = str(file).encode("utf-8", "surrogateescape")
    if value is None:
        return MaskLabel(Kind.NONZERO, path)
    if within_xyxy is None:
        return MaskLabel(Kind.VALUE, _VALUE.pack(value) + path)
    return MaskLabel(Kind.VALUE_IN_BOX, _BOX.pack(*within_xyxy) + _VALUE.pack(value) + path)


def record_label(file: Path, offset: int, number: int) -> MaskLabel:
    """The pixels that are not 0 of a mask in a TFRecord file.

    Args:
        file: the file.
        offset: where the record of the image starts.
        number: of the object in the record, from 0.
    """
    path = str(file).encode("utf-8", "surrogateescape")
    return MaskLabel(Kind.RECORD, _PLACE.pack(offset, number) + path)


class MaskLabels(Column):
    """The labels of N objects' masks; immutable.

    Attributes:
        kinds: (N,) uint8, of :class:`Kind`.
        starts: (N + 1,) int64, where each label begins in ``content``.
        content: (B,) uint8, the labels' bytes.
    """

    __slots__ = ("content", "kinds", "starts")

    def __init__(
        self, kinds: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], content: npt.NDArray[np.uint8]
    ) -> None:
        self.kinds, self.starts, self.content = kinds, starts, content

    @classmethod
    def of(cls, labels: Sequence[MaskLabel]) -> MaskLabels:
        """The labels, packed."""
        starts = np.cumsum([0, *(len(label.content) for label in labels)])
        content = np.frombuffer(b"".join(label.content for label in labels), np.uint8)
        return cls(np.array([label.kind for label in labels], np.uint8), starts.astype(np.int64), content)

    @classmethod
    def none(cls, count: int) -> MaskLabels:
        """``count`` objects that have boxes only."""
        return cls.of([NO_MASK] * count)

    @property
    def files(self) -> set[Path]:
        """The label images in which masks lie."""
        rows = np.flatnonzero(np.isin(self.kinds, [Kind.VALUE, Kind.NONZERO, Kind.VALUE_IN_BOX]))
        paths = {label.content[_BEFORE_PATH[label.kind] :] for label in map(self.label, rows.tolist())}
        return {_file(path) for path in paths}

    def said(self, row: int) -> bytes:
        """What a label says, without the path of the file that it is about."""
        kind, content = self.label(row)
        return content[: _BEFORE_PATH.get(kind, len(content))]

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the object has a mask."""
        known: npt.NDArray[np.bool_] = self.kinds != Kind.NONE
        return known

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, index: Any) -> MaskLabels:
        # A slice, the usual case, is a view: one image of a data set.
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            if step == 1:
                return MaskLabels(self.kinds[first:last], self.starts[first : max(last, first) + 1], self.content)
        rows = np.arange(len(self))[index]
        values, starts = rle.take_ragged(self.starts, rows)
        return MaskLabels(self.kinds[rows], starts, self.content[values])

    def label(self, row: int) -> MaskLabel:
        """One of the labels."""
        return MaskLabel(Kind(int(self.kinds[row])), self.content[self.starts[row] : self.starts[row + 1]].tobytes())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskLabels):
            return NotImplemented
        return len(self) == len(other) and all(self.label(i) == other.label(i) for i in range(len(self)))

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Without what lies outside a view: a worker should get the labels of its images, not of the whole data set.
        whole = self[np.arange(len(self))]
        return MaskLabels, (whole.kinds, whole.starts, whole.content)

    def joined(self, others: Sequence[MaskLabels]) -> MaskLabels:
        """These labels and those of others."""
        parts = [self, *others]
        # Views of one array keep what lies outside them, so that only the part from first to last is copied.
        starts = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.starts) for part in parts]))])
        content = [part.content[part.starts[0] : part.starts[-1]] for part in parts]
        return MaskLabels(np.concatenate([part.kinds for part in parts]), starts, np.concatenate(content))

    def to_list(self) -> list[Any]:
        """COCO's ``segmentation`` of each object where its label holds it, else ``None``."""
        return [segmentation_of(self.label(i)) for i in range(len(self))]

    def masks(self, size_hw: tuple[int, int]) -> Masks:
        """The pixels of each object in its image of ``size_hw``; an empty mask for one that has none.

        Raises:
            InputError: a mask of another size, or a label image that cannot be read.
        """
        # Kind by kind, as each is made for many objects at once; the order of the objects is restored at the end.
        rows: dict[Kind, list[int]] = defaultdict(list)
        for row, kind in enumerate(self.kinds.tolist()):
            rows[Kind(kind)].append(row)
        parts = [Masks.empty(size_hw, len(rows[Kind.NONE]))]
        parts += [Masks.from_polygons([rings_of(self.label(row)) for row in rows[Kind.POLYGONS]], size_hw)]
        parts += [Masks.from_coco([segmentation_of(self.label(row)) for row in rows[Kind.RUNS]], size_hw)]
        order = rows[Kind.NONE] + rows[Kind.POLYGONS] + rows[Kind.RUNS]
        # A label image, which may hold all objects of its image, is read once.
        in_files: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
        boxes: dict[int, tuple[float, ...]] = {}
        for row in rows[Kind.VALUE] + rows[Kind.VALUE_IN_BOX]:
            content = self.label(row).content
            if self.kinds[row] == Kind.VALUE_IN_BOX:
                boxes[row] = _BOX.unpack_from(content)
                content = content[_BOX.size :]
            in_files[content[_VALUE.size :]].append((row, _VALUE.unpack_from(content)[0]))
        for path, found in in_files.items():
            values = [value for _, value in found]
            image = _label_image(path, size_hw)
            distinct, place = np.unique(values, return_inverse=True)
            masks = Masks.from_ids(image, distinct)[place]
            order += [row for row, _ in found]
            parts.append(masks if not boxes else _within(masks, [boxes.get(row) for row, _ in found]))
        for row in rows[Kind.NONZERO]:
            parts.append(Masks.from_full(_label_image(self.label(row).content, size_hw)[None]))
            order.append(row)
        # A record, which holds all masks of its image, is read once.
        records: dict[tuple[bytes, int], list[Any]] = {}
        for row in rows[Kind.RECORD]:
            content = self.label(row).content
            (offset, number), path = _PLACE.unpack_from(content), content[_PLACE.size :]
            if (path, offset) not in records:
                records[path, offset] = _encoded_masks(path, offset)
            parts.append(Masks.from_full(_decoded_mask(records[path, offset], number, path, size_hw)[None]))
            order.append(row)
        return parts[0].joined(parts[1:])[np.argsort(order)]


def _within(masks: Masks, boxes: Sequence[tuple[float, ...] | None]) -> Masks:
    """The masks without what lies outside their boxes."""
    corners, crops = [], []
    for ((left, top, _, _), crop), box in zip(masks.crops(), boxes, strict=True):
        x1, y1, x2, y2 = 0, 0, crop.shape[1], crop.shape[0]
        if box is not None:
            # Every pixel that the box touches.
            x1, y1 = max(math.floor(box[0]) - left, 0), max(math.floor(box[1]) - top, 0)
            x2, y2 = max(math.ceil(box[2]) - left, 0), max(math.ceil(box[3]) - top, 0)
        corners.append((left + x1, top + y1))
        crops.append(crop[y1:y2, x1:x2])
    return Masks.from_crops(corners, crops, masks.size_hw)


def _label_image(path: bytes, size_hw: tuple[int, int]) -> npt.NDArray[np.int32]:
    file = _file(path)
    return _of_size(read_label_image(file), str(file), size_hw)


def _file(path: bytes) -> Path:
    return Path(path.decode("utf-8", "surrogateescape"))


def _of_size(image: npt.NDArray[np.int32], where: str, size_hw: tuple[int, int]) -> npt.NDArray[np.int32]:
    if image.shape != tuple(size_hw):
        raise InputError(
            f"{where} has {image.shape[1]}×{image.shape[0]} pixels, its image {size_hw[1]}×{size_hw[0]}: masks have "
            "the size of their image"
        )
    return image


def _encoded_masks(path: bytes, offset: int) -> list[Any]:
    record = read_record(_file(path), offset)
    return parse_example(record).get(IN_RECORD, [])


def _decoded_mask(masks: Sequence[Any], number: int, path: bytes, size_hw: tuple[int, int]) -> npt.NDArray[np.int32]:
    where = f"{path.decode('utf-8', 'replace')}, mask {number + 1}"
    if not (number < len(masks) and isinstance(masks[number], bytes)):
        raise InputError(f"{where}: there is none any more")
    try:
        image = read_label_image(masks[number])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return _of_size(image, where, size_hw)


def rings_of(label: MaskLabel) -> list[npt.NDArray[np.float64]]:
    """The polygons of a label of that kind, (P, 2) each."""
    count = int(np.frombuffer(label.content, np.int64, 1)[0])
    lengths = np.frombuffer(label.content, np.int64, count, 8)
    values = np.frombuffer(label.content, np.float64, offset=8 * (1 + count))
    return [ring.reshape(-1, 2) for ring in np.split(values, np.cumsum(lengths)[:-1])]


def runs_size_hw(label: MaskLabel) -> tuple[int, int] | None:
    """The size of the image that a label of runs is made for; ``None`` for other kinds."""
    if label.kind != Kind.RUNS:
        return None
    height, width = _SIZE.unpack_from(label.content)
    return height, width


def segmentation_of(label: MaskLabel) -> Any:
    """COCO's ``segmentation``: polygons as polygons, runs compressed; ``None`` for other kinds."""
    if label.kind == Kind.POLYGONS:
        return [ring.reshape(-1).tolist() for ring in rings_of(label)]
    if label.kind == Kind.RUNS:
        return {"size": list(_SIZE.unpack_from(label.content)), "counts": label.content[_SIZE.size :].decode("ascii")}
    return None
