"""What every decoder asks of a network's outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from phidet.core.errors import CheckpointError


def check_finite(*outputs: npt.NDArray[Any]) -> None:
    """Raises CheckpointError if an output holds NaN or infinity."""
    # NaN fails every threshold, so without this check a broken network would seem to find nothing.
    if not all(np.isfinite(values).all() for values in outputs):
        raise CheckpointError("the network returned NaN or infinity; check its weights or its training")
