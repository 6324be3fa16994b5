"""Times of frames over several connections: those of the source where they can be true, else those of arrival."""

from __future__ import annotations

import logging

_MOST_APART_S = 30.0
# HLS begins with several segments at once, whose times run ahead of their arrival; no live stream runs ahead further.
log = logging.getLogger("phidet")


class SourceClock:
    """Puts times of one connection after those of the one before; results never fall.

    A camera whose times drift away from the clock, because it says another frame rate than it has, is not believed.
    """

    def __init__(self) -> None:
        self._first_arrival_s: float | None = None
        self._last_s = 0.0
        self._begun: tuple[float, float] | None = None  # own time and result of the connection's first frame
        self._believed = True
        self._is_file = False

    def begin(self, is_file: bool = False) -> None:
        """A new connection: the source's own times may begin anywhere. Those of a file are true, however fast it is
        read.
        """
        self._begun, self._is_file = None, is_file

    def time_of(self, own_s: float | None, arrival_s: float) -> float:
        """Seconds since the very first frame.

        Args:
            own_s: by the source; ``None`` where it has no times.
            arrival_s: by a clock that only rises.
        """
        if self._first_arrival_s is None:
            self._first_arrival_s = arrival_s
        result = arrived = arrival_s - self._first_arrival_s
        if own_s is not None and self._believed:
            if self._begun is None:
                self._begun = own_s, max(arrived, self._last_s)
            result = self._begun[1] + own_s - self._begun[0]
            if result < self._last_s - 1e-6:
                # The source's times began anew: they go on from here.
                self._begun = own_s, max(arrived, self._last_s)
                result = self._begun[1]
            if not self._is_file and abs(result - arrived) > _MOST_APART_S:
                self._believed = False
                log.warning("the times of a stream differ from the clock's by more than %g s: not used", _MOST_APART_S)
                result = arrived
        self._last_s = max(self._last_s, result)
        return self._last_s
