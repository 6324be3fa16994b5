"""Optional columns of objects, by name: masks, track ids, anything that an architecture or a user adds.

Each is an array whose first dimension is the objects, of any type; ``object`` arrays hold any JSON values. What an
array holds badly is a :class:`Column`, such as :class:`~phidet.detections.masks.Masks`. All code that filters, sorts,
joins or stores objects carries every field along, also those unknown to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError


class Column(ABC):
    """Values of objects, one each, that are stored otherwise than as an array; immutable."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: Any) -> Any:
        """The column of some of the objects, by a slice, a mask or an array of numbers as NumPy takes them."""

    @abstractmethod
    def __eq__(self, other: object) -> bool: ...

    __hash__ = None  # type: ignore[assignment]  # holds arrays

    @abstractmethod
    def joined(self, others: Sequence[Any]) -> Any:
        """One column of this one's objects and those of others of its type.

        Raises:
            InputError: they do not go together.
        """

    @abstractmethod
    def to_list(self) -> list[Any]:
        """A JSON value for each object."""


RESERVED = (
    *("box_xyxy", "x1", "y1", "x2", "y2", "score", "class_id", "label", "mask"),
    *("image_id", "category_id", "bbox", "segmentation", "class_name"),
)
"""Names of built-in columns, here or in output formats; no field may have one."""
TRACK_ID = "track_id"
"""Name of the field that a tracker adds: which track each object belongs to."""
Values: TypeAlias = npt.NDArray[Any] | Column
Fields: TypeAlias = Mapping[str, Values]
NO_FIELDS: Fields = MappingProxyType({})


class Parts(NamedTuple):
    """What :class:`phidet.Detections` is made of, for code that it calls itself; the arguments in order."""

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    names: tuple[str, ...]
    image_size_hw: tuple[int, int] | None
    fields: Fields


def check_fields(fields: Fields, count: int) -> dict[str, Values]:
    """``fields`` as arrays of ``count`` rows.

    Raises:
        InputError: a name that is taken, or another number of rows.
    """
    checked: dict[str, Values] = {}
    for name, values in fields.items():
        if name in RESERVED:
            raise InputError(f"a field cannot be called {name!r}: every object has a column of that name already")
        if isinstance(values, Column):
            if len(values) != count:
                raise InputError(f"the field {name!r} has {len(values)} rows: expected {count}, one for each object")
            checked[name] = values
            continue
        array = values if isinstance(values, np.ndarray) else _as_array(values)
        if array.ndim < 1 or len(array) != count:
            raise InputError(f"the field {name!r} has shape {array.shape}: expected {count} rows, one for each object")
        checked[name] = array
    return checked


def take_fields(fields: Fields, index: Any) -> dict[str, Values]:
    """Some of the rows of every field."""
    return {name: values[index] for name, values in fields.items()}


def join_fields(parts: Sequence[tuple[Fields, int]]) -> dict[str, Values]:
    """The rows of several parts, each with its number of objects; parts without objects need not have the fields.

    Raises:
        InputError: some parts with objects have a field that others lack.
    """
    # An image without objects has no rows to contribute, and often no fields either.
    full = [fields for fields, count in parts if count]
    names = dict.fromkeys(name for fields in full for name in fields)
    for name in names:
        lacking = sum(name not in fields for fields in full)
        if lacking:
            raise InputError(f"{lacking} of {len(full)} parts with objects lack the field {name!r}")
    return {name: _join([fields[name] for fields in full]) for name in names}


def equal_fields(ours: Fields, theirs: Fields) -> bool:
    """Whether both have the same fields, with the same values."""
    return ours.keys() == theirs.keys() and all(_equal(ours[name], theirs[name]) for name in ours)


def field_values(values: Values) -> list[Any]:
    """A field as a list of JSON values, one for each object."""
    if isinstance(values, Column):
        return values.to_list()
    listed: list[Any] = values.tolist()
    return listed


def as_objects(values: Sequence[Any]) -> npt.NDArray[Any]:
    """(N,) of objects, one for each value."""
    # np.array would turn a list of equally long lists into further dimensions.
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def _as_array(values: Any) -> npt.NDArray[Any]:
    """Numbers and text as a plain array; anything else as an array of objects, one for each row."""
    values = list(values)
    if all(isinstance(value, str | bool | int | float | np.generic) for value in values):
        return np.asarray(values)
    return as_objects(values)


def _join(parts: Sequence[Values]) -> Values:
    first, *others = parts
    if isinstance(first, Column) and all(isinstance(part, type(first)) for part in others):
        joined: Column = first.joined(others)
        return joined
    return np.concatenate(parts)  # type: ignore[arg-type]  # refuses what is no array


def _equal(ours: Values, theirs: Values) -> bool:
    if isinstance(ours, Column) or isinstance(theirs, Column):
        return ours is theirs or bool(ours == theirs)
    if ours.shape != theirs.shape:
        return False
    # array_equal compares the elements of object arrays with ==, which fails where an element is itself an array.
    if "O" in (ours.dtype.kind, theirs.dtype.kind):
        return bool(ours.tolist() == theirs.tolist())
    return np.array_equal(ours, theirs)
