"""What all protocols share: from a request's images to tensors, on the version chosen when the request arrived."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from phidet.core.machine import usable_cores
from phidet.detections.detections import Detections
from phidet.detections.thresholds import Thresholds
from phidet.images.decode import Decoded, size_of
from phidet.serve.calls import Call, Calls, Notes
from phidet.serve.config_files import follow_model_config
from phidet.serve.configuration import ServerSettings
from phidet.serve.inputs import Budget
from phidet.serve.metrics import Metrics
from phidet.serve.models.batching import Detect
from phidet.serve.models.model import Load
from phidet.serve.models.statistics import RequestSeconds
from phidet.serve.models.versions import LoadedVersion, Repository
from phidet.serve.outputs import Tensors, to_tensors
from phidet.serve.refusals import bad_request, overloaded
from phidet.serve.wire import show

if TYPE_CHECKING:
    from phidet.serve.watch import Watcher

T = TypeVar("T")
W = TypeVar("W")

SMALL_BODY = 1 << 20
"""Bytes of a request that a batch worker may read itself."""


class ParsedRequest(NamedTuple, Generic[W]):
    """The images of a request, what its protocol needs of it to write the answer, and the least score of an object.

    The score is a number or those of the classes; it only leaves out what the server's own score would leave in.
    """

    images: Sequence[Decoded]
    wanted: W
    score: float | Thresholds | None = None


class RequestCodec(NamedTuple, Generic[W, T]):
    """How one request is read and answered in its protocol; both may raise RefusedError, and run in any thread."""

    read: Callable[[], ParsedRequest[W]]
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
        self.calls = Calls(settings, self.metrics, self.repository, _traces(settings))
        self.body_bytes_in_flight = 0
        self.draining = False  # the server will stop: it answers, and says that it is not ready
        self.stopping = asyncio.Event()  # it takes nothing new
        # As many as cores: decoding does little else than compute.
        self._threads = ThreadPoolExecutor(usable_cores(), "decode")
        self._following: asyncio.Task[None] | None = None
        self.watchers: dict[str, Watcher] = {}
        if settings.cameras:
            from phidet.serve.watch import Watcher  # noqa: PLC0415 - drawing, tracking and streams, for cameras only

            self.watchers = {camera.name: Watcher(camera, self.repository) for camera in settings.cameras}

    @property
    def ready(self) -> bool:
        """Every model answers, and the server is not about to stop."""
        return self.repository.ready and not self.draining

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs what takes longer than a millisecond (JSON, base64, JPEG) beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def count_body(self, size: int) -> None:
        """Counts ``size`` bytes of a request that are here; whoever calls it subtracts them again.

        Raises:
            RefusedError: 503: all requests together have too many.
        """
        self.body_bytes_in_flight += size
        if self.body_bytes_in_flight > self.settings.limits.bodies_in_flight_bytes:
            raise overloaded("too many large requests at a time")

    def check_room(self, loaded: LoadedVersion, deadline: float) -> None:
        """Before a body is read: rejects a request that would meet a full queue or wait for too long.

        Raises:
            RefusedError: 503.
        """
        loaded.batcher.check_room(deadline)
        # Requests that are still being decoded are not in the queue yet, but will be: they count, too.
        if loaded.working >= loaded.batcher.parameters.capacity + loaded.batcher.parameters.max_batch_size:
            raise overloaded(f"model {loaded.name} has {loaded.working} requests in flight")

    async def answer(self, call: Call, loaded: LoadedVersion, codec: RequestCodec[W, T], body_bytes: int) -> T:
        """The answer to a request whose body is here.

        Raises:
            RefusedError: what reading raises, 503 no room, 500 the model failed.
        """
        self.check_room(loaded, call.deadline)  # others may have come while the body did
        call.answering = begun = time.monotonic()
        loaded.working += 1
        try:
            answer, call.seconds = await self._answer(loaded, codec, body_bytes, call.deadline)
            loaded.batcher.statistics.add_request(call.seconds)
            return answer
        except Exception:
            loaded.batcher.statistics.fail.add(time.monotonic() - begun)
            raise
        finally:
            loaded.working -= 1

    async def _answer(
        self, loaded: LoadedVersion, codec: RequestCodec[W, T], body_bytes: int, deadline: float
    ) -> tuple[T, RequestSeconds]:
        begun = time.monotonic()
        # The only request: reading, detecting and writing in one worker saves two hand-overs between threads.
        if loaded.working == 1 and body_bytes <= SMALL_BODY and loaded.batcher.free:
            request, done = await loaded.batcher.alone(lambda detect: _at_once(loaded, codec, detect))
            if done is not None:
                return done
        else:
            request = await self.in_thread(codec.read)
        decoded = time.monotonic()
        found = await loaded.batcher.detect(request.images, deadline)
        detected = time.monotonic()
        tensors = _tensors(loaded, request, found.detections)
        if len(request.images) == 1:  # written faster than it is passed to a thread and back
            answer = codec.write(request.wanted, tensors)
        else:
            answer = await self.in_thread(lambda: codec.write(request.wanted, tensors))
        end = time.monotonic()
        return answer, RequestSeconds(
            success=end - begun,
            queue=found.queue_seconds,
            compute_input=decoded - begun,
            compute_infer=found.compute_seconds,
            compute_output=end - detected,
        )

    def budget(self, loaded: LoadedVersion) -> Budget:
        """The pixels of one request; images are decoded as large as the model needs them."""
        limits, needed = self.settings.limits, getattr(loaded.model, "needed_hw", None)
        return Budget(limits.image_pixels, limits.request_pixels, needed)

    def check_count(self, count: int) -> None:
        """Refuses requests with no image or too many.

        Raises:
            RefusedError: 400.
        """
        limit = self.settings.limits.instances
        if not 1 <= count <= limit:
            raise bad_request(f"{show(count)} images in one request, expected 1 to {limit}")

    async def start(self) -> None:
        """Loads the models, and follows their folders and the configuration file until ``close``."""
        await self.repository.start()
        for watcher in self.watchers.values():
            watcher.start()
        path, seconds = self.settings.config_file, self.settings.config_poll_seconds
        if path is not None and seconds:
            following = follow_model_config(path, seconds, self.settings.sources, self.repository.configure)
            self._following = asyncio.create_task(following)

    async def close(self) -> None:
        """Finishes what has begun, and ends the threads."""
        if self._following is not None:
            # First, so that no change of configuration starts a model while the server closes.
            self._following.cancel()
        for watcher in self.watchers.values():
            await watcher.close()
        await self.repository.close()
        self._threads.shutdown()
        if self.calls.traces is not None:
            await asyncio.to_thread(self.calls.traces.close)


def _traces(settings: ServerSettings) -> Notes | None:
    if settings.trace_address is None:
        return None
    from phidet.serve.tracing import Traces  # noqa: PLC0415 - an extra

    return Traces(settings.trace_address, settings.trace_share)


def _at_once(
    loaded: LoadedVersion, codec: RequestCodec[W, T], detect: Detect
) -> tuple[ParsedRequest[W], tuple[T, RequestSeconds] | None]:
    """The request, and its answer if it has one image; several images are better spread over several workers."""
    begun = time.monotonic()
    request = codec.read()
    if len(request.images) != 1:
        return request, None
    decoded = time.monotonic()
    found = [detect(request.images[0])]
    detected = time.monotonic()
    answer = codec.write(request.wanted, _tensors(loaded, request, found))
    end = time.monotonic()
    return request, (answer, RequestSeconds(end - begun, 0.0, decoded - begun, detected - decoded, end - detected))


def _tensors(loaded: LoadedVersion, request: ParsedRequest[Any], found: Sequence[Detections]) -> Tensors:
    sizes_hw = [size_of(image) for image in request.images]
    if isinstance(request.score, Thresholds):
        found = [one[request.score.kept(one)] for one in found]
    elif request.score is not None:
        found = [one.filter(score=request.score) for one in found]
    return to_tensors(found, sizes_hw, loaded.model.max_detections, loaded.model.finds)
