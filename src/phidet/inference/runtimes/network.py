"""What every runtime looks like to the detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from phidet.architectures.config import ModelConfig

FloatArray = npt.NDArray[np.float32]


class NetworkOutputs(NamedTuple):
    """What the network says of every anchor, finest level first, row by row, anchors innermost.

    Of one image they lack the first dimension.

    Attributes:
        best_logits: (B, A), the largest of each anchor's class logits.
        class_logits: (B, A, C), before the sigmoid.
        box_deltas: (B, A, 4), against the anchors; see :func:`phidet.detections.boxes.decode`.
    """

    best_logits: FloatArray
    class_logits: FloatArray
    box_deltas: FloatArray


class Network(Protocol):
    """A loaded network. Calls from several threads at once are allowed."""

    config: ModelConfig
    name: str

    def __call__(self, images: FloatArray) -> NetworkOutputs:
        """Normalised images (B, 3, H, W) at the config's size → raw outputs."""
        ...


def with_best(class_logits: FloatArray, box_deltas: FloatArray) -> NetworkOutputs:
    """Outputs of a network that does not say which class is best."""
    best = class_logits[..., 0] if class_logits.shape[-1] == 1 else class_logits.max(-1)
    return NetworkOutputs(best, class_logits, box_deltas)


def from_cells(outputs: Sequence[FloatArray], num_classes: int) -> NetworkOutputs:
    """What an exported file gives: best logits where it has them, then logits and deltas (B, cells, anchors · …)."""
    *best, class_logits, box_deltas = outputs
    batch = len(class_logits)
    class_logits, box_deltas = class_logits.reshape(batch, -1, num_classes), box_deltas.reshape(batch, -1, 4)
    return NetworkOutputs(best[0], class_logits, box_deltas) if best else with_best(class_logits, box_deltas)
