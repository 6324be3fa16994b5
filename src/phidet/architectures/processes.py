"""The processes that train together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Processes(NamedTuple):
    """The processes that share a batch.

    Attributes:
        size: their number.
        total: sums a tensor over all of them.
    """

    size: int
    total: Callable[[Tensor], Tensor]
