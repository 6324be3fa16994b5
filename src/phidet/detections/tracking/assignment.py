"""Optimal assignment of detections to tracks, by SciPy (extra ``track``)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from phidet.core.optional import optional_package

Indices = npt.NDArray[np.int64]


@cache
def import_solver() -> Any:
    """``scipy.optimize.linear_sum_assignment``.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    return optional_package("scipy.optimize", "tracking", "track").linear_sum_assignment


def assign(similarity: npt.NDArray[np.float64], least: float) -> tuple[Indices, Indices]:
    """The pairs of a row and a column, each in one pair at most, with the largest sum of what they exceed ``least`` by.

    Args:
        similarity: (N, M); pairs of 0 or below ``least`` do not go together.
        least: where a pair is worth as much as none.

    Returns:
        Rows and columns of the pairs, rows ascending.
    """
    allowed = (similarity >= least) & (similarity > 0)
    # Most frames have no conflict: each row and each column has one partner at most, and there is nothing to solve.
    if allowed.sum(axis=0).max(initial=0) <= 1 and allowed.sum(axis=1).max(initial=0) <= 1:
        rows, columns = np.nonzero(allowed)
        return rows, columns
    # A little above 0, so that a pair at the very limit is preferred to none.
    worth = np.where(allowed, similarity - least + 1e-9, 0.0)
    rows, columns = import_solver()(worth, maximize=True)
    paired = allowed[rows, columns]
    return rows[paired], columns[paired]
