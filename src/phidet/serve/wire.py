"""JSON as TensorFlow Serving reads and writes it: NaN and Infinity are values, floats always have a decimal point."""

from __future__ import annotations

import binascii
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pybase64

from phidet.serve.refusals import bad_request

MAX_DEPTH = 64
"""Lists and objects inside each other; a batch of images in lists needs six."""
SHOWN = 200  # characters of a client's value in an error
# Possessive, and a string may lack its end: else a body of quotes and backslashes takes hours.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_KINDS = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


def parse(body: bytes) -> Any:
    """The JSON value in ``body``; NaN, Infinity and −Infinity are numbers.

    Raises:
        RefusedError: 400: not JSON, or nested deeper than ``MAX_DEPTH``.
    """
    if not body:
        raise bad_request("JSON Parse error: The document is empty")
    # A quick upper bound first; strings are removed only where brackets in them could matter.
    if _depth(body) > MAX_DEPTH and _depth(_STRING.sub(b"", body)) > MAX_DEPTH:
        raise bad_request(f"JSON Parse error: nested deeper than {MAX_DEPTH} levels")
    try:
        # Several times faster than the standard library, which is kept for what msgspec rejects.
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # NaN, a very large number, or not JSON: the slower parser says which
    try:
        return json.loads(body.decode())
    except json.JSONDecodeError as error:
        raise bad_request(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except UnicodeDecodeError as error:
        raise bad_request(f"JSON Parse error: not UTF-8 at offset: {error.start}") from error
    except RecursionError as error:
        raise bad_request("JSON Parse error: nested too deeply") from error
    except ValueError as error:
        raise bad_request("JSON Parse error: a number with too many digits") from error


def show(value: object) -> str:
    """``value`` as JSON, for an error's text; long ones are cut."""
    text = json.dumps(_shortened(value), ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def kind_of(value: object) -> str:
    """The kind of a JSON value, by rapidjson's names."""
    return str(value) if isinstance(value, bool) else _KINDS.get(type(value), "Number")


def is_b64(value: object) -> bool:
    """Whether ``value`` is ``{"b64": "…"}``, how JSON carries bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def from_b64(text: str) -> bytes:
    """The bytes; line breaks and missing ``=`` are accepted, other invalid characters are rejected.

    Raises:
        RefusedError: 400.
    """
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        bare = "".join(text.split()).rstrip("=")
    try:
        return pybase64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request("Unable to base64 decode") from error


def write_floats(array: npt.NDArray[np.float32]) -> str:
    """An array as nested JSON lists, each number with the fewest digits that give the same float32 again."""
    if array.ndim == 0:
        return _words(array.reshape(1))[0]
    if array.ndim > 2:
        return f"[{','.join(map(write_floats, array))}]"
    width = math.prod(array.shape[1:])
    rows = np.ascontiguousarray(array, np.float32).reshape(len(array), width)
    # Most rows are padding: formatting numbers is the expensive part, so zeros are written as text. Compared by bits,
    # because −0.0 is written with its sign.
    used = int(np.flatnonzero(rows.view(np.uint32).any(1)).max(initial=-1)) + 1  # the rest is padding
    words = _words(rows[:used].ravel())
    if array.ndim == 1:
        return f"[{','.join(words + ['0.0'] * (len(rows) - used))}]"
    texts = [f"[{','.join(words[i : i + width])}]" for i in range(0, len(words), max(width, 1))]
    padding = "[" + ",".join(["0.0"] * width) + "]"
    return f"[{','.join(texts + [padding] * (len(rows) - used))}]"


def write(value: Mapping[str, object] | Iterable[object] | msgspec.Struct) -> bytes:
    """JSON text; ``msgspec.Raw`` inside it is copied unchanged."""
    return msgspec.json.encode(value)


def error_body(message: str) -> bytes:
    """``{"error": …}``, as both protocols have it."""
    return write({"error": writable(message)})


def writable(text: str) -> str:
    """``text`` without what JSON can say and UTF-8 cannot: halves of surrogate pairs become "?"."""
    return text.encode("utf-8", "replace").decode()


def _words(values: npt.NDArray[np.float32]) -> list[str]:
    # NumPy's shortest text of a float32 has about half the digits of the same value as float64.
    words: list[str] = values.astype(np.str_).tolist()
    return words if np.isfinite(values).all() else [_NAMES.get(word, word) for word in words]


def _depth(body: bytes) -> int:
    """Deepest nesting, as if no string had brackets in it."""
    brackets = body.translate(None, _NOT_BRACKETS)
    if len(brackets) <= MAX_DEPTH:
        return len(brackets)
    # A running sum of +1 and −1 over the brackets: its largest value is the depth, without a loop in Python.
    steps = np.where(np.isin(np.frombuffer(brackets, np.uint8), list(b"[{")), np.int8(1), np.int8(-1))
    return int(np.cumsum(steps, dtype=np.int32).max())


def _shortened(value: object, levels: int = 4) -> object:
    """So much of ``value`` that ``show`` never writes out megabytes."""
    if isinstance(value, str):
        return value if len(value) <= SHOWN else value[:SHOWN] + "…"
    if isinstance(value, int) and abs(value) > 10**30:
        return "a huge number"
    if isinstance(value, dict | list) and levels == 0:
        return "…"
    if isinstance(value, dict):
        return {str(key)[:SHOWN]: _shortened(item, levels - 1) for key, item in list(value.items())[:8]}
    if isinstance(value, list):
        return [_shortened(item, levels - 1) for item in value[:8]] + (["…"] if len(value) > 8 else [])
    return value
