"""Small numeric helpers shared by several packages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt


def shortest_float(value: np.float32) -> float:
    """The float with the fewest decimal digits that rounds to this float32: 0.1, not 0.10000000149011612."""
    # NumPy prints the shortest text that parses back to the same float32; converting the value directly would expose
    # float64 digits.
    return float(str(value))


def evenly_spaced(length: int, limit: int) -> list[int]:
    """At most ``limit`` of the indices 0 … ``length`` − 1, evenly spaced, in rising order; empty if ``length`` is 0."""
    return np.linspace(0, length - 1, min(limit, length)).round().astype(int).tolist() if length else []


def equal_pairs(keys: npt.NDArray[Any], limit: int) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Indices of all pairs of equal values in ``keys``, which are sorted, at most ``limit`` places apart.

    All pairs at one distance come together, the nearest ones first.
    """
    first = np.arange(len(keys))
    for distance in range(1, limit + 1):
        first = first[first < len(keys) - distance]
        # A value without an equal one at this distance has none further away.
        first = first[keys[first] == keys[first + distance]]
        if not first.size:
            return
        yield first, first + distance


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """1 / (1 + e^−x), without overflow."""
    # The exponent is never positive, so exp cannot overflow; each sign has its own equivalent formula.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
