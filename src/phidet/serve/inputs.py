"""Converts the images of a request, encoded or as numbers, to RGB pixels within the limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.images.decode import Decoded, Needed, read_reduced
from phidet.serve.refusals import RefusedError, bad_request
from phidet.serve.wire import kind_of, show

TENSOR, ENCODED = "input_tensor", "image_bytes"
"""Names of the two inputs, as the TF Object Detection API has them."""

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""

_UINT8 = "uint8"
_MAX_RANK = 8


class Budget:
    """The pixels that one request may have; an image of few bytes can have very many.

    Args:
        each: for one image.
        together: for all of them.
        needed: what of an image of some size the model needs; ``None`` for all of it. It does not change what counts.
    """

    def __init__(self, each: int, together: int, needed: Needed | None = None) -> None:
        self._each, self.needed = each, needed
        self._together = self._left = together

    def take(self, height: int, width: int) -> None:
        """Counts an image, before it is decoded.

        Raises:
            RefusedError: 400: too many pixels, or none.
        """
        # Before decoding, which would take the memory that is to be protected.
        shown = f"the image has {width}×{height} pixels"
        if height * width > self._each:
            raise bad_request(f"{shown}, more than this server's limit of {self._each}")
        if min(height, width) < 1:
            raise bad_request(f"{shown}, expected at least one")
        self._left -= height * width
        if self._left < 0:
            raise bad_request(
                f"the images of the request have more pixels together than this server's limit of "
                f"{self._together}: send them in several requests"
            )


def decode(data: bytes, budget: Budget) -> Decoded:
    """The image in ``data``, as much of it as the model needs.

    Raises:
        RefusedError: 400: not an image that phidet reads, damaged, or over ``budget``.
    """
    try:
        image = read_reduced(data, budget.needed, check_size=budget.take)
    except InputError as error:
        raise bad_request(str(error)) from error
    return image.pixels if image.factor == 1 else image


def from_lists(value: list[Any]) -> Pixels:
    """Nested lists of integers 0…255 as an array of their shape.

    Raises:
        RefusedError: 400, in TensorFlow Serving's words: ragged, or something that is not such an integer.
    """
    shape: list[int] = []
    level: list[Any] = [value]
    # Level by level instead of recursively: a flat list per level is checked by C code, at millions of numbers.
    while set(map(type, level)) == {list} and len(shape) <= _MAX_RANK:
        lengths = set(map(len, level))
        shape.append(len(level[0]))
        if len(lengths) != 1:
            raise _fault(value, shape)
        level = list(chain.from_iterable(level))
    if set(map(type, level)) - {int}:
        raise _fault(value, shape)
    try:
        # bytes() checks the range 0…255 on the way; bool is no int here because types were compared exactly.
        return np.frombuffer(bytes(level), np.uint8).reshape(shape)
    except ValueError:
        wrong = next(number for number in level if not 0 <= number <= 255)
        raise bad_request(f"JSON Value: {show(wrong)} Type: Number is out of range for type: {_UINT8}") from None


def from_numbers(values: Sequence[int]) -> Pixels:
    """A flat list of integers 0…255 as an array.

    Raises:
        RefusedError: 400: one of them is out of range.
    """
    try:
        return np.frombuffer(bytes(values), np.uint8)
    except ValueError:
        wrong = next(number for number in values if not 0 <= number <= 255)
        raise bad_request(f"the value {wrong} is out of range for type: {_UINT8}") from None


def check_shape(name: str, shape: Sequence[int]) -> None:
    """Refuses shapes that no array has, before the product of the sides, which could overflow or be negative.

    Raises:
        RefusedError: 400.
    """
    if any(side < 0 for side in shape) or len(shape) > _MAX_RANK:
        raise bad_request(f"input {name}: shape {show(list(shape))} is not possible")


def encoded_images(name: str, shape: Sequence[int], encoded: Sequence[bytes], budget: Budget) -> list[Decoded]:
    """The images in the strings of an input of ``shape``.

    Raises:
        RefusedError: 400.
    """
    _check_filled(name, shape, len(encoded))
    return [decode(data, budget) for data in encoded]


def images_of_numbers(name: str, shape: Sequence[int], values: Pixels, budget: Budget) -> list[Pixels]:
    """The images in the numbers of an input of ``shape``, which are flat.

    Raises:
        RefusedError: 400.
    """
    _check_filled(name, shape, values.size)
    try:
        shaped = values.reshape(shape)
    except ValueError as error:  # without pixels, but with sides that no array has
        raise bad_request(f"input {name}: shape {show(list(shape))} is not possible") from error
    images = check_batch(shaped, name)
    for image in images:
        budget.take(image.shape[0], image.shape[1])
    return images


def _check_filled(name: str, shape: Sequence[int], count: int) -> None:
    if count != math.prod(shape):
        raise bad_request(f"input {name}: {count} values do not fill shape {show(list(shape))}")


def check_batch(array: Pixels, name: str) -> list[Pixels]:
    """The images of a (N, H, W, 3) batch.

    Raises:
        RefusedError: 400.
    """
    # By the array's own shape: what a client wrote of it may be anything.
    if array.ndim != 4 or array.shape[3] != 3:
        raise bad_request(f"input {name} must be {_UINT8} of shape [-1,-1,-1,3], got shape {list(array.shape)}")
    return list(array)


def _fault(value: list[Any], shape: list[int]) -> RefusedError:
    """The first place where ``value`` is not a full array of ``shape``, or not of integers."""
    wanted: list[int] = []
    first: Any = value
    while isinstance(first, list) and len(wanted) <= _MAX_RANK:
        wanted.append(len(first))
        first = first[0] if first else None
    # A second, slow pass, only for invalid input: depth first, so that the first fault in reading order is reported.
    pending: list[tuple[Any, int]] = [(value, 0)]
    while pending:
        item, level = pending.pop()
        if isinstance(item, list):
            if level >= len(wanted):
                return bad_request(f"Encountered list at unexpected level: {level} expected < {len(wanted)}")
            if len(item) != wanted[level]:
                return bad_request(
                    f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: {wanted[level]}"
                )
            pending.extend((child, level + 1) for child in reversed(item))
        elif level != len(wanted):
            return bad_request(
                f"JSON Value: {show(item)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(wanted)}"
            )
        elif type(item) is not int:
            return bad_request(f"JSON Value: {show(item)} Type: {kind_of(item)} is not of expected type: {_UINT8}")
    return bad_request(f"expected lists of integers nested at most {_MAX_RANK} deep, got shape {shape}")
