"""Runs an export beside the PyTorch model on real pictures: it counts as written only if both say the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.decode import sigmoid
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.core.errors import ExportError
from phidet.detections.boxes import decode, elementwise_iou
from phidet.images.prepare import prepare
from phidet.inference.runtimes.header import Precision
from phidet.inference.runtimes.network import Network

BEST = 100
"""So many of a picture's best anchors are looked at: what becomes detections."""
BOUNDS: dict[Precision, tuple[float, float]] = {"fp32": (1e-3, 0.999), "fp16": (0.02, 0.97), "int8": (0.1, 0.8)}
"""Precision → largest mean difference of scores and least mean IoU. Roundings move them by far less, mistakes by more;
what int8 costs is for ``--eval`` to say."""


class Agreement(NamedTuple):
    """How near an export is to PyTorch, over the best anchors of all pictures.

    Attributes:
        pictures: how many were looked at.
        score: mean difference of the best class's score, 0…1.
        iou: mean intersection over union of the boxes, 0…1.
    """

    pictures: int
    score: float
    iou: float

    def __str__(self) -> str:
        return (
            f"on {self.pictures} pictures the best {BEST} scores differ by {self.score:.2g} on average, "
            f"their boxes overlap by {self.iou:.4f}"
        )


def compare(model: EfficientDet, network: Network, pictures: Sequence[npt.NDArray[np.uint8]]) -> Agreement:
    """How near ``network`` is to ``model`` on pictures (H, W, 3) uint8."""
    config = model.config
    size_hw = config.image_size_hw
    anchors = generate_anchors(size_hw, config.feature_network.levels, config.anchors)
    scores: list[float] = []
    ious: list[float] = []
    model.eval()
    for picture in pictures:
        images = prepare(picture, size_hw, config.preprocess)[0][None]
        theirs = network(images)
        with torch.inference_mode():
            ours = model(torch.from_numpy(images))
        logits = ours.class_logits[0].float().numpy()
        best = np.argsort(-logits.max(1))[:BEST]
        classes = logits[best].argmax(1)
        difference = sigmoid(theirs.class_logits[0, best, classes]) - sigmoid(logits[best, classes])
        boxes = decode(ours.box_deltas[0].float().numpy()[best], anchors[best])
        scores.append(float(np.abs(difference).mean()))
        ious.append(float(elementwise_iou(decode(theirs.box_deltas[0, best], anchors[best]), boxes, "iou").mean()))
    return Agreement(len(pictures), float(np.mean(scores)), float(np.mean(ious)))


def check_agreement(agreement: Agreement, precision: Precision, path: Path) -> None:
    """Does nothing if the export is as near as its precision allows.

    Raises:
        ExportError: it is not.
    """
    score, iou = BOUNDS[precision]
    if not (agreement.score <= score and agreement.iou >= iou):  # nor NaN
        raise ExportError(
            f"{path.name} does not say what PyTorch says, so it was not written: {agreement}; expected at most "
            f"{score:g} and at least {iou:g} for {precision}"
        )
