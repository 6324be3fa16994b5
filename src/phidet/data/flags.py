"""Yes and no, as tools write it into labels."""

from __future__ import annotations

from typing import Any

_NO = frozenset({"", "0", "false", "no", "none", "unspecified"})
_YES = frozenset({"1", "true", "yes"})


def flag(value: Any) -> bool:
    """Whether a flag is set: a number, a truth value, or text that says one; nothing, "no" and 0 are no.

    Raises:
        ValueError: it is something else.
    """
    word = value.strip().casefold() if isinstance(value, str) else value
    if word is None or word in _NO:
        return False
    if word in _YES:
        return True
    if isinstance(word, str | int | float):
        return float(word) != 0
    raise ValueError(f"expected 0 or 1, got {value!r}")
