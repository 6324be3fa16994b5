"""Frozen, checked data structures: JSON in and out, unknown keys refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from phidet.core.errors import ConfigError, UnknownNameError


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_one_of(kind: str, value: str, choices: object) -> None:
    """Raises UnknownNameError unless ``value`` is one of the literals in ``choices`` (a ``Literal`` type)."""
    # msgspec checks literals only when it decodes JSON, not when a struct is constructed in Python.
    if value not in get_args(choices):
        raise UnknownNameError(kind, value, get_args(choices))


ConfigT = TypeVar("ConfigT", bound=msgspec.Struct)


def to_json(config: msgspec.Struct) -> str:
    """``config`` as JSON text."""
    return msgspec.json.encode(config).decode()


def from_json(text: str | bytes, kind: type[ConfigT]) -> ConfigT:
    """The config that ``text`` describes.

    Raises:
        ConfigError: not JSON, an unknown or missing key, a value of the wrong type or out of range. The message
            names the key's path.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"config does not fit: {in_words(error, kind)}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"config is not valid JSON: {error}") from error


_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "keys with values",
    "null": "null",
}


def in_words(error: msgspec.ValidationError, kind: type[msgspec.Struct] | None = None) -> str:
    """What does not fit, for people: ``epochs: expected a whole number, got text``.

    Args:
        error: msgspec's, which names types as JSON does, and places as ``$.augmentation.flip``.
        kind: what was to be made, to list the values that are accepted where there are only a few.
    """
    # msgspec has no fields for kind and place: the text is all there is.
    message, _, place = str(error).partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    if missing := re.fullmatch("Object missing required field `(.*)`", message):
        return f"{'.'.join(filter(None, (place, missing[1])))} is missing"
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", message):
        near = UnknownNameError("key", unknown[1], getattr(_kind_at(kind, place), "__struct_fields__", ())).near[:1]
        hint = f". Did you mean {near[0]}?" if near else ""
        return f"unknown key {'.'.join(filter(None, (place, unknown[1])))}{hint}"
    if re.match("Expected `", message):
        message = re.sub("`(.*?)`", lambda found: " or ".join(_TYPES.get(n, n) for n in found[1].split(" | ")), message)
        message = message.replace("Expected", "expected", 1)
    elif value := re.fullmatch("Invalid enum value (.*)", message):
        choices = _choices(kind, place)
        message = f"expected {', '.join(map(str, choices))}, got {value[1]}" if choices else f"{value[1]} is not known"
    return f"{place}: {message}" if place else message


def _choices(kind: Any, place: str) -> tuple[object, ...]:
    """The literals that the field at ``place`` of a struct accepts; none where it is of another type."""
    kind = _kind_at(kind, place)
    literals = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    return get_args(literals[0]) if literals else ()


def _kind_at(kind: Any, place: str) -> Any:
    """The type of the field at ``place`` of a struct, whose type is ``kind``; ``None`` where that is not to be seen."""
    for name in filter(None, place.split(".")):
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            return None
        kind = get_type_hints(kind).get(name)
    return kind


def convert(values: Mapping[str, Any], kind: type[ConfigT], what: str, strict: bool = True) -> ConfigT:
    """``values`` as a checked struct; without ``strict``, texts such as those of a command line count as numbers, too.

    Raises:
        ConfigError: they do not fit; the message begins with ``what`` they are of.
    """
    try:
        return msgspec.convert(dict(values), kind, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{what}: {in_words(error, kind)}") from error


def replace(config: ConfigT, changes: dict[str, Any]) -> ConfigT:
    """``config`` with some fields changed, checked again.

    Raises:
        UnknownNameError: a key that the config does not have.
        ConfigError: the result is invalid.
    """
    fields = config.__struct_fields__
    # msgspec.structs.replace would raise a bare TypeError; here the message lists the nearest known keys.
    for key in changes:
        if key not in fields:
            raise UnknownNameError("config key", key, fields)
    return msgspec.structs.replace(config, **changes)
