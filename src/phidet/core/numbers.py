"""Numbers that several rooms need."""

from __future__ import annotations

import numpy as np


def shortest_float(value: np.float32) -> float:
    """The fewest digits that are this float32."""
    return float(str(value))


def evenly_spaced(length: int, most: int) -> list[int]:
    """At most ``most`` of the indices below ``length``, from all over, rising; none where there are none."""
    return np.linspace(0, length - 1, min(most, length)).round().astype(int).tolist() if length else []
