"""Settings of the tracker, in seconds and shares, so that frame rates and strides may change."""

from __future__ import annotations

import math

import msgspec

from phidet.core.structs import require

_SHARES = ("high", "low", "start", "sure", "overlap", "low_overlap")
_SECONDS = ("lost_s", "confirm_s", "tentative_s")
_NOISES = ("measured", "acceleration", "growth", "first_speed")


class TrackerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How detections become tracks. Lengths are shares of an object's side, the mean of its width and height.

    Attributes:
        high: detections of at least this score are matched first, 0…1.
        low: of at least this score, they go on with a track, but begin none; lower ones are ignored.
        start: score from which a detection that matches no track begins one.
        class_scores: by class id, what stands in the place of ``high`` and ``start`` for objects of each class; for
            instance the scores of a model's :class:`~phidet.detections.thresholds.Thresholds`.
        sure: score from which a new track gets its id at once; others get one when they are seen a second time.
        overlap: least intersection over union with the predicted box.
        low_overlap: the same for detections below ``high``.
        lost_s: how long a track that is not seen waits for its object, in seconds; always until the next frame.
        confirm_s: a track that is not sure gets its id at this age at the earliest, in seconds.
        tentative_s: how long a track without an id waits for its object, in seconds; always until the next frame.
        measured: standard deviation of detected sides and centres.
        acceleration: of centres: standard deviation of the change of speed in a second, in sides a second.
        growth: the same for width and height.
        first_speed: standard deviation of the speed of a new track, in sides a second.
        camera_motion: whether ``update`` is given the frames, and estimates from them how the camera moves.
    """

    high: float = 0.5
    low: float = 0.1
    start: float = 0.5
    class_scores: tuple[float, ...] | None = None
    sure: float = 1.0
    overlap: float = 0.25
    low_overlap: float = 0.4
    lost_s: float = 1.0
    confirm_s: float = 0.0
    tentative_s: float = 0.15
    measured: float = 0.07
    acceleration: float = 1.2
    growth: float = 0.1
    first_speed: float = 1.0
    camera_motion: bool = False

    def __post_init__(self) -> None:
        for name in _SHARES:
            value = getattr(self, name)
            require(isinstance(value, int | float) and 0 <= value <= 1, f"{name} must be in 0…1, got {value!r}")
        for name in _SECONDS:
            value = getattr(self, name)
            require(value >= 0 and math.isfinite(value), f"{name} must be 0 or more seconds, got {value!r}")
        for name in _NOISES:
            value = getattr(self, name)
            require(value > 0 and math.isfinite(value), f"{name} must be above 0, got {value!r}")
        if self.class_scores is not None:
            is_list = isinstance(self.class_scores, list | tuple)
            require(
                is_list and all(0 <= score <= 1 for score in self.class_scores),
                f"class_scores must be a list of numbers in 0…1, one for each class, got {self.class_scores}",
            )
        require(self.low <= self.high, f"low must not be above high, got {self.low:g} and {self.high:g}")
