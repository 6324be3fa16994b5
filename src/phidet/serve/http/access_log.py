"""Writes the access log to standard output from a thread of its own, so that a slow reader blocks nothing."""

from __future__ import annotations

import io
import logging
import os
import queue
import threading
from typing import TextIO

LINES = 10_000
"""Limit of the queue; lines beyond it are counted and left out."""
_CLOSING_SECONDS = 2.0
log = logging.getLogger("phidet.serve")


class LineWriter(logging.Handler):
    """Writes records as lines; never blocks, and stops with one message when its reader has gone.

    Args:
        stream: text; where it is a file, its descriptor is written to, past Python's buffer.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream
        self.left_out = 0
        self._lines: queue.Queue[str | None] = queue.Queue(LINES)
        self._ended = False
        self._thread = threading.Thread(target=self._write_all, name="access-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Puts the line into the queue."""
        if self._ended:
            return
        try:
            self._lines.put_nowait(self.format(record) + "\n")
        except queue.Full:
            self.left_out += 1

    def close(self) -> None:
        """Waits a limited time for the queue to be written."""
        try:
            self._lines.put_nowait(None)
            self._thread.join(_CLOSING_SECONDS)
        except queue.Full:
            pass  # the reader has stalled
        self._ended = True
        if self.left_out:
            log.warning("%d lines of the access log were left out: its reader was too slow", self.left_out)
        super().close()

    def _write_all(self) -> None:
        try:
            # Straight to the descriptor: a stalled reader must not hold the lock of Python's buffer.
            descriptor: int | None = self.stream.fileno()
        except (OSError, io.UnsupportedOperation):
            descriptor = None
        while (line := self._lines.get()) is not None:
            try:
                if descriptor is None:
                    self.stream.write(line)
                    self.stream.flush()
                else:
                    # os.write may take a part only, for instance into a pipe that is nearly full.
                    rest = memoryview(line.encode("utf-8", "backslashreplace"))
                    while rest:
                        rest = rest[os.write(descriptor, rest) :]
            except (OSError, ValueError) as error:
                self._ended = True
                log.warning("the access log cannot be written any more: %s", getattr(error, "strerror", None) or error)
                return
