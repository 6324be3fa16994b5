"""Packages that phidet can use but does not need: imported when they are first used, or the extra is named."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from phidet.core.errors import MissingExtraError


def optional_package(module: str, feature: str, extra: str) -> Any:
    """The imported ``module``.

    Args:
        module: its name, ``pyarrow`` or ``pyarrow.parquet``.
        feature: what of phidet needs it, for the message.
        extra: of phidet, which brings it.

    Raises:
        MissingExtraError: its package is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # A package that is there, but lacks one of its own requirements, says so itself.
        if error.name not in (module, module.split(".", maxsplit=1)[0]):
            raise
        raise MissingExtraError(feature, extra) from None
