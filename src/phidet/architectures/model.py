"""The base class of every network: a PyTorch module with its config."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


class Model(nn.Module):
    """A network of any architecture; ``config`` determines which, and is saved with the weights."""

    config: Any

    def optimize(self) -> nn.Module:
        """A copy for inference with the same inputs and outputs; some architectures fold constants in it."""
        return copy.deepcopy(self).eval()
