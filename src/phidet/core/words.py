"""Counts and lists as messages have them."""

from __future__ import annotations

from collections.abc import Sequence


def count(number: int, noun: str) -> str:
    """``1 image``, ``2,000 images``, ``3 boxes``."""
    # The nouns of phidet's messages need no other rule: class, box.
    plural = "es" if noun.endswith(("s", "x")) else "s"
    return f"{number:,} {noun}" + ("" if number == 1 else plural)


def few(items: Sequence[object], limit: int = 5) -> str:
    """The first ``limit`` items, and how many more there are: ``ant, bee and 7 more``."""
    more = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(map(str, items[:limit])) + more
