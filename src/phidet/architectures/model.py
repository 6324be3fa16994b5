"""The base class of every network: a PyTorch module with its config."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from phidet.detections.thresholds import Thresholds


class Model(nn.Module):
    """A network of any architecture; ``config`` determines which, and is saved with the weights.

    So are ``thresholds``, where the best score of each class was measured.
    """

    config: Any
    thresholds: Thresholds | None = None

    def optimize(self) -> nn.Module:
        """A copy for inference with the same inputs and outputs; some architectures fold constants in it."""
        return copy.deepcopy(self).eval()
