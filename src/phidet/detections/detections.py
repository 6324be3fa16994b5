"""The detections of one image: a checked, immutable table with conversions to other formats."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.core.addresses import is_address
from phidet.core.errors import ConfigError, InputError, UnknownNameError
from phidet.detections.convertible import Convertible
from phidet.detections.fields import (
    TRACK_ID,
    Column,
    Fields,
    check_fields,
    equal_fields,
    field_values,
    take_fields,
)
from phidet.detections.masks import FIELD, Masks
from phidet.detections.names import listed_names

if TYPE_CHECKING:
    from phidet.images.decode import ImageLike

Index = slice | npt.NDArray[np.bool_] | npt.NDArray[np.int64] | list[int]


class Detection(NamedTuple):
    """One object.

    Attributes:
        box_xyxy: pixels of the original image.
        score: 0…1.
        class_id: 0…C−1.
        label: name of the class.
    """

    box_xyxy: tuple[float, float, float, float]
    score: float
    class_id: int
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Detections(Convertible):
    """The objects found in one image, by descending score; immutable, checked and sorted on construction.

    Attributes:
        boxes_xyxy: (N, 4) float32, pixels of the original image, x1 ≤ x2 and y1 ≤ y2.
        scores: (N,) float32, 0…1, descending; equal ones keep the given order.
        class_ids: (N,) int64, 0…C−1.
        names: the C class names of the model; empty if unknown.
        image_size_hw: of the original image.
        fields: more columns by name, one row for each object: :attr:`masks`, track ids, …; see
            :mod:`phidet.detections.fields`. Every operation carries them along.
        segments: what each pixel of the image belongs to, where the network says that: segments with masks that do not
            overlap, whose field "is_thing" tells countable things from stuff such as sky. Filtering objects leaves
            them as they are. See :func:`phidet.detections.segments.label_map`.
        image_ref: returns the image that was detected on, or ``None`` where it is gone; neither compared nor pickled.

    Raises:
        InputError: arrays of different lengths, NaN or infinity, a score outside 0…1, a box of negative size, a
            class that has no name, masks of another image size.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    names: tuple[str, ...] = ()
    image_size_hw: tuple[int, int] | None = field(default=None)
    fields: Fields = field(default_factory=dict)
    segments: Detections | None = field(default=None)
    image_ref: Callable[[], ImageLike | None] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        boxes, scores, given = (np.asarray(a) for a in (self.boxes_xyxy, self.scores, self.class_ids))
        count = len(scores) if scores.ndim else -1
        if boxes.shape != (count, 4) or scores.shape != (count,) or given.shape != (count,):
            raise InputError(
                f"expected boxes (N, 4), scores (N,), classes (N,), got {boxes.shape}, {scores.shape}, {given.shape}"
            )
        if count and given.dtype.kind not in "iu":
            raise InputError(f"expected classes as whole numbers, got {given.dtype}")
        fields = check_fields(self.fields, count)
        order = np.argsort(-scores.astype(np.float32), kind="stable")
        # The class is frozen, so the sorted, read-only copies are set past its own __setattr__.
        for name, array, dtype in (
            ("boxes_xyxy", boxes, np.float32),
            ("scores", scores, np.float32),
            ("class_ids", given, np.int64),
        ):
            ordered = array.astype(dtype)[order]
            ordered.flags.writeable = False
            object.__setattr__(self, name, ordered)
        ordered_fields = take_fields(fields, order)
        for values in ordered_fields.values():
            if not isinstance(values, Column):
                values.flags.writeable = False
        object.__setattr__(self, "fields", MappingProxyType(ordered_fields))
        object.__setattr__(self, "names", listed_names(self.names))
        object.__setattr__(self, "image_size_hw", _size_hw(self.image_size_hw))
        _check(self)

    @classmethod
    def empty(cls, names: Sequence[str] = (), image_size_hw: tuple[int, int] | None = None) -> Detections:
        """No detections."""
        nothing = np.zeros(0, np.float32)
        return cls(nothing.reshape(0, 4), nothing, np.zeros(0, np.int64), tuple(names), image_size_hw)

    @property
    def labels(self) -> list[str]:
        """Name of each object; the class's number if names are unknown."""
        return [self.names[c] if self.names else str(c) for c in self.class_ids.tolist()]

    @property
    def masks(self) -> Masks | None:
        """Which pixels belong to each object, from ``fields["masks"]``; ``None`` where only boxes are known."""
        masks = self.fields.get(FIELD)
        return masks if isinstance(masks, Masks) else None

    @property
    def image(self) -> ImageLike | None:
        """The image that was detected on, as the detector got it: a path, or the caller's own array or image while that
        exists. ``None`` where it is not known: detections do not keep pixels alive."""
        return None if self.image_ref is None else self.image_ref()

    def of_image(self, image: ImageLike) -> Detections:
        """The same objects, with the image that they were found in, for :meth:`show` and notebooks; an address is not
        kept, as showing something must not fetch it again."""
        if isinstance(image, str) and is_address(image):
            return self
        if isinstance(image, Path | str):
            return replace(self, image_ref=partial(_itself, image))
        return replace(self, image_ref=weakref.ref(image))

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        boxes, scores, class_ids = (a.tolist() for a in (self.boxes_xyxy, self.scores, self.class_ids))
        for box, score, class_id, label in zip(boxes, scores, class_ids, self.labels, strict=True):
            yield Detection(tuple(box), score, class_id, label)

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: Index) -> Detections: ...
    def __getitem__(self, index: int | Index) -> Detection | Detections:
        """One object by its number, or several by a slice, a mask or a list of numbers, best first again."""
        if isinstance(index, int | np.integer):
            position = range(len(self))[index]  # also resolves negative indices, and raises IndexError
            return next(iter(self[position : position + 1]))
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[index],
            scores=self.scores[index],
            class_ids=self.class_ids[index],
            fields=take_fields(self.fields, index),
        )

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same objects in the same order, bit for bit, and equal fields, names and image size."""
        if not isinstance(other, Detections):
            return NotImplemented
        return (
            np.array_equal(self.boxes_xyxy, other.boxes_xyxy)
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.class_ids, other.class_ids)
            and (self.names, self.image_size_hw) == (other.names, other.image_size_hw)
            and equal_fields(self.fields, other.fields)
            and self.segments == other.segments
        )

    __hash__ = None  # type: ignore[assignment]  # holds arrays

    def __reduce__(self) -> tuple[type[Detections], tuple[object, ...]]:
        columns = self.boxes_xyxy, self.scores, self.class_ids
        # Frozen dataclasses with slots and read-only mappings cannot be pickled as they are: pickling goes through the
        # constructor.
        return Detections, (*columns, self.names, self.image_size_hw, dict(self.fields), self.segments)

    def __repr__(self) -> str:
        found = ", ".join(f"{count} {label}" for label, count in self.counts().items())
        return f"<Detections: {found or 'nothing'}>"

    def counts(self) -> dict[str, int]:
        """How many objects of each class, the most frequent first; only classes that were found."""
        ids, counts = np.unique(self.class_ids, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {
            self.names[c] if self.names else str(c): n
            for c, n in zip(ids[order].tolist(), counts[order].tolist(), strict=True)
        }

    def filter(self, score: float = 0.0, classes: Iterable[str | int] | None = None) -> Detections:
        """The objects of at least ``score`` and of one of ``classes`` (names or numbers; ``None`` for all).

        Raises:
            UnknownNameError: a class that is not among :attr:`names`.
            ConfigError: ``classes`` is a single name or number instead of a list, or the score no number.
        """
        if not isinstance(score, int | float | np.number):
            raise ConfigError(f"expected a score in 0…1, got {score!r}")
        kept = self.scores >= score
        if isinstance(classes, str | int):
            raise ConfigError(f"expected a list of classes, got {classes!r}: [{classes!r}]?")
        if classes is not None:
            kept &= np.isin(self.class_ids, [self._class_id(c) for c in classes])
        return self[kept]

    def draw(self, image: Path | str | Image.Image | npt.NDArray[np.uint8]) -> Image.Image:
        """A copy of ``image`` in RGB with the objects' outlines and labels; with masks, or segments, if there are any.

        Args:
            image: the one that was detected on: a path, a Pillow image, or (H, W, 3) uint8 RGB.

        Raises:
            InputError: it cannot be read, or its size differs from :attr:`image_size_hw`.
        """
        # Imported here, as drawing is slow to import and a server never draws.
        from phidet.detections.draw import draw_boxes  # noqa: PLC0415
        from phidet.detections.draw_masks import draw_masks  # noqa: PLC0415
        from phidet.images.decode import as_pil_image  # noqa: PLC0415

        shown = as_pil_image(image)
        if self.image_size_hw is not None and (shown.height, shown.width) != tuple(self.image_size_hw):
            height, width = self.image_size_hw
            raise InputError(
                f"expected the image that was detected on, {width}×{height}, got {shown.width}×{shown.height}"
            )
        framed = None
        if self.segments is not None and self.segments.masks is not None:
            # Every pixel has its colour already, so that objects get their frames and labels only.
            shown = draw_masks(shown, self.segments.masks, self.segments.class_ids)
        elif self.masks is not None:
            shown = draw_masks(shown, self.masks, self.class_ids)
            framed = self.masks.areas == 0  # an outline says more than a frame around it
        labels = [f"{d.label} {d.score:.0%}" for d in self]
        ids = self.fields.get(TRACK_ID)
        if ids is not None:  # what follows an object over time says more than its score in one frame
            labels = [f"{label} {i}" for label, i in zip(self.labels, field_values(ids), strict=True)]
        return draw_boxes(shown, self.boxes_xyxy, self.class_ids, labels, framed=framed)

    def with_fields(self, fields: Fields) -> Detections:
        """The same objects with more columns, in the order of the objects; a field of the same name is replaced.

        Raises:
            InputError: a name that is taken, or another number of rows.
        """
        return replace(self, fields={**self.fields, **fields})

    def _class_id(self, wanted: str | int) -> int:
        if isinstance(wanted, str):
            if wanted not in self.names:
                raise UnknownNameError("class", wanted, self.names)
            return self.names.index(wanted)
        if not 0 <= wanted < (len(self.names) or wanted + 1):
            raise ConfigError(f"there is no class {wanted}: expected 0…{len(self.names) - 1}")
        return wanted


def _itself(image: Path | str) -> Path | str:
    return image


def _size_hw(size: Any) -> tuple[int, int] | None:
    """Height and width as they are kept, whatever sequence they came in."""
    if size is None:
        return None
    with suppress(TypeError, ValueError):  # other types, and other numbers of sides
        height, width = (operator.index(side) for side in size)
        if min(height, width) >= 0:
            return height, width
    raise InputError(f"expected the image's size as (height, width) in pixels, got {size!r}")


def _check(found: Detections) -> None:
    boxes, scores, class_ids, names = found.boxes_xyxy, found.scores, found.class_ids, found.names
    if found.masks is not None and found.image_size_hw not in (None, found.masks.size_hw):
        (mask_h, mask_w), (height, width) = found.masks.size_hw, found.image_size_hw or (0, 0)
        raise InputError(f"masks have {mask_w}×{mask_h} pixels, the image {width}×{height}")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise InputError("detections hold NaN or infinity: the network is broken; check its weights or its training")
    if not len(scores):
        return
    if scores.min() < 0 or scores.max() > 1:
        raise InputError(f"expected scores 0…1, got {scores.min():g}…{scores.max():g}")
    if (wrong := (boxes[:, 2:] < boxes[:, :2]).any(axis=1)).any():
        raise InputError(f"expected x1 ≤ x2 and y1 ≤ y2, got box {boxes[int(wrong.argmax())].tolist()}")
    if class_ids.min() < 0 or (names and class_ids.max() >= len(names)):
        expected = f"0…{len(names) - 1}" if names else "0 and more"
        raise InputError(f"expected classes {expected}, got {class_ids.min()}…{class_ids.max()}")
