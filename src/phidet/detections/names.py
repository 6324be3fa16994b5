"""Names of classes, as callers have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from phidet.core.errors import InputError


def listed_names(names: Iterable[str] | Mapping[int, str]) -> tuple[str, ...]:
    """Class names in the order of their numbers; a mapping has numbers from 0 on as keys, as other libraries keep them.

    Raises:
        InputError: a single text, a mapping with other numbers, or names that are no text.
    """
    if isinstance(names, str):
        raise InputError(f"expected a list of class names, got {names!r}: [{names!r}]?")
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            few = ", ".join(map(repr, list(names)[:5]))
            raise InputError(f"expected names of the classes 0…{len(names) - 1}, got those of {few}")
        names = [names[i] for i in range(len(names))]
    listed = tuple(names)
    wrong = next((name for name in listed if not isinstance(name, str)), None)
    if wrong is not None:
        raise InputError(f"expected class names as text, got {wrong!r}")
    return listed
