"""Postprocessing settings: score threshold, suppression and limits."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import msgspec
import numpy as np

from phidet.core.errors import ConfigError, UnknownNameError

NmsKind = Literal["hard", "gaussian", "linear", "none"]
Score: TypeAlias = float | Literal["auto"]
"""A lowest score, or "auto" for the thresholds of the classes that a model stores."""


_NUMBER = (float, int, np.floating, np.integer)


class PostprocessSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How raw outputs become detections. Applied at run time; exported models contain none of it.

    Attributes:
        score: objects with a lower score are left out, 0…1; "auto" for the threshold of each class that the model
            stores (:class:`~phidet.detections.thresholds.Thresholds`).
        iou: boxes that overlap a better one by more than this are its duplicates (hard and linear NMS), 0…1.
        nms: the kind of suppression.
        sigma: width of the Gaussian.
        per_class: boxes suppress only boxes of their own class.
        multi_class: an anchor may give several objects, one for each class; otherwise only its best class is used.
        candidates: number of top-scoring (anchor, class) pairs passed to NMS.
        max_detections: maximum number of objects for each image.
        classes: only objects of these classes, by name; ``None`` for all.
        segment_score: lowest score of an object that becomes a segment, where a network says what every pixel belongs
            to; ``None`` for the network's usual one.
        masks: whether masks and segments are made, where the network finds some; without them boxes come sooner.
    """

    score: Score = 0.3
    iou: float = 0.5
    nms: NmsKind = "hard"
    sigma: float = 0.5
    per_class: bool = True
    multi_class: bool = False
    candidates: int = 5000
    max_detections: int = 100
    classes: tuple[str, ...] | None = None
    segment_score: float | None = None
    masks: bool = True

    def __post_init__(self) -> None:
        # NumPy's numbers are welcome, NaN is not: all comparisons with it are false.
        for name in ("score", "iou"):
            value = getattr(self, name)
            if not (isinstance(value, _NUMBER) and 0 <= value <= 1) and (name, value) != ("score", "auto"):
                raise ConfigError(f"{name} must be in 0…1, got {value!r}")
        if self.segment_score is not None and not (
            isinstance(self.segment_score, _NUMBER) and 0 <= self.segment_score <= 1
        ):
            raise ConfigError(f"segment_score must be in 0…1, got {self.segment_score!r}")
        if self.nms not in get_args(NmsKind):
            raise UnknownNameError("nms", self.nms, get_args(NmsKind))
        if not (isinstance(self.sigma, _NUMBER) and math.isfinite(self.sigma) and self.sigma > 0):
            raise ConfigError(f"sigma must be > 0, got {self.sigma!r}")
        if isinstance(self.classes, str):
            raise ConfigError(f"classes must be a list of names, got the text {self.classes!r}: ({self.classes!r},)?")
        for name in ("candidates", "max_detections"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ConfigError(f"{name} must be a whole number ≥ 1, got {value!r}")

    @property
    def least_score(self) -> float:
        """The score as a number, for decoders.

        Raises:
            ConfigError: it is "auto", and what detects stores no thresholds.
        """
        if isinstance(self.score, str):
            raise ConfigError('the score "auto" needs a phidet model that stores thresholds: give a number')
        return float(self.score)


def class_ids_of(wanted: tuple[str, ...], class_names: tuple[str, ...]) -> list[int]:
    """Ids of classes given by name.

    Raises:
        UnknownNameError: the model has no class of that name.
    """
    for name in wanted:
        if name not in class_names:
            raise UnknownNameError("class", name, class_names)
    return [class_names.index(name) for name in wanted]
