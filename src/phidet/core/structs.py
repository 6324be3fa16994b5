"""Frozen, checked data structures: JSON in and out, unknown keys refused."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

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
        raise ConfigError(f"config does not fit: {error}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"config is not valid JSON: {error}") from error


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
