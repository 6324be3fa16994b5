"""Detections of one image as a table, a row for each object: pandas, Arrow and polars, there and back.

The columns are ``x1``, ``y1``, ``x2``, ``y2`` (float32, pixels of the original image), ``score`` (float32),
``class_id`` (int64), ``label``, ``mask`` where there are masks (COCO's compressed runs), and every other field by its
name: rows of arrays as lists of fixed length, and what an array holds badly as JSON.

What a table has no column for (the names of classes that were not found, the image's size, exact types) is its
description, under :data:`KEY` in the metadata of an Arrow schema and in a pandas frame's ``attrs``. A polars frame has
no such place: names and size are given again when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.core.optional import optional_package
from phidet.detections.fields import Parts, Values, as_objects, field_values
from phidet.detections.masks import FIELD, Masks
from phidet.detections.names import listed_names

if TYPE_CHECKING:
    from phidet.detections.detections import Detections

KEY = "phidet"
"""Where the description is, in a schema's metadata and in ``attrs``."""
BOX = ("x1", "y1", "x2", "y2")
MASK = "mask"
_OBJECT = "object"


class FieldDescription(msgspec.Struct, frozen=True):
    """Type of a field's values, as NumPy writes it, and the shape of one row."""

    dtype: str
    shape: tuple[int, ...] = ()


class TableDescription(msgspec.Struct, frozen=True):
    """What a table of detections has no column for.

    Attributes:
        names: of the model's classes.
        image_size_hw: of the original image.
        mask_size_hw: of the masks; ``None`` where there are none.
        fields: types of all other fields.
    """

    names: tuple[str, ...] = ()
    image_size_hw: tuple[int, int] | None = None
    mask_size_hw: tuple[int, int] | None = None
    fields: dict[str, FieldDescription] = {}


class Columns(NamedTuple):
    """A table in no library's form: lists and arrays by name, and its description where it has one."""

    values: Mapping[str, Any]
    description: TableDescription | None


def to_pandas(found: Detections) -> Any:
    """See :meth:`Detections.to_pandas`."""
    pandas = optional_package("pandas", "Detections.to_pandas", "pandas")
    columns, description = _columns(found)
    # A column of pandas has one dimension: rows of several are objects of it.
    values = {name: list(v) if v.ndim > 1 or v.dtype == object else v for name, v in columns.items()}
    frame = pandas.DataFrame(
        {name: pandas.Series(v, dtype=object) if isinstance(v, list) else v for name, v in values.items()}
    )
    # Plain values: pandas itself writes attrs to Parquet, as JSON.
    frame.attrs[KEY] = msgspec.to_builtins(description)
    return frame


def to_arrow(found: Detections) -> Any:
    """See :meth:`Detections.to_arrow`."""
    pyarrow = optional_package("pyarrow", "Detections.to_arrow", "arrow")
    columns, description = _columns(found)
    arrays = {name: _arrow_array(pyarrow, name, values) for name, values in columns.items()}
    metadata = {KEY: msgspec.json.encode(description)}
    return pyarrow.table(arrays).replace_schema_metadata(metadata)


def to_polars(found: Detections) -> Any:
    """See :meth:`Detections.to_polars`."""
    polars = optional_package("polars", "Detections.to_polars", "polars")
    columns, _ = _columns(found)
    return polars.DataFrame([_polars_series(polars, name, values) for name, values in columns.items()])


def from_pandas(frame: Any, names: Sequence[str] | None, image_size_hw: tuple[int, int] | None) -> Parts:
    """See :meth:`Detections.from_pandas`."""
    given = frame.attrs.get(KEY)
    description = None if given is None else msgspec.convert(given, TableDescription)
    return _parts(Columns({str(name): frame[name].to_numpy() for name in frame}, description), names, image_size_hw)


