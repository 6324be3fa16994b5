"""Detections from what others write and return: arrays, COCO's results, YOLO's text, supervision, Ultralytics.

Nothing of theirs is imported: arrays and tensors are taken as they come, by what they can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError, UnknownNameError
from phidet.detections.boxes import cxcywh_to_xyxy
from phidet.detections.fields import RESERVED, TRACK_ID, Column, Parts, Values, as_objects
from phidet.detections.masks import FIELD, Masks
from phidet.detections.names import listed_names
from phidet.detections.tables import masks_of, names_of

BoxForm = Literal["xyxy", "xywh", "cxcywh"]
_ANNOTATION_KEYS = frozenset({"id", "area", "iscrowd"})  # of a data set's objects, beside those of results
_BOX, _SCORED_BOX, _FEWEST_OF_OUTLINE = 5, 6, 7  # numbers on a line of YOLO's text, the class included


class Source(NamedTuple):
    """What every source leaves out, and the caller may know."""

    names: Sequence[str] = ()
    image_size_hw: tuple[int, int] | None = None


def from_arrays(
    boxes: Any,
    scores: Any,
    class_ids: Any,
    source: Source,
    form: BoxForm,
    fields: Mapping[str, Any],
) -> Parts:
    """See :meth:`Detections.from_arrays`."""
    if form not in get_args(BoxForm):
        raise UnknownNameError("form of boxes", form, get_args(BoxForm))
    given = array_of(boxes).astype(np.float64)
    if given.size and given.shape != (len(given), 4) and given.shape != (4,):
        raise InputError(f"expected boxes (N, 4), got shape {given.shape}")
    given = boxes_xyxy = given.reshape(-1, 4)
    if form == "cxcywh":
        boxes_xyxy = cxcywh_to_xyxy(given)
    elif form == "xywh":
        boxes_xyxy = np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], axis=1)
    count = len(boxes_xyxy)
    one = np.ones(count, np.float32) if scores is None else array_of(scores).reshape(-1)
    classes = np.zeros(count, np.int64) if class_ids is None else _whole(array_of(class_ids).reshape(-1))
    masks = fields.get(FIELD)
    columns: dict[str, Any] = {n: v if isinstance(v, Column) else array_of(v) for n, v in fields.items()}
    if masks is not None and not isinstance(masks, Masks):
        columns[FIELD] = Masks.from_full(array_of(masks))
    return Parts(boxes_xyxy, one, classes, listed_names(source.names), source.image_size_hw, columns)  # type: ignore[arg-type]


def from_coco(results: Sequence[Mapping[str, Any]], source: Source, category_ids: Sequence[int] | None = None) -> Parts:
    """See :meth:`Detections.from_coco`."""
    if len({result.get("image_id") for result in results}) > 1:
        raise InputError("expected the results of one image, got several values of image_id: read_results reads files")
    boxes = np.array([_of(result, "bbox") for result in results], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([result.get("score", 1.0) for result in results], np.float32)
    categories = np.array([_of(result, "category_id") for result in results], np.int64)
    if category_ids is None:
        classes = categories - 1
    else:
        # COCO's ids have gaps: the place in the list is the class.
        place = {category: i for i, category in enumerate(category_ids)}
        unknown = sorted(set(categories.tolist()) - place.keys())
        if unknown:
            raise InputError(f"expected one of the category ids {list(category_ids)}, got {unknown[0]}")
        classes = np.array([place[category] for category in categories.tolist()], np.int64)
    fields: dict[str, Values] = {}
    # Some objects without a mask among others have one of no pixels.
    if any(result.get("segmentation") is not None for result in results):
        fields[FIELD] = masks_of([result.get("segmentation") for result in results], source.image_size_hw)
    # Annotations have keys of the data set; in results the same names could be anybody's fields.
    annotated = any("iscrowd" in result for result in results)
    fields |= extra_fields(results, frozenset(RESERVED) | (_ANNOTATION_KEYS if annotated else frozenset()))
    return Parts(boxes, scores, classes, listed_names(source.names), source.image_size_hw, fields)  # type: ignore[arg-type]


def from_yolo(text: str | Path, source: Source) -> Parts:
    """See :meth:`Detections.from_yolo`."""
    if source.image_size_hw is None:
        raise InputError("YOLO's text has shares of the image's size: give image_size_hw")
    if isinstance(text, Path):
        try:
            text = text.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {text}: {getattr(error, 'strerror', None) or error}") from error
    rows = [_yolo_row(line, number) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    height, width = source.image_size_hw
    outlines = [None if ring is None else ring * (width, height) for _, _, _, ring in rows]
    boxes = np.array([box for _, box, _, _ in rows], np.float64).reshape(-1, 4) * (width, height, width, height)
    fields: dict[str, Values] = {}
    if any(outline is not None for outline in outlines):
        # An object that is a box among outlines is one whose mask is its box.
        corners = [cxcywh_to_xyxy(box)[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2) for box in boxes]
        rings = [corner if ring is None else ring for ring, corner in zip(outlines, corners, strict=True)]
        fields[FIELD] = Masks.from_polygons([[ring] for ring in rings], source.image_size_hw)
    scores = np.array([score for _, _, score, _ in rows], np.float32)
    classes = np.array([class_id for class_id, _, _, _ in rows], np.int64)
    names, size = listed_names(source.names), source.image_size_hw
    return Parts(cxcywh_to_xyxy(boxes).astype(np.float32), scores, classes, names, size, fields)


def from_supervision(theirs: Any, source: Source) -> Parts:
    """See :meth:`Detections.from_supervision`."""
    count = len(theirs.xyxy)
    classes = np.zeros(count, np.int64) if theirs.class_id is None else _whole(np.asarray(theirs.class_id))
    labels = theirs.data.get("class_name")
    names = listed_names(source.names)
    if not names and labels is not None and count:
        # Theirs has no list of classes: the labels of what was found are all that is known.
        names = names_of(classes.tolist(), [str(label) for label in labels])
    fields = {name: np.asarray(values) for name, values in theirs.data.items() if name not in RESERVED}
    if theirs.tracker_id is not None:
        fields[TRACK_ID] = np.asarray(theirs.tracker_id)
    if theirs.mask is not None:
        fields[FIELD] = theirs.mask
    return from_arrays(theirs.xyxy, theirs.confidence, classes, Source(names, source.image_size_hw), "xyxy", fields)


def from_ultralytics(result: Any, source: Source) -> Parts:
    """See :meth:`Detections.from_ultralytics`."""
    boxes = result.boxes if getattr(result, "boxes", None) is not None else getattr(result, "obb", None)
    if boxes is None:
        raise InputError("expected a result of detection, with boxes: this one has none")
    given = result.names
    # A dictionary or a list, by their version.
    names = tuple(given[i] for i in range(len(given))) if isinstance(given, Mapping) else tuple(given)
    size_hw = (int(result.orig_shape[0]), int(result.orig_shape[1]))
    fields: dict[str, Any] = {}
    if getattr(boxes, "id", None) is not None:
        fields[TRACK_ID] = _whole(array_of(boxes.id).reshape(-1))
    if getattr(result, "masks", None) is not None:
        # Outlines are in pixels of the original image; the masks themselves in those of the network's padded input.
        rings = [[array_of(ring)] if len(ring) > 2 else [] for ring in result.masks.xy]
        fields[FIELD] = Masks.from_polygons(rings, size_hw)
    return from_arrays(
        boxes.xyxy, boxes.conf, boxes.cls, Source(listed_names(source.names) or names, size_hw), "xyxy", fields
    )


def extra_fields(rows: Sequence[Mapping[str, Any]], known: frozenset[str]) -> dict[str, Values]:
    """What rows have beside what is known, a column for each key; ``None`` where an object lacks it."""
    keys = dict.fromkeys(key for row in rows for key in row if key not in known)
    return {key: column_of([row.get(key) for row in rows]) for key in keys}


def column_of(values: Sequence[Any]) -> npt.NDArray[Any]:
    """A column of JSON values: numbers of one kind, or texts, as a plain array, all else as objects."""
    # By exact types: True is an int to Python, and would become 1 among numbers.
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and kinds <= {int, float, bool, str}:
        array = np.array(values)
        return array if array.dtype != object else as_objects(values)  # whole numbers beyond 64 bits
    return as_objects(values)


def array_of(values: Any) -> npt.NDArray[Any]:
    """An array from an array, a list or a tensor of another library, wherever it lies."""
    for step in ("detach", "cpu", "numpy"):
        method = getattr(values, step, None)
        if callable(method) and not isinstance(values, np.ndarray):
            values = method()
    return np.asarray(values)


def _whole(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Classes or ids as whole numbers, where a library has them as floating point ones."""
    if values.dtype.kind == "f":
        whole = values.astype(np.int64)
        if not np.array_equal(whole, values):
            raise InputError(f"expected whole numbers, got {values[whole != values][0]:g}")
        return whole
    return values


