"""The forms that detections come from and go to: a base of :class:`phidet.Detections`, which has the objects.

What is more than a few lines is in modules of its own, imported when it is used: :mod:`phidet.detections.tables`,
:mod:`phidet.detections.foreign`, :mod:`phidet.detections.notebook`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.numbers import shortest_float
from phidet.core.optional import optional_package
from phidet.detections.fields import Column, Fields, Parts, field_values
from phidet.detections.masks import FIELD, Masks

if TYPE_CHECKING:
    from phidet.detections.detections import Detections
    from phidet.detections.foreign import BoxForm
    from phidet.images.decode import ImageLike


class DetectionsJson(TypedDict):
    """The JSON of one image's detections; numbers have the fewest digits that give the same float32.

    ``image_size_hw`` is [height, width] or null; ``detections`` are best first, each with ``box_xyxy`` in pixels,
    ``score``, ``class_id``, ``label``, ``mask`` (COCO's compressed runs: ``size`` [height, width] and ``counts``) where
    there are masks, and every other field by its name. ``segments`` are alike, where the network finds some.
    """

    image_size_hw: list[int] | None
    detections: list[dict[str, Any]]
    segments: NotRequired[list[dict[str, Any]]]


class Convertible:
    """Conversions of detections; the attributes are those of :class:`phidet.Detections`."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def boxes_xyxy(self) -> npt.NDArray[np.float32]: ...
        @property
        def scores(self) -> npt.NDArray[np.float32]: ...
        @property
        def class_ids(self) -> npt.NDArray[np.int64]: ...
        @property
        def image_size_hw(self) -> tuple[int, int] | None: ...
        @property
        def fields(self) -> Fields: ...
        @property
        def labels(self) -> list[str]: ...
        @property
        def masks(self) -> Masks | None: ...
        @property
        def segments(self) -> Detections | None: ...
        def __len__(self) -> int: ...

    # Ways out

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO's results, best first: ``image_id``, ``category_id``, ``bbox`` (left, top, width, height), ``score``,
        ``segmentation`` (compressed runs) where there are masks, and every other field by its name.

        Args:
            image_id: of the image in the data set's JSON.
            category_ids: of each class; ``None`` for class number + 1, as phidet writes data sets and as COCO's own 90
                categories are numbered.
        """
        categories = self.class_ids + 1 if category_ids is None else np.asarray(category_ids, np.int64)[self.class_ids]
        columns = (categories.tolist(), self.boxes_xyxy, self.scores)
        return [
            {"image_id": int(image_id), "category_id": c, "bbox": _xywh(box), "score": shortest_float(score)} | extra
            for c, box, score, extra in zip(*columns, self._extra_rows("segmentation"), strict=True)
        ]

    def to_dict(self) -> DetectionsJson:
        """What :meth:`to_json` writes, as plain lists, dictionaries and numbers."""
        size = None if self.image_size_hw is None else [int(side) for side in self.image_size_hw]
        written: DetectionsJson = {"image_size_hw": size, "detections": self._rows()}
        if self.segments is not None:
            written["segments"] = self.segments._rows()
        return written

    def _rows(self) -> list[dict[str, Any]]:
        columns = (self.boxes_xyxy, self.scores, self.class_ids.tolist(), self.labels)
        return [
            {
                "box_xyxy": [shortest_float(v) for v in box],
                "score": shortest_float(score),
                "class_id": c,
                "label": label,
            }
            | extra
            for box, score, c, label, extra in zip(*columns, self._extra_rows("mask"), strict=True)
        ]

    def to_json(self) -> str:
        """One line of JSON (:class:`DetectionsJson`)."""
        return msgspec.json.encode(self.to_dict()).decode()

    def to_supervision(self) -> Any:
        """A ``supervision.Detections``: masks as full images, labels as ``data["class_name"]``, fields beside them;
        track ids as ``tracker_id`` as well.

        Raises:
            MissingExtraError: the ``supervision`` extra is not installed.
        """
        make = optional_package("supervision", "Detections.to_supervision", "supervision").Detections
        data = {name: v.copy() for name, v in self.fields.items() if not isinstance(v, Column)}
        # Theirs has a place of its own for ids, which many of its functions read.
        ids = data.get("track_id")
        return make(
            xyxy=self.boxes_xyxy.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.copy(),
            mask=None if self.masks is None else self.masks.to_full(),
            tracker_id=ids if ids is not None and ids.dtype.kind in "iu" else None,
            data={"class_name": np.array(self.labels, dtype=np.str_), **data},
        )

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``, a row for each object: ``x1``, ``y1``, ``x2``, ``y2``, ``score``, ``class_id``,
        ``label``, ``mask`` where there are masks, and every other field by its name (:mod:`phidet.detections.tables`).

        Raises:
            MissingExtraError: pandas is not installed.
        """
        from phidet.detections.tables import to_pandas  # noqa: PLC0415

        return to_pandas(self._self())

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table`` with the columns of :meth:`to_pandas`.

        Raises:
            MissingExtraError: pyarrow is not installed.
            InputError: a field of a type that Arrow does not have.
        """
        from phidet.detections.tables import to_arrow  # noqa: PLC0415

        return to_arrow(self._self())

    def to_polars(self) -> Any:
        """A ``polars.DataFrame`` with the columns of :meth:`to_pandas`.

        Raises:
            MissingExtraError: polars is not installed.
            InputError: a field of a type that polars does not have.
        """
        from phidet.detections.tables import to_polars  # noqa: PLC0415

        return to_polars(self._self())

    # Ways in

    @classmethod
    def from_arrays(
        cls,
        boxes: Any,
        scores: Any = None,
        class_ids: Any = None,
        names: Sequence[str] = (),
        image_size_hw: tuple[int, int] | None = None,
        *,
        form: BoxForm = "xyxy",
        fields: Mapping[str, Any] | None = None,
    ) -> Detections:
        """From arrays, lists or tensors of any library, on any device.

        Args:
            boxes: (N, 4) in pixels of the original image.
            scores: (N,), 0…1; 1 for all unless given.
            class_ids: (N,), 0…C−1, whole numbers of any type; 0 for all unless given.
            names: of the C classes.
            image_size_hw: of the original image.
            form: of the boxes: corners ("xyxy"), left, top, width, height ("xywh") or centre, width, height ("cxcywh").
            fields: more columns, (N, …); ``masks`` may be (N, H, W) of bool.

        Raises:
            InputError: arrays of different lengths, NaN, a score outside 0…1, a box of negative size.
        """
        from phidet.detections.foreign import Source, from_arrays  # noqa: PLC0415

        return cls._of(from_arrays(boxes, scores, class_ids, Source(names, image_size_hw), form, fields or {}))

    @classmethod
    def from_coco(
        cls,
        results: Sequence[Mapping[str, Any]],
        names: Sequence[str] = (),
        image_size_hw: tuple[int, int] | None = None,
        category_ids: Sequence[int] | None = None,
    ) -> Detections:
        """From COCO's results, or annotations, of one image: the inverse of :meth:`to_coco`.

        Args:
            results: with ``category_id`` and ``bbox``, and perhaps ``score`` (else 1) and ``segmentation``.
            names: of the classes.
            image_size_hw: of the original image; needed where masks are polygons.
            category_ids: of each class; ``None`` for class number + 1.

        Raises:
            InputError: results of several images, or without those keys.
        """
        from phidet.detections.foreign import Source, from_coco  # noqa: PLC0415

        return cls._of(from_coco(results, Source(names, image_size_hw), category_ids))

    @classmethod
    def from_yolo(cls, text: str | Path, image_size_hw: tuple[int, int], names: Sequence[str] = ()) -> Detections:
        """From YOLO's text: lines of class, centre x and y, width and height (shares of the image) and perhaps a
        score (else 1), or of class and outline, which becomes a mask.

        Args:
            text: the text itself, or the :class:`~pathlib.Path` of a file.
            image_size_hw: of the original image.
            names: of the classes.

        Raises:
            InputError: another text, or no file there.
        """
        from phidet.detections.foreign import Source, from_yolo  # noqa: PLC0415

        return cls._of(from_yolo(text, Source(names, image_size_hw)))

    @classmethod
    def from_supervision(
        cls, theirs: Any, names: Sequence[str] = (), image_size_hw: tuple[int, int] | None = None
    ) -> Detections:
        """From a ``supervision.Detections``; ``tracker_id`` becomes the field ``track_id``.

        Args:
            theirs: as supervision, or one of its many ``from_…``, made it.
            names: of the classes; without, those that ``data["class_name"]`` shows.
            image_size_hw: of the original image.
        """
        from phidet.detections.foreign import Source, from_supervision  # noqa: PLC0415

        return cls._of(from_supervision(theirs, Source(names, image_size_hw)))

    @classmethod
    def from_ultralytics(cls, result: Any, names: Sequence[str] = ()) -> Detections:
        """From one of the results that an ``ultralytics.YOLO`` returns: boxes (of oriented ones those around them),
        track ids and masks.

        Args:
            result: one image's; not imported, only read.
            names: of the classes; without, those of the result.
        """
        from phidet.detections.foreign import Source, from_ultralytics  # noqa: PLC0415

        return cls._of(from_ultralytics(result, Source(names)))

    @classmethod
    def from_pandas(
        cls, frame: Any, names: Sequence[str] | None = None, image_size_hw: tuple[int, int] | None = None
    ) -> Detections:
        """From the rows of one image in a ``pandas.DataFrame``: the inverse of :meth:`to_pandas`.

        Args:
            frame: with ``x1``, ``y1``, ``x2``, ``y2``, ``class_id`` or ``label``, and perhaps ``score`` (else 1).
            names: of the classes; without, those that the frame knows.
            image_size_hw: of the original image; without, the one that the frame knows.

        Raises:
            InputError: columns are missing.
        """
        from phidet.detections.tables import from_pandas  # noqa: PLC0415

        return cls._of(from_pandas(frame, names, image_size_hw))

    @classmethod
    def from_arrow(
        cls, table: Any, names: Sequence[str] | None = None, image_size_hw: tuple[int, int] | None = None
    ) -> Detections:
        """From a ``pyarrow.Table``: the inverse of :meth:`to_arrow`; arguments as :meth:`from_pandas` has them."""
        from phidet.detections.tables import from_arrow  # noqa: PLC0415

        return cls._of(from_arrow(table, names, image_size_hw))

    @classmethod
    def from_polars(
        cls, frame: Any, names: Sequence[str] | None = None, image_size_hw: tuple[int, int] | None = None
    ) -> Detections:
        """From a ``polars.DataFrame``: the inverse of :meth:`to_polars`, where ``names`` and ``image_size_hw`` are
        given, which such a frame does not know; arguments as :meth:`from_pandas` has them."""
        from phidet.detections.tables import from_polars  # noqa: PLC0415

        return cls._of(from_polars(frame, names, image_size_hw))

    # For people

    def show(self, image: ImageLike | None = None) -> None:
        """Shows the image with what was found in it: in a notebook below the cell, else in the system's viewer.

        Args:
            image: the one that was detected on; unless given, the one that the detector was called with, where that
                still exists.

        Raises:
            InputError: that image is not known any more.
        """
        from phidet.detections.notebook import show  # noqa: PLC0415

        show(self._self(), image)

    def _repr_png_(self) -> bytes | None:
        """For notebooks: the image with what was found in it, where the image still exists."""
        from phidet.detections.notebook import as_png  # noqa: PLC0415

        return as_png(self._self())

    def _repr_html_(self) -> str:
        """For notebooks: the image with what was found in it, and a table of the objects."""
        from phidet.detections.notebook import as_html  # noqa: PLC0415

        return as_html(self._self())

    @classmethod
    def _of(cls, parts: Parts) -> Detections:
        return cast("type[Detections]", cls)(*parts)

    def _self(self) -> Detections:
        return cast("Detections", self)

    def _extra_rows(self, masks_key: str) -> list[dict[str, Any]]:
        """The fields of each object; its mask is called ``masks_key``."""
        columns = {
            masks_key if isinstance(values, Masks) and name == FIELD else name: field_values(values)
            for name, values in self.fields.items()
        }
        return [{name: values[i] for name, values in columns.items()} for i in range(len(self))]


def _xywh(box_xyxy: npt.NDArray[np.float32]) -> list[float]:
    """COCO's bbox in few digits; x + width is the right side to within a float32's last digit."""
    # Subtracting in float32 and printing that would show rounding noise such as 99.99999237.
    x1, y1, x2, y2 = (shortest_float(v) for v in box_xyxy)
    return [x1, y1, round(x2 - x1, 4), round(y2 - y1, 4)]
