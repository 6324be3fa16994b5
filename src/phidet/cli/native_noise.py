"""Suppresses what C libraries write to standard error."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_native_noise() -> Iterator[None]:
    """While it lasts, only Python's ``sys.stderr`` and logging reach standard error.

    libtiff writes its complaints about a file straight to file descriptor 2, and Pillow warns in several lines. What
    matters of both is raised as an error.
    """
    shown = sys.stderr
    kept = os.dup(2)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        shown.flush()
        # Our own messages keep a copy of the original descriptor, as descriptor 2 itself leads to the null device.
        ours = open(kept, "w", encoding=shown.encoding, errors="backslashreplace", buffering=1)  # noqa: SIM115
        # Handlers hold the stream that they were made with, whatever sys.stderr is now.
        handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
        handlers = [h for h in handlers if h.stream is shown]
        os.dup2(nowhere.fileno(), 2)
        try:
            if _is_descriptor_2(shown):
                sys.stderr = ours
                for handler in handlers:
                    handler.setStream(ours)
            yield
        finally:
            sys.stderr = shown
            for handler in handlers:
                handler.setStream(shown)
            ours.flush()
            os.dup2(kept, 2)
            ours.close()


def _is_descriptor_2(stream: object) -> bool:
    try:
        return bool(stream.fileno() == 2)  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):  # replaced by something that is no file
        return False
