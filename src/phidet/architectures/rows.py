"""Which rows of a class predictor belong to which class."""

from __future__ import annotations

from typing import NamedTuple


class PredictorRows(NamedTuple):
    """How the rows of a predictor's tensor belong to classes: groups of one row for each class, and others behind them.

    Attributes:
        groups: how many, for instance anchors of a cell.
        others: rows at the end of each group that belong to no class, for instance "no object".
    """

    groups: int = 1
    others: int = 0
