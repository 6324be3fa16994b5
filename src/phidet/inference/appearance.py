"""A detector whose detections bring their appearance: what its own feature maps hold in each box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phidet.core.errors import CheckpointError, ConfigError, MissingExtraError
from phidet.detections.detections import Detections
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.inference.runtimes.open_model import find_model

APPEARANCE = "appearance"


def seen_by(fields: Mapping[str, int], detector: SupportsDetect, model: str | Path) -> SupportsDetect:
    """``detector``, with an appearance where ``fields``, those that a network on its detections sees, have one."""
    return AppearanceDetector(detector, model) if APPEARANCE in fields else detector


class AppearanceDetector:
    """Detects as another detector does, and adds the field ``appearance``.

    The maps are computed by PyTorch, in whatever runtime the detector runs: exports have no outputs for them.

    Args:
        detector: finds the objects.
        model: its model file (.safetensors), or the folder of the run that has it.

    Raises:
        ConfigError: there is no such file, so that there are no maps.
        MissingExtraError: PyTorch is not installed.
    """

    def __init__(self, detector: SupportsDetect, model: str | Path) -> None:
        try:
            from phidet.weights.native import load_model  # noqa: PLC0415 - PyTorch
        except ModuleNotFoundError as error:
            raise MissingExtraError("the appearance of detections", "train") from error
        self._detector = detector
        try:
            self._model = load_model(find_model(model, ".safetensors")).eval()
        except CheckpointError as error:
            raise ConfigError(
                f"the appearance of detections needs the detector's model file or run folder, not {model}: {error}"
            ) from error

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the detector."""
        return self._detector.class_names

    @cached_property
    def width(self) -> int:
        """Numbers of an appearance."""
        height, width = self._model.config.image_size_hw
        # By trying it: how wide the maps are is known to the network alone.
        blank = np.zeros((height, width, 3), np.uint8)
        one = np.array([[0, 0, width, height]], np.float32)
        found = Detections(one, np.ones(1, np.float32), np.zeros(1, np.int64), self.class_names, (height, width))
        seen: Any = self._with_appearance(blank, found).fields[APPEARANCE]
        return int(seen.shape[1])

    def detect(
        self, arrays: Sequence[npt.NDArray[np.uint8]], settings: PostprocessSettings | None = None
    ) -> list[Detections]:
        """As the detector, with the field ``appearance``, (N, :attr:`width`) float32."""
        found = self._detector.detect(arrays, settings)
        return [self._with_appearance(image, one) for image, one in zip(arrays, found, strict=True)]

    def close(self) -> None:
        """Closes the detector, where that can be closed."""
        close = getattr(self._detector, "close", None)
        if close is not None:
            close()

    def _with_appearance(self, image: npt.NDArray[np.uint8], found: Detections) -> Detections:
        from phidet.architectures.appearance import with_appearance  # noqa: PLC0415 - PyTorch

        return with_appearance(self._model, image, found)
