"""The doctor's view of the network that a data set is meant for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # every architecture imports this module, and a detector needs no data set
    from phidet.data.dataset import Dataset
    from phidet.data.doctor.facts import Coverage, Trial

Boxes = npt.NDArray[np.float64]


class AnchorView(NamedTuple):
    """How a network's anchors match boxes.

    Attributes:
        scale: of the anchors.
        aspects: width / height of each.
        coverage: how they meet the boxes of data sets, and what would meet them better; ``None`` without any box.
        met: (N, 4) boxes in pixels of the input → (N,) whether an anchor meets each; with a trial's anchors or size
            instead of the network's own where one is given.
    """

    scale: float
    aspects: tuple[float, ...]
    coverage: Callable[[Sequence[Dataset]], Coverage | None]
    met: Callable[[Boxes, Trial | None], npt.NDArray[np.bool_]]


class NetworkView(NamedTuple):
    """A network's properties for the doctor; ``anchors`` is ``None`` where it has none."""

    name: str
    image_size_hw: tuple[int, int]
    anchors: AnchorView | None
