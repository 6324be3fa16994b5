"""Heads of a published network that a request asks for, and what they need to know of the data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError
from phidet.core.structs import convert

KINDS = {"masks": "masks", "semantic": "the class of every pixel"}
"""Field of a config → what its head finds."""


def with_heads(config: Any, wanted: Collection[str], stuff: Sequence[str]) -> Any:
    """``config`` with the heads ``wanted``, of :data:`KINDS`, the usual ones unless it has some already.

    Where labels say which classes are ``stuff``, such as sky, so does the config.

    Raises:
        ConfigError: such networks have none.
    """
    name = architecture_of(config).name
    for head, what in KINDS.items():
        if head in wanted and head not in type(config).__struct_fields__:
            raise ConfigError(f"{name} networks have no head for {what}: leave the option out")
        if head in wanted and getattr(config, head) is None:
            config = convert({**msgspec.to_builtins(config), head: {}}, type(config), head)
        settings = getattr(config, head, None)
        if stuff and "stuff" in getattr(type(settings), "__struct_fields__", ()):
            values = msgspec.to_builtins(config)
            config = convert({**values, head: {**values[head], "stuff": stuff}}, type(config), head)
    return config