def from_arrow(table: Any, names: Sequence[str] | None, image_size_hw: tuple[int, int] | None) -> Parts:
    """See :meth:`Detections.from_arrow`."""
    given = (table.schema.metadata or {}).get(KEY.encode())
    description = None if given is None else msgspec.json.decode(given, type=TableDescription)
    values = {name: _of_arrow(table.column(name)) for name in table.column_names}
    return _parts(Columns(values, description), names, image_size_hw)


def from_polars(frame: Any, names: Sequence[str] | None, image_size_hw: tuple[int, int] | None) -> Parts:
    """See :meth:`Detections.from_polars`."""
    values = {series.name: _of_polars(series) for series in frame.get_columns()}
    return _parts(Columns(values, None), names, image_size_hw)


def names_of(class_ids: Sequence[int], labels: Sequence[str]) -> tuple[str, ...]:
    """Names of classes from what was found; classes that were not found are called by their number.

    Empty where all labels are numbers, which is how objects of unnamed classes are labelled.
    """
    found = dict(zip(class_ids, labels, strict=True))
    if all(label == str(class_id) for class_id, label in found.items()):
        return ()
    return tuple(found.get(class_id, str(class_id)) for class_id in range(max(found) + 1))


def _columns(found: Detections) -> tuple[dict[str, npt.NDArray[Any]], TableDescription]:
    """The columns as arrays, whose first dimension is the objects, and the description."""
    columns: dict[str, npt.NDArray[Any]] = {name: found.boxes_xyxy[:, i] for i, name in enumerate(BOX)}
    columns |= {"score": found.scores, "class_id": found.class_ids, "label": np.array(found.labels, np.str_)}
    if found.masks is not None:
        columns[MASK] = as_objects(found.masks.to_list())
    fields: dict[str, FieldDescription] = {}
    for name, values in found.fields.items():
        if name == FIELD and found.masks is not None:
            continue
        array = values if isinstance(values, np.ndarray) else as_objects(field_values(values))
        columns[name] = array
        dtype = _OBJECT if array.dtype == object else array.dtype.str
        fields[name] = FieldDescription(dtype, array.shape[1:])
    size = None if found.image_size_hw is None else (int(found.image_size_hw[0]), int(found.image_size_hw[1]))
    mask_size = None if found.masks is None else found.masks.size_hw
    return columns, TableDescription(found.names, size, mask_size, fields)


def _parts(columns: Columns, names: Sequence[str] | None, image_size_hw: tuple[int, int] | None) -> Parts:
    """What detections are made of, from columns; what is given goes before what the table's description says.

    Raises:
        InputError: columns are missing, or the rows are those of several images.
    """
    values, description = columns.values, columns.description or TableDescription()
    missing = [name for name in BOX if name not in values]
    if missing or not values.keys() & {"class_id", "label"}:
        raise InputError(
            f"expected a table with the columns x1, y1, x2, y2 and class_id or label, got {', '.join(values) or 'none'}"
        )
    # What phidet described is of one image, whatever else its columns are called.
    for key in ("source", "frame") if columns.description is None else ():
        images = len(set(map(str, values.get(key, ()))))
        if images > 1:
            raise InputError(f"expected the objects of one image, got {images} values of {key}: select the rows of one")
    count = len(values["x1"])
    labels = [str(label) for label in values["label"]] if "label" in values else None
    names = listed_names(names) if names is not None else description.names
    if "class_id" in values:
        class_ids = np.asarray(values["class_id"])
        names = names or (names_of(class_ids.tolist(), labels) if labels else ())
    else:
        assert labels is not None
        names = names or tuple(dict.fromkeys(labels))
        unknown = sorted(set(labels) - set(names))
        if unknown:
            raise InputError(f"expected the labels {', '.join(names)}, got {', '.join(unknown)}")
        class_ids = np.array([names.index(label) for label in labels], np.int64)
    size = image_size_hw or description.image_size_hw
    fields: dict[str, Values] = {}
    for name in values.keys() - {*BOX, "score", "class_id", "label"}:
        if name == MASK:
            fields[FIELD] = masks_of(list(values[MASK]), size or description.mask_size_hw)
        else:
            fields[name] = _field(values[name], description.fields.get(name), count)
    boxes = np.stack([np.asarray(values[name], np.float32) for name in BOX], axis=1)
    scores = np.asarray(values["score"], np.float32) if "score" in values else np.ones(count, np.float32)
    return Parts(boxes, scores, class_ids.astype(np.int64), names, size, fields)


