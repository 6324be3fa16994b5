"""Numbers as files have them."""

from __future__ import annotations

import numpy as np


def shortest(value: np.float32) -> float:
    """The fewest digits that are this float32."""
    return float(str(value))
