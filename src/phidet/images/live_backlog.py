"""Keeps up with a camera that sends faster than this machine decodes, by leaving out what would come too late."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

_WAITED_S = 0.001  # reading that takes longer has waited for the camera: nothing was left to read
_BEHIND_S = 1.0


def keep_up(packets: Iterable[Any], clock: Callable[[], float]) -> Iterator[Any]:
    """Those of ``packets`` that are worth decoding: all, unless the reader is behind.

    What it has not come to waits in the system's buffers, so that each frame would be seconds old for ever. Times of
    packets cannot tell, since some cameras' are wrong; but a reader that has not had to wait for a second is behind.
    Then it leaves out all that is there, and goes on with the next key frame: other frames need those before them.

    Args:
        packets: with ``is_keyframe``, as PyAV has them.
        clock: seconds.
    """
    skipping = False
    iterator = iter(packets)
    asked_s = waited_s = clock()
    while (packet := next(iterator, None)) is not None:
        came_s = clock()
        if came_s - asked_s >= _WAITED_S:
            waited_s = came_s
        behind = came_s - waited_s > _BEHIND_S
        # Once something was left out, frames cannot be decoded before the next key frame, caught up or not.
        skipping = behind or (skipping and not packet.is_keyframe)
        if not skipping:
            yield packet
        asked_s = clock()
