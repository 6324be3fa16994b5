"""Trackers of the ``trackers`` package in the place of our own.

>>> from trackers import OCSORTTracker
>>> tracker = ExternalTracker(OCSORTTracker())
>>> tracked = tracker.update(detector(image, settings), time_s)
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from phidet.core.errors import ConfigError
from phidet.detections.detections import Detections
from phidet.detections.fields import TRACK_ID

_ROW = "phidet_row"


class SupportsTrack(Protocol):
    """What follows objects: :class:`~phidet.detections.tracking.tracker.Tracker` is one."""

    def update(self, found: Detections, time_s: float, image: npt.NDArray[np.uint8] | None = None) -> Detections:
        """The objects of the next frame that have an identity, with the field ``track_id``."""

    def predict(self, time_s: float) -> Detections:
        """Where they are believed at a time after the last ``update``."""


class ExternalTracker:
    """Adapts a tracker that takes and returns ``supervision.Detections`` with ``tracker_id``, −1 for none.

    Args:
        tracker: of the ``trackers`` package, or anything with that ``update``. Its settings in frames are its own.

    Raises:
        MissingExtraError: by ``update``, without the ``supervision`` extra.
    """

    def __init__(self, tracker: Any) -> None:
        if not callable(getattr(tracker, "update", None)):
            raise ConfigError(f"expected a tracker with a method update, got a {type(tracker).__name__}")
        self._tracker = tracker

    def update(self, found: Detections, time_s: float, image: npt.NDArray[np.uint8] | None = None) -> Detections:
        """As :meth:`Tracker.update`; what has no id is left out."""
        given = found.to_supervision()
        # It may return fewer rows, and in another order: each keeps its number.
        given.data[_ROW] = np.arange(len(found))
        tracked = self._tracker.update(given)
        ids = np.asarray(tracked.tracker_id if tracked.tracker_id is not None else (), np.int64)
        rows = np.asarray(tracked.data.get(_ROW, ()), np.int64)
        kept = np.flatnonzero(ids >= 0)
        kept = kept[np.argsort(rows[kept])]  # in the order of the detections
        return found[rows[kept]].with_fields({TRACK_ID: ids[kept]})

    def predict(self, time_s: float) -> Detections:
        """Not possible.

        Raises:
            ConfigError: always: such trackers predict only when they are given the next detections.
        """
        raise ConfigError("this tracker cannot say where objects are between detections: detect on every frame")
