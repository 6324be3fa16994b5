"""What every network is: a PyTorch module that keeps its config."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


class Model(nn.Module):
    """A network of any architecture; ``config`` says which, and is saved with the weights."""

    config: Any

    def optimize(self) -> nn.Module:
        """A copy for inference that takes and returns the same; architectures that can fold constants do so."""
        return copy.deepcopy(self).eval()
