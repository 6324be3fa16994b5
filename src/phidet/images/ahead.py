"""Makes items in a thread of their own, a few ahead of their reader: frames are decoded while a network runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Queue
from typing import Generic, TypeVar

T = TypeVar("T")
_AHEAD = 3  # frames of 1080p have 6 MB each


class _End(Generic[T]):
    """What comes after the last item: the error that ended them, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def read_ahead(items: Iterable[T], limit: int = _AHEAD) -> Iterator[T]:
    """``items`` in their order, up to ``limit`` of them made before they are asked for; raises what ended them."""
    queue: Queue[T | _End[T]] = Queue(limit)
    stopped = threading.Event()

    def make() -> None:
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
            queue.put(_End(error))

    thread = threading.Thread(target=make, name="read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        # The reader may leave early: what waits is taken out until the thread has seen that.
        stopped.set()
        while thread.is_alive():
            if not queue.empty():
                queue.get()
            thread.join(0.01)
