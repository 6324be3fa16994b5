"""Work that goes on where whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def begun(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """``work`` as a task whose failure asyncio does not report where nobody waits for it any more."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_consume_exception)
    return task


async def whole(task: asyncio.Task[T]) -> T:
    """What ``task`` returns or raises; it is not cancelled with this.

    Not :func:`asyncio.shield`, which from Python 3.14 on reports a failure that comes after the cancellation.
    """
    await asyncio.wait({task})
    return task.result()


def _consume_exception(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
