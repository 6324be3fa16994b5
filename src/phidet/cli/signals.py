"""Signals that end a command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM, as schedulers send it, ends the block with ``SystemExit`` instead of the process where it stands."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return

    def end(number: int, frame: FrameType | None) -> None:
        # As an exception, so that finally blocks run and unfinished files are removed.
        raise SystemExit(128 + number)

    # Restored afterwards, because the caller may be a program that handles SIGTERM itself.
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
