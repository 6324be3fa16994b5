"""Runs an export beside the PyTorch model on real images: it is kept only if both agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.architectures.header import Precision
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ExportError
from phidet.core.words import count
from phidet.inference.runtimes.network import Network
from phidet.inference.runtimes.torch_runtime import TorchNetwork

BOUNDS: dict[Precision, tuple[float, float]] = {"fp32": (1e-3, 0.999), "fp16": (0.02, 0.97), "int8": (0.1, 0.8)}
"""Precision → largest mean difference of scores and least mean IoU. Rounding moves them by far less, mistakes by more;
``--eval`` measures what int8 costs."""


class Agreement(NamedTuple):
    """How close an export is to PyTorch, over the best answers for all images.

    Attributes:
        images: how many images were compared.
        score: mean difference of the best class's score, 0…1.
        iou: mean intersection over union of the boxes, 0…1.
    """

    images: int
    score: float
    iou: float

    def __str__(self) -> str:
        return (
            f"on {count(self.images, 'image')} the best scores differ by {self.score:.2g} on average, "
            f"their boxes overlap by {self.iou:.4f}"
        )


def compare(model: Model, network: Network, images: Sequence[npt.NDArray[np.uint8]]) -> Agreement:
    """How close ``network`` is to ``model`` on images (H, W, 3) uint8."""
    config, architecture = model.config, architecture_of(model.config)
    # Unfolded: folding batch norms is part of what the comparison must catch mistakes in.
    reference = TorchNetwork(model, folded=False)
    compared = []
    for image in images:
        inputs = architecture.network_inputs([architecture.prepare(config, image)])
        ours, theirs = ({name: of[0] for name, of in run(*inputs).items()} for run in (reference, network))
        compared.append(architecture.agreement(config, ours, theirs))
    # Means, as a single box may jump without any mistake where two answers are nearly equal.
    score, iou = np.mean(compared, axis=0)
    return Agreement(len(images), float(score), float(iou))


def check_agreement(agreement: Agreement, precision: Precision, path: Path) -> None:
    """Raises ExportError unless the export is as close as its precision allows."""
    score, iou = BOUNDS[precision]
    if not (agreement.score <= score and agreement.iou >= iou):  # nor NaN
        raise ExportError(
            f"{path.name} disagrees with PyTorch, so it was not written: {agreement}; expected at most "
            f"{score:g} and at least {iou:g} for {precision}"
        )
