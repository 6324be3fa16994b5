"""What both protocols share: from a request's pictures to tensors, on the version that the request began with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from phidet.core.machine import usable_cores
from phidet.detections.detections import Detections
from phidet.serve.configuration import ServerSettings
from phidet.serve.inputs import Budget, Pixels
from phidet.serve.metrics import Metrics
from phidet.serve.models.batching import Detect
from phidet.serve.models.model import Load
from phidet.serve.models.versions import LoadedVersion, Repository
from phidet.serve.outputs import Tensors, to_tensors
from phidet.serve.refusals import bad_request, overloaded
from phidet.serve.wire import show

T = TypeVar("T")
W = TypeVar("W")

SMALL_BODY = 1 << 20
"""Bytes of a request that a batch worker may read itself."""


class Given(NamedTuple, Generic[W]):
    """The pictures of a request, and what its protocol has to know of it for the answer."""

    images: list[Pixels]
    wanted: W


class Exchange(NamedTuple, Generic[W, T]):
    """One request in its protocol. Both run in a thread, and may raise RefusedError."""

    read: Callable[[], Given[W]]
    write: Callable[[W, Tensors], T]


class Service:
    """One server's parts.

    Args:
        settings: what to serve, and the limits.
        load: opens a model file.
    """

    def __init__(self, settings: ServerSettings, load: Load) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.repository = Repository(settings, load, self.metrics)
        self.body_bytes_in_flight = 0
        self._threads = ThreadPoolExecutor(usable_cores(), "decode")

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs what takes longer than a millisecond (JSON, base64, JPEG) beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def deadline(self) -> float:
        """When the answer to a request that begins now is of no use any more, on the monotonic clock."""
        return time.monotonic() + self.settings.limits.request_seconds

    def check_room(self, loaded: LoadedVersion, deadline: float) -> None:
        """Before a body is read: turns a request away that would have to wait behind a full queue, or for too long.

        Raises:
            RefusedError: 503.
        """
        loaded.batcher.check_room(deadline)
        if loaded.working >= loaded.batcher.parameters.capacity + loaded.batcher.parameters.max_batch_size:
            raise overloaded(f"model {loaded.name} has {loaded.working} requests in flight")

    async def answer(self, loaded: LoadedVersion, exchange: Exchange[W, T], body_bytes: int, deadline: float) -> T:
        """The answer to a request whose body is here.

        Raises:
            RefusedError: what reading raises, 503 no room, 500 the model failed.
        """
        self.check_room(loaded, deadline)  # others may have come while the body did
        loaded.working += 1
        try:
            return await self._answer(loaded, exchange, body_bytes, deadline)
        finally:
            loaded.working -= 1

    async def _answer(self, loaded: LoadedVersion, exchange: Exchange[W, T], body_bytes: int, deadline: float) -> T:
        if loaded.working == 1 and body_bytes <= SMALL_BODY and loaded.batcher.free:
            given, answer = await loaded.batcher.alone(lambda detect: _at_once(loaded, exchange, detect))
            if answer is not None:
                return answer
        else:
            given = await self.in_thread(exchange.read)
        found = await loaded.batcher.detect(given.images, deadline)
        return await self.in_thread(lambda: exchange.write(given.wanted, _tensors(loaded, given.images, found)))

    def budget(self) -> Budget:
        """The pixels of one request."""
        return Budget(self.settings.limits.image_pixels, self.settings.limits.request_pixels)

    def check_count(self, count: int) -> None:
        """Refuses requests with no picture or too many.

        Raises:
            RefusedError: 400.
        """
        limit = self.settings.limits.instances
        if not 1 <= count <= limit:
            raise bad_request(f"{show(count)} pictures in one request, expected 1 to {limit}")

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()


def _at_once(loaded: LoadedVersion, exchange: Exchange[W, T], detect: Detect) -> tuple[Given[W], T | None]:
    """The request's pictures, and the answer where it is one picture: several are for several workers."""
    given = exchange.read()
    if len(given.images) != 1:
        return given, None
    return given, exchange.write(given.wanted, _tensors(loaded, given.images, [detect(given.images[0])]))


def _tensors(loaded: LoadedVersion, images: Sequence[Pixels], found: Sequence[Detections]) -> Tensors:
    sizes_hw = [(image.shape[0], image.shape[1]) for image in images]
    return to_tensors(found, sizes_hw, loaded.model.max_detections)
