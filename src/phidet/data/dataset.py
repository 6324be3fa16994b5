"""One kind of data set behind every layout on disk.

Annotations are held packed, a few arrays for the whole set, so that worker processes share them and memory stays flat
however many epochs read them. Images are decoded when they are asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.data.mask_labels import MaskLabels
from phidet.data.tfrecord_file import ImageSource, RecordImage
from phidet.detections.boxes import area
from phidet.detections.fields import NO_FIELDS, Fields, join_fields, take_fields
from phidet.detections.masks import FIELD as MASKS
from phidet.detections.masks import Masks
from phidet.images.decode import Needed, Reduced, read_reduced


class Annotations(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes_xyxy: (N, 4) float32, pixels of the image as :meth:`Dataset.image` gives it, inside it, never empty.
        class_ids: (N,) int64, 0…C−1.
        areas: (N,) float32, px²: of the object where the labels have it (COCO's segments), else of the box. It decides
            which objects count as small, medium and large.
        crowd: (N,) bool, regions of many objects (COCO's ``iscrowd``): never a target, never a mistake to detect.
        difficult: (N,) bool, hard to see (VOC): a target to train on, neither right nor wrong in VOC's evaluation.
        fields: more columns by name, one row for each object; see :mod:`phidet.detections.fields`. Where labels have
            masks, "masks" is a :class:`~phidet.data.mask_labels.MaskLabels`.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float32]
    crowd: npt.NDArray[np.bool_]
    difficult: npt.NDArray[np.bool_]
    fields: Fields = NO_FIELDS

    @classmethod
    def of_boxes(
        cls, boxes_xyxy: npt.NDArray[np.float32], class_ids: npt.NDArray[np.int64], fields: Fields = NO_FIELDS
    ) -> Annotations:
        """Objects with the areas of their boxes, neither crowds nor difficult."""
        no = np.zeros(len(class_ids), np.bool_)
        return cls(boxes_xyxy, class_ids, area(boxes_xyxy), no, no, fields)

    @property
    def mask_labels(self) -> MaskLabels | None:
        """How the objects' masks are labelled; ``None`` where only boxes are."""
        labels = self.fields.get(MASKS)
        return labels if isinstance(labels, MaskLabels) else None

    def take(self, part: slice | npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Annotations:
        """Some of the objects; views where ``part`` is a slice."""
        return Annotations._make([*(column[part] for column in self[:-1]), take_fields(self.fields, part)])


class Problem(NamedTuple):
    """Something in the data that was left out or set right.

    Attributes:
        kind: "image missing", "image unreadable", "image size corrected", "image misnamed", "image found by name",
            "image repeated", "label unreadable", "mask invalid", "box invalid", "box empty", "box outside", "box
            clipped", "box turned", "class unknown", "category ids with gaps", "grouping category"; of YOLO "class names
            missing", "image hidden", "image in no split", "key points inferred", "label shared", "path moved", "score
            unused"; of the doctor "mask empty", "mask misplaced", "mask outside", "mask overlapping".
            :mod:`phidet.data.doctor.advice` has advice for each.
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
        sizes_hw: (N, 2) int32, height and width of each image in pixels.
        counts: (N,) int64, how many objects each image has.
        problems: what the reader left out or set right.
        coco_ids: the ids that the data's own file has; ``None`` for other layouts than COCO JSON.
        right: name of an image → whether what it shows is complete and right; of images where that is known.
        frames: name of an image → the video that it is a frame of, and its number there; only where the objects of
            such images have identities, which are then their groups: those of one number are one object.
        stuff: ids of the classes that are no countable things, such as sky: one segment of each in an image.
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
        self.stuff: frozenset[int] = frozenset()
        self.right: Mapping[str, bool] = {}
        self.frames: Mapping[str, tuple[str, int]] = {}
        self.name, self.class_names, self.problems = name, tuple(class_names), list(problems)
        self.names: npt.NDArray[np.str_] = np.array(names, dtype=np.str_)
        # Sources as two flat arrays instead of objects: forked workers then share the memory without touching counters.
        flat = [(s.path, s.offset) if isinstance(s, RecordImage) else (s, -1) for s in sources]
        self._paths: npt.NDArray[np.str_] = np.array([str(path) for path, _ in flat], dtype=np.str_)
        self._offsets: npt.NDArray[np.int64] = np.array([offset for _, offset in flat], np.int64)
        self.sizes_hw = sizes_hw
        self._hold(annotations)

    def _hold(self, annotations: Sequence[Annotations]) -> None:
        # Objects of image i are rows starts[i] … starts[i + 1] of the packed arrays.
        self.counts = np.array([len(a.class_ids) for a in annotations], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._all = _concatenated(annotations)

    def __len__(self) -> int:
        return len(self.names)

    def annotations(self, index: int) -> Annotations:
        """The objects of image ``index``; views, not to be written to."""
        return self._all.take(slice(self._starts[index], self._starts[index + 1]))

    def masks(self, index: int) -> Masks | None:
        """The pixels of the objects of image ``index``, empty for those without a mask; ``None`` where none has one.

        Raises:
            InputError: a label image cannot be read, or its size is not the image's.
        """
        labels = self.annotations(index).mask_labels
        return None if labels is None else labels.masks(self.size_hw(index))

    @property
    def all_annotations(self) -> Annotations:
        """The objects of all images, in their order."""
        return self._all

    def size_hw(self, index: int) -> tuple[int, int]:
        """Height and width of image ``index`` in pixels, without decoding it."""
        return int(self.sizes_hw[index, 0]), int(self.sizes_hw[index, 1])

    @property
    def sources(self) -> list[ImageSource]:
        """Where each of the encoded images lies."""
        return [self.source(index) for index in range(len(self))]

    def source(self, index: int) -> ImageSource:
        """Where the encoded image lies."""
        path, offset = Path(str(self._paths[index])), int(self._offsets[index])
        return path if offset < 0 else RecordImage(path, offset)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Image ``index`` as RGB, (H, W, 3).

        Raises:
            InputError: it cannot be decoded, or its size is not the one that the boxes were made for.
        """
        return self.reduced(index, None).pixels

    def reduced(self, index: int, needed: Needed | None) -> Reduced:
        """Image ``index``, decoded as small as what is ``needed`` allows.

        Raises:
            InputError: as :meth:`image`.
        """
        image = read_reduced(self.source(index), needed, self.size_hw(index))
        # Boxes were checked against the labelled size; on an image of another they would lie elsewhere.
        if image.size_hw != self.size_hw(index):
            raise InputError(
                f"{self.names[index]} has {image.size_hw[1]}×{image.size_hw[0]} pixels, its labels say "
                f"{self.sizes_hw[index, 1]}×{self.sizes_hw[index, 0]}: correct the labels, or bring the right image"
            )
        return image

    def subset(self, indices: Sequence[int], name: str) -> Dataset:
        """A data set of some of the images; problems of single boxes go with their images, others stay."""
        part, rows = copy.copy(self), np.array(indices, np.int64)
        part.name, part.names, part.sizes_hw = name, self.names[rows], self.sizes_hw[rows]
        part._paths, part._offsets = self._paths[rows], self._offsets[rows]
        part._hold([self.annotations(i) for i in indices])
        kept = set(part.names.tolist())
        part.problems = [problem for problem in self.problems if problem.image is None or problem.image in kept]
        return part

    def relabelled(self, annotations: Sequence[Annotations], class_names: Sequence[str]) -> Dataset:
        """The same images with other objects, one entry for each, of other classes."""
        other = self.with_annotations(annotations)
        other.class_names = tuple(class_names)
        # Both refer to the classes that the data had before.
        other.coco_ids, other.stuff = None, frozenset()
        return other

    def with_annotations(self, annotations: Sequence[Annotations], problems: Sequence[Problem] = ()) -> Dataset:
        """The same images with other objects of the same classes, one entry for each, and with more problems."""
        other = copy.copy(self)
        other.problems = [*self.problems, *problems]
        other._hold(annotations)
        return other

    def renamed(self, names: Sequence[str]) -> Dataset:
        """The data set with other names of its images, which must be unique."""
        other = copy.copy(self)
        other.names = np.array(names, dtype=np.str_)
        return other

    def without(self, broken: Mapping[int, str]) -> Dataset:
        """The data set without some images, which become problems: index → why it cannot be used."""
        if not broken:
            return self
        kept = self.subset([index for index in range(len(self)) if index not in broken], self.name)
        for index, reason in sorted(broken.items()):
            kept.problems.append(Problem("image unreadable", str(self.source(index)), f"{reason}; left out"))
        return kept


def _concatenated(parts: Sequence[Annotations]) -> Annotations:
    # No objects in front: they give the types and shapes where there are no parts, or parts of other types.
    nothing = Annotations.of_boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    columns = zip(*(part[:-1] for part in (nothing, *parts)), strict=True)
    joined = (np.concatenate(column).astype(column[0].dtype, copy=False) for column in columns)
    return Annotations._make([*joined, join_fields([(a.fields, len(a.areas)) for a in parts])])
