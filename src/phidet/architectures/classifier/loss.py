"""Cross entropy of whole images."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from phidet.architectures.base import Loss
from phidet.architectures.batch import Batch
from phidet.architectures.processes import Processes
from phidet.core.structs import require


class ClassLoss(Loss):
    """Cross entropy of the first object's class; ``label_smoothing`` (0…1) spreads it over the other classes.

    The mean over the images of this process; every process has the same number.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        require(0 <= label_smoothing < 1, f"loss label_smoothing must be in [0, 1), got {label_smoothing!r}")
        self.label_smoothing = label_smoothing

    def __call__(self, outputs: Any, batch: Batch, processes: Processes) -> dict[str, Tensor]:
        loss = F.cross_entropy(outputs.float(), batch.class_ids[:, 0], label_smoothing=self.label_smoothing)
        return {"loss": loss}