def _of(result: Mapping[str, Any], key: str) -> Any:
    if key not in result:
        raise InputError(f"expected COCO's results, with bbox and category_id; one has no {key}: {dict(result)}")
    return result[key]


def _yolo_row(line: str, number: int) -> tuple[int, list[float], float, npt.NDArray[np.float64] | None]:
    """Class, box (cx, cy, width, height as shares), score and outline of a line."""
    try:
        # The number of words tells the form: a box, a box with a score, or an outline.
        numbers = [float(word) for word in line.split()]
        class_id = int(line.split(maxsplit=1)[0])
    except ValueError:
        raise InputError(f"line {number}: expected numbers, the class first, got {line.strip()!r}") from None
    values = numbers[1:]
    if len(numbers) in (_BOX, _SCORED_BOX):
        return class_id, values[:4], values[4] if len(numbers) == _SCORED_BOX else 1.0, None
    if len(numbers) < _FEWEST_OF_OUTLINE or len(numbers) % 2 == 0:
        raise InputError(
            f"line {number}: expected class, centre x and y, width, height and perhaps a score, or class and an "
            f"outline of at least 3 points, got {len(numbers)} numbers"
        )
    ring = np.array(values, np.float64).reshape(-1, 2)
    low, high = ring.min(axis=0), ring.max(axis=0)
    return class_id, [*((low + high) / 2), *(high - low)], 1.0, ring
