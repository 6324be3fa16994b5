"""The results of many images as Parquet: a row for each image, its objects a list of structs.

The schema is the same for every model, so that files can be read together whatever was found in each: what only some
objects have (masks, track ids) is null elsewhere, and fields that phidet does not know are JSON in ``fields``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.core.optional import optional_package
from phidet.detections.detections import Detections
from phidet.detections.fields import TRACK_ID, Values, field_values
from phidet.detections.foreign import extra_fields
from phidet.detections.masks import FIELD
from phidet.detections.tables import BOX, KEY, MASK, masks_of, names_of

NO_NAMES: tuple[str, ...] = ()


class FileDescription(msgspec.Struct, frozen=True):
    """What is the same for all rows of a file, in its metadata under ``phidet``."""

    names: tuple[str, ...] = ()


def pyarrow(feature: str) -> Any:
    """The package, with Parquet.

    Raises:
        MissingExtraError: it is not installed.
    """
    optional_package("pyarrow.parquet", feature, "arrow")
    return optional_package("pyarrow", feature, "arrow")


def objects_type(pa: Any) -> Any:
    """Arrow's type of the column ``detections``."""
    mask = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
    return pa.list_(
        pa.struct(
            [
                *((name, pa.float32()) for name in (*BOX, "score")),
                ("class_id", pa.int32()),
                ("label", pa.string()),
                (TRACK_ID, pa.int64()),
                (MASK, mask),
                ("fields", pa.string()),
            ]
        )
    )


def objects_column(pa: Any, found: Sequence[Detections]) -> Any:
    """The column ``detections``, a list of objects for each image."""
    kind = objects_type(pa)
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in found], dtype=np.int64)]).astype(np.int32)
    nothing = np.zeros((0, 4), np.float32)
    boxes = np.concatenate([nothing, *(one.boxes_xyxy for one in found)])
    columns = [boxes[:, i] for i in range(4)]
    columns.append(np.concatenate([nothing[:, 0], *(one.scores for one in found)]))
    arrays = [pa.array(np.ascontiguousarray(column), pa.float32()) for column in columns]
    class_ids = np.concatenate([np.zeros(0, np.int64), *(one.class_ids for one in found)])
    arrays.append(pa.array(class_ids.astype(np.int32), pa.int32()))
    arrays.append(pa.array([label for one in found for label in one.labels], pa.string()))
    extras = [_extras(one) for one in found]
    for i in range(3):
        values = [value for extra in extras for value in extra[i]]
        arrays.append(pa.array(values, kind.value_type.field(len(arrays)).type))
    structs = pa.StructArray.from_arrays(arrays, fields=list(kind.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, type=kind)


def size_columns(pa: Any, sizes_hw: Sequence[tuple[int, int] | None]) -> dict[str, Any]:
    """The columns ``image_width`` and ``image_height``."""
    sides = zip(*(size or (None, None) for size in sizes_hw), strict=True) if sizes_hw else ([], [])
    height, width = sides
    return {"image_width": pa.array(width, pa.int32()), "image_height": pa.array(height, pa.int32())}


def with_names(table: Any, names: Sequence[str]) -> Any:
    """``table`` with the names of the model's classes in its metadata."""
    about = FileDescription(tuple(names))
    return table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: msgspec.json.encode(about)})


def names_in(schema: Any) -> tuple[str, ...] | None:
    """The names of the model's classes in a file's metadata; ``None`` where phidet did not write it."""
    given = (schema.metadata or {}).get(KEY.encode())
    if given is None:
        return None
    return msgspec.json.decode(given, type=FileDescription).names


def detections_in(batch: Any, names: tuple[str, ...]) -> Iterator[Detections]:
    """The detections of each row of a record batch with ``detections``, ``image_width`` and ``image_height``.

    Raises:
        InputError: the columns are others, or hold what detections cannot be.
    """
    lists = batch.column("detections")
    objects = lists.flatten()
    kinds = {objects.type.field(i).name for i in range(objects.type.num_fields)}
    # Newer files may have more, and are read for what is known here.
    missing = {*BOX, "score", "class_id"} - kinds
    if missing:
        raise InputError(f"its objects have no {', '.join(sorted(missing))}")
    boxes = np.stack([_numbers(objects, name) for name in BOX], axis=1)
    scores, class_ids = _numbers(objects, "score"), _numbers(objects, "class_id").astype(np.int64)
    labels = objects.field("label").to_pylist() if "label" in kinds else [str(c) for c in class_ids.tolist()]
    extras = {name: objects.field(name).to_pylist() for name in (TRACK_ID, MASK, "fields") if name in kinds}
    lengths = [length or 0 for length in lists.value_lengths().to_pylist()]
    heights, widths = (batch.column(f"image_{side}").to_pylist() for side in ("height", "width"))
    start = 0
    for length, height, width in zip(lengths, heights, widths, strict=True):
        rows = slice(start, start + length)
        start += length
        size = None if height is None else (height, width)
        # Without names in the file, each image has those of its own objects.
        own_names = names or (names_of(class_ids[rows].tolist(), labels[rows]) if length else names)
        fields = fields_of({name: values[rows] for name, values in extras.items()}, size)
        yield Detections(boxes[rows], scores[rows], class_ids[rows], own_names, size, fields)


def fields_of(extras: dict[str, list[Any]], size_hw: tuple[int, int] | None) -> dict[str, Values]:
    """The fields of the objects of one image from the columns ``track_id``, ``mask`` and ``fields``."""
    fields: dict[str, Values] = {}
    if any(value is not None for value in extras.get(MASK, [])):
        fields[FIELD] = masks_of(extras[MASK], size_hw)
    if any(value is not None for value in extras.get(TRACK_ID, [])):
        fields[TRACK_ID] = np.array(extras[TRACK_ID], np.int64)
    texts = [text for text in extras.get("fields", []) if text is not None]
    return fields | extra_fields([msgspec.json.decode(text) for text in texts], frozenset())


def _numbers(objects: Any, name: str) -> npt.NDArray[Any]:
    return np.asarray(objects.field(name).to_numpy(zero_copy_only=False))


def _extras(found: Detections) -> tuple[list[Any], list[Any], list[Any]]:
    """Track id, mask and all other fields (as JSON) of each object; ``None`` for what it does not have."""
    nothing: list[Any] = [None] * len(found)
    ids = found.fields.get(TRACK_ID)
    if ids is not None and not (isinstance(ids, np.ndarray) and ids.dtype.kind in "iu" and ids.ndim == 1):
        ids = None  # ids of another kind are a field like any other
    apart = {FIELD: found.masks, TRACK_ID: ids}
    others = {name: field_values(v) for name, v in found.fields.items() if apart.get(name) is None}
    rows = [dict(zip(others, values, strict=True)) for values in zip(*others.values(), strict=True)]
    return (
        nothing if ids is None else field_values(ids),
        nothing if found.masks is None else found.masks.to_list(),
        [msgspec.json.encode(row).decode() for row in rows] if others else nothing,
    )
