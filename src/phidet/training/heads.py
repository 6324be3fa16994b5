"""Heads of a published network that a request asks for, and what they need to know of the data."""

from __future__ import annotations

from typing import Any

import msgspec

from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError
from phidet.core.structs import in_words
from phidet.data.dataset import Dataset
from phidet.training.about import Request

_KINDS = {"masks": "masks", "semantic": "the class of every pixel"}


def with_heads(config: Any, request: Request, data: Dataset) -> Any:
    """``config`` with the heads that ``request`` asks for, the usual ones unless it has some already.

    Where labels say which classes are stuff, such as sky, so does the config.

    Raises:
        ConfigError: such networks have none.
    """
    name = architecture_of(config).name
    for head, what in _KINDS.items():
        if getattr(request, head) and head not in type(config).__struct_fields__:
            raise ConfigError(f"{name} networks have no head for {what}: leave the option out")
        if getattr(request, head) and getattr(config, head) is None:
            config = _filled(config, head, {})
        settings = getattr(config, head, None)
        if data.stuff and "stuff" in getattr(type(settings), "__struct_fields__", ()):
            stuff = [data.class_names[i] for i in sorted(data.stuff)]
            config = _filled(config, head, {**msgspec.to_builtins(settings), "stuff": stuff})
    return config


def _filled(config: Any, head: str, settings: dict[str, Any]) -> Any:
    """``config`` with these settings of a head, whose type is the architecture's own."""
    try:
        return msgspec.convert({**msgspec.to_builtins(config), head: settings}, type(config))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{head}: {in_words(error, type(config))}") from error