def masks_of(values: Sequence[Any], size_hw: tuple[int, int] | None) -> Masks:
    """Masks from compressed runs or polygons, one for each object; where an object has none, a mask of no pixels.

    Raises:
        InputError: they are no masks, or polygons without the image's size.
    """
    if size_hw is None:
        sizes = [tuple(value["size"]) for value in values if isinstance(value, Mapping) and "size" in value]
        if not sizes and len(values):
            raise InputError("masks as polygons need the size of their image: give image_size_hw")
        size_hw = sizes[0] if sizes else (0, 0)
    return Masks.from_coco([[] if value is None else value for value in values], size_hw)


def _field(values: Any, description: FieldDescription | None, count: int) -> npt.NDArray[Any]:
    """A field from a column, of the type that its description says."""
    if description is None:
        array = np.asarray(values)
        text = array.dtype == object and len(array) and all(isinstance(value, str) for value in array)
        return array.astype(np.str_) if text else array
    if description.dtype == _OBJECT:
        return as_objects(list(values))
    if isinstance(values, np.ndarray) and values.dtype != object:
        array = values
    else:
        array = np.array(list(values)) if count else np.zeros(0)
    return array.astype(description.dtype).reshape(count, *description.shape)


def _arrow_array(pyarrow: Any, name: str, values: npt.NDArray[Any]) -> Any:
    """A column; rows of more dimensions become lists of fixed lengths, objects text of JSON."""
    if name == MASK:
        size = pyarrow.list_(pyarrow.int32(), 2)
        kind = pyarrow.struct([("size", size), ("counts", pyarrow.string())])
        return pyarrow.array(values.tolist(), kind)
    if values.dtype == object:
        return pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(_as_json(values), pyarrow.string()))
    try:
        array = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    except pyarrow.ArrowNotImplementedError as error:
        raise InputError(f"the field {name!r}, of {values.dtype}, has no type in Arrow: {error}") from None
    for length in values.shape[:0:-1]:
        array = pyarrow.FixedSizeListArray.from_arrays(array, length)
    return array


def _of_arrow(column: Any) -> Any:
    """Values of a column: an array where Arrow gives one, else a list."""
    kind = str(column.type)
    if "arrow.json" in kind:
        return [msgspec.json.decode(text) for text in column.cast("string").to_pylist()]
    if kind in ("string", "large_string") or "list<" in kind or kind.startswith("struct"):
        return column.to_pylist()
    return column.to_numpy()


def _polars_series(polars: Any, name: str, values: npt.NDArray[Any]) -> Any:
    if name == MASK:
        kind = polars.Struct({"size": polars.List(polars.Int32), "counts": polars.String})
        return polars.Series(name, values.tolist(), dtype=kind)
    if values.dtype == object:
        series = polars.Series(name, _as_json(values), dtype=polars.String)
        # Versions before 2 have no types of this kind: there it stays text.
        extension = getattr(polars, "Extension", None)
        return series if extension is None else series.ext.to(extension("arrow.json", polars.String, ""))
    try:
        return polars.Series(name, values, dtype=polars.String if values.dtype.kind == "U" else None)
    except (TypeError, ValueError) as error:
        raise InputError(f"the field {name!r}, of {values.dtype}, has no type in polars: {error}") from None


def _of_polars(series: Any) -> Any:
    if hasattr(series.dtype, "ext_name") and series.dtype.ext_name() == "arrow.json":
        return as_objects([msgspec.json.decode(text) for text in series.ext.storage().to_list()])
    return series.to_list() if str(series.dtype).startswith(("Struct", "List")) else series.to_numpy()


def _as_json(values: npt.NDArray[Any]) -> list[str]:
    return [msgspec.json.encode(value).decode() for value in values]
