"""The interface of all runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from phidet.architectures.header import Header
from phidet.core.errors import CheckpointError
from phidet.detections.boxes import FloatArray

Outputs = dict[str, FloatArray]
"""What a network returns for a batch, by name; the first dimension is the batch."""


class Network(Protocol):
    """A loaded network. Calls from several threads at once are allowed.

    Those of model files also have ``thresholds``, the best score of each class where the file stores them.
    """

    @property
    def config(self) -> Any:
        """The config of the architecture that the file names."""

    @property
    def name(self) -> str:
        """The name of the runtime."""

    def __call__(self, images: FloatArray, valid_hw: npt.NDArray[np.int64] | None = None) -> Outputs:
        """Normalised images (B, 3, H, W) at the config's size → raw outputs.

        ``valid_hw``, (B, 2), is the second input of networks that take it; see
        :meth:`phidet.architectures.base.Architecture.network_inputs`.
        """


def wanted_outputs(header: Header, names: Sequence[str], path: Path) -> list[str]:
    """Those of a file's outputs ``names`` that its architecture decodes.

    Raises:
        CheckpointError: one that it needs is missing.
    """
    # Files may have more outputs than are decoded, and name them in any order.
    needed = list(header.architecture.output_shapes(header.config))
    if not set(needed) <= set(names):
        raise CheckpointError(
            f"{path} gives {', '.join(sorted(names))}; phidet runs files that give {' and '.join(needed)}: "
            "export it without --nms, which is for other runtimes"
        )
    return [name for name in (*header.architecture.optional_outputs, *needed) if name in names]
