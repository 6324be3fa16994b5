"""Makes items in a thread of their own, a few ahead of their reader: frames are decoded while a network runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from queue import Empty, Queue
from typing import Generic, TypeVar

T = TypeVar("T")
_AHEAD = 3  # frames of 1080p have 6 MB each
_PATIENCE_S = 0.05


class _End(Generic[T]):
    """What comes after the last item: the error that ended them, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def read_ahead(
    items: Iterable[T], limit: int = _AHEAD, stop: Callable[[], None] | None = None
) -> Generator[T, None, None]:
    """``items`` in their order, up to ``limit`` of them made before they are asked for; raises what ended them.

    Args:
        items: what is made, in another thread.
        limit: how many may wait.
        stop: called when the reader leaves: ends items that may not come for long, such as frames of a camera, whose
            thread is then not waited for.
    """
    queue: Queue[T | _End[T]] = Queue(limit)
    stopped = threading.Event()
    thread = threading.Thread(target=_make, args=(items, queue, stopped), name="read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        if stop is not None:
            stop()
        # The reader may leave early: what waits is taken out until the thread has seen that.
        while thread.is_alive():
            with suppress(Empty):
                queue.get_nowait()
            thread.join(_PATIENCE_S)
            if stop is not None:
                break


def _make(items: Iterable[T], queue: Queue[T | _End[T]], stopped: threading.Event) -> None:
    error: BaseException | None = None
    iterator = iter(items)
    try:
        for item in iterator:
            queue.put(item)
            if stopped.is_set():
                break
    except BaseException as raised:  # raised again by the reader
        error = raised
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()  # here, since a generator is closed by the thread that runs it
        if not stopped.is_set():
            queue.put(_End(error))
