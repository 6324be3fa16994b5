"""The score from which a detection counts, class by class, as it was found on validation data and stored in a model."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import ConfigError
from phidet.core.structs import require
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings

_ROOM = 10  # times as many detections as are wanted in the end


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """The best threshold of each class; see :func:`phidet.evaluation.thresholds.best_thresholds`.

    Attributes:
        scores: (C,) in the order of the classes, 0…1.
        measured: (C,) whether the class had objects to measure it on; the others have the threshold with the best mean
            F1 of those that had.
        data: the name of the split.
        images: how many they were.
        iou: overlap with which a detection found an object.
    """

    scores: tuple[float, ...]
    measured: tuple[bool, ...]
    data: str
    images: int
    iou: float

    def __post_init__(self) -> None:
        require(all(0 <= score <= 1 for score in self.scores), f"thresholds must be in 0…1, got {self.scores}")
        require(
            len(self.scores) == len(self.measured),
            f"expected to know of each of {len(self.scores)} thresholds whether it was measured, got "
            f"{len(self.measured)}",
        )

    def kept(self, found: Detections) -> npt.NDArray[np.bool_]:
        """(N,) whether each detection reaches the threshold of its class."""
        return found.scores >= np.array(self.scores, np.float64)[found.class_ids]


def stored_thresholds(detector: object, model: object) -> Thresholds:
    """The thresholds that the model of a detector stores.

    Args:
        detector: a :class:`~phidet.inference.detector.Detector`, or whatever else detects.
        model: its name, for the message.

    Raises:
        ConfigError: it stores none.
    """
    thresholds = getattr(detector, "thresholds", None)
    if not isinstance(thresholds, Thresholds):
        raise ConfigError(
            f"{model} stores no thresholds, so that no score can be chosen for it: measure them on validation data "
            "with 'phidet eval DATA -m MODEL --store-thresholds', or give a number"
        )
    return thresholds


def above_thresholds(
    decode: Callable[[PostprocessSettings], Detections], settings: PostprocessSettings, thresholds: Thresholds
) -> Detections:
    """What ``decode`` finds of at least the threshold of its class, with ``settings`` but for their score."""
    # Detections of a class with a low threshold must not be crowded out by those that are left out afterwards.
    room = min(settings.candidates, _ROOM * settings.max_detections)
    least = min(thresholds.scores)
    found = decode(msgspec.structs.replace(settings, score=least, max_detections=room))
    return found[thresholds.kept(found)][: settings.max_detections]
