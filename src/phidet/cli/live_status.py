"""One line a second about a camera or stream, on standard error."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from phidet.cli.report import StatusLine
from phidet.core.words import count

if TYPE_CHECKING:
    from phidet.cli.track import TrackReport
    from phidet.images.live import LiveSource


class LiveStatus:
    """While its block lasts, prints what came, what was looked at and what is tracked, also where nothing comes."""

    def __init__(self, live: LiveSource, report: TrackReport, every_s: float = 1.0) -> None:
        self._live, self._report, self._every_s = live, report, every_s
        self._before = (0, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-status", daemon=True)

    def __enter__(self) -> LiveStatus:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.close()
        self._ended.set()
        self._thread.join()

    def line(self) -> str:
        """What happened since the last line."""
        state, report = self._live.state, self._report
        now = state.received, report.looked_at
        # Rates since the last line rather than means: a camera that has stopped sending shows at once.
        came, looked = ((n - b) / self._every_s for n, b in zip(now, self._before, strict=True))
        self._before = now
        if not state.connected:
            return f"{self._live.shown}: no connection, {count(state.reconnects, 'reconnect')} so far"
        tracks = f"{count(report.tracks_now, 'track')} ({report.tracks_so_far:,} so far)"
        again = f", {count(state.reconnects, 'reconnect')}" if state.reconnects else ""
        return f"{self._live.shown}: {came:.0f} frames a second, {looked:.0f} looked at, {tracks}{again}"

    def _run(self) -> None:
        line = StatusLine()
        while not self._ended.wait(self._every_s):
            line.tell(self.line())
