"""The weight formats of other projects (dialects), of all architectures; see :mod:`phidet.architectures.dialect`."""

from __future__ import annotations

from typing import Any

from phidet.architectures.base import Architecture
from phidet.architectures.dialect import Dialect
from phidet.architectures.registry import all_architectures


def known_dialects() -> dict[str, tuple[Architecture[Any], Dialect]]:
    """Dialect name → (architecture, dialect). Whole detectors come before the backbones that they contain."""
    # In the order of the architectures, detectors first: a detector's file also has all keys of its backbone's format.
    return {
        dialect.name: (architecture, dialect)
        for architecture in all_architectures()
        for dialect in architecture.dialects()
    }
