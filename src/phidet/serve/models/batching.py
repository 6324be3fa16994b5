"""Images of many requests in one call of the model.

A free worker takes what waits, up to ``max_batch_size``; so a lone image never waits, and batches grow by themselves
when there is more work than workers. Only with ``batch_timeout_micros`` > 0 does a worker wait for more images. A
single request that arrives while a worker is free is read, processed and answered by it (docs/decisions/0011).

Requests that would miss their deadline are rejected immediately, so that a slow model spends its time on requests
that can still be answered.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import msgspec

from phidet.core.errors import ConfigError, PhidetError
from phidet.core.machine import usable_cores
from phidet.detections.detections import Detections
from phidet.images.decode import Decoded, pixels_in_memory
from phidet.serve.metrics import Metrics
from phidet.serve.models.model import Model
from phidet.serve.models.statistics import Statistics
from phidet.serve.refusals import RefusedError, bad_request, overloaded
from phidet.serve.tasks import begun, whole

MAX_QUEUED_BYTES = 1 << 29  # of queued pixels, in addition to the limit on their number
_MEMORY = 0.8  # of how long batches took, at every one that was faster
log = logging.getLogger("phidet.serve")
T = TypeVar("T")
Detect = Callable[[Decoded], Detections]


class BatchingParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TensorFlow Serving's parameters by their names.

    ``num_batch_threads`` is how many batches run at a time; each of them uses ``cores / num_batch_threads`` threads.
    """

    max_batch_size: int = 8
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 16
    num_batch_threads: int = 1

    def __post_init__(self) -> None:
        for name, least in (
            ("max_batch_size", 1), ("batch_timeout_micros", 0), ("max_enqueued_batches", 1), ("num_batch_threads", 1)
        ):  # fmt: skip
            value = getattr(self, name)
            if not least <= value <= 10**9:
                raise ConfigError(f"{name} must be {least} or more, got {value}")

    @property
    def capacity(self) -> int:
        """Images that may wait."""
        return self.max_batch_size * self.max_enqueued_batches

    @property
    def threads_each(self) -> int:
        """Threads for one batch, so that all of them together have the cores of the machine once."""
        return max(1, usable_cores() // self.num_batch_threads)


class Answers(NamedTuple):
    """The detections in the images of one request, and how long these waited and were processed."""

    detections: list[Detections]
    queue_seconds: float
    compute_seconds: float


class _Waiting(NamedTuple):
    image: Decoded
    answer: asyncio.Future[tuple[Detections, float]]  # and when its batch began
    since: float
    deadline: float


class Batcher:
    """The queue of one loaded model and the threads that work on it, all on one event loop. Entry point: ``detect``.

    Args:
        model: its ``detect`` runs in the threads.
        parameters: sizes.
        metrics: where batch sizes and times are counted.
        name: of the model, for the metrics.
    """

    def __init__(self, model: Model, parameters: BatchingParameters, metrics: Metrics, name: str) -> None:
        self.parameters = parameters
        self.statistics = Statistics()
        self._batch_seconds = 0.0  # what a batch takes: the slowest of late
        self._ends: dict[int, float] = {}  # running batch → when it should be done
        self._batches = 0
        self._model = model
        self._metrics = metrics
        self._name = name
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._idle = parameters.num_batch_threads
        self._threads = ThreadPoolExecutor(parameters.num_batch_threads, f"batch-{name}")
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._queue)

    def check_room(self, deadline: float = math.inf, wanted: int = 1) -> None:
        """Rejects a request early, before it is read.

        Args:
            deadline: on the monotonic clock; after it the answer is no longer wanted.
            wanted: images.

        Raises:
            RefusedError: 503.
        """
        if len(self._queue) + wanted > self.parameters.capacity:
            raise overloaded(f"the queue of model {self._name} is full ({self.parameters.capacity} images)")
        now = time.monotonic()
        late = now + self._wait(now, wanted) - deadline
        if self._ends and late > 0:  # with nothing running, the estimate may be outdated
            raise overloaded(f"model {self._name} has more work than time until this request's deadline", late)

    def _wait(self, now: float, wanted: int) -> float:
        """Seconds until ``wanted`` more images should be answered."""
        # The first worker to finish, then whole rounds of batches over all workers.
        rest = 0.0 if self._idle else max(0.0, min(self._ends.values()) - now)
        batches = math.ceil((len(self._queue) + wanted) / self.parameters.max_batch_size)
        return rest + math.ceil(batches / self.parameters.num_batch_threads) * self._batch_seconds

    async def detect(self, images: Sequence[Decoded], deadline: float = math.inf) -> Answers:
        """The answers, in the order of ``images``. Cancelling takes those that still wait out of the queue.

        Raises:
            RefusedError: 503 no room, 400 more images than could ever wait, 500 the model failed.
        """
        if len(images) > self.parameters.capacity:
            raise bad_request(
                f"{len(images)} images in one request, more than the queue holds ({self.parameters.capacity})"
            )
        self.check_room(deadline, len(images))
        size = sum(pixels_in_memory(image).nbytes for image in images)
        # An empty queue takes any request: otherwise one above the limit could never be answered.
        if self._queue and self._queued_bytes + size > MAX_QUEUED_BYTES:
            raise overloaded(f"the queue of model {self._name} is full ({MAX_QUEUED_BYTES >> 20} MiB of pixels)")
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        # One future per image, since a request's images may end up in different batches.
        answers = [loop.create_future() for _ in images]
        self._queue.extend(
            _Waiting(image, answer, now, deadline) for image, answer in zip(images, answers, strict=True)
        )
        self._count(len(images), size)
        self._start_what_can()
        try:
            found = await asyncio.gather(*answers)
            begun = max(begin for _, begin in found)
            return Answers([detections for detections, _ in found], begun - now, time.monotonic() - begun)
        finally:
            for answer in answers:
                answer.cancel()
            if any(answer.cancelled() for answer in answers):  # gather, when it is cancelled, has done it before
                gone = [entry for entry in self._queue if entry.answer.done()]
                self._queue = deque(entry for entry in self._queue if not entry.answer.done())
                self._count(-len(gone), -sum(pixels_in_memory(entry.image).nbytes for entry in gone))

    @property
    def free(self) -> bool:
        """Whether an image that arrived now would be processed at once."""
        return self._idle > 0 and not self._queue and not self.parameters.batch_timeout_micros

    async def alone(self, work: Callable[[Detect], T]) -> T:
        """Runs ``work`` in a worker, one of which must be ``free``; where it is cancelled, it goes on to its end.

        Args:
            work: is given what answers an image, for at most one call; that raises RefusedError 500 where the model
                fails.

        Raises:
            RefusedError: 500 the worker has ended.
            Exception: what ``work`` raises.
        """
        task = begun(self._work_alone(work, self._begin()))
        self._keep(task)
        return await whole(task)

    async def close(self) -> None:
        """Finishes what runs; the threads end."""
        if self._timer is not None:
            self._timer.cancel()
        while self._running:
            await asyncio.wait(self._running)
        await asyncio.to_thread(self._threads.shutdown)

    def _start_what_can(self) -> None:
        while self._queue and self._idle:
            missing = self.parameters.max_batch_size - len(self._queue)
            left = self._queue[0].since + self.parameters.batch_timeout_micros / 1e6 - time.monotonic()
            # One timer for the oldest entry is enough: it starts whatever waits by then.
            if missing > 0 and left > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(left, self._on_timer)
                return
            batch = self._next_batch()
            if batch:
                self._keep(asyncio.get_running_loop().create_task(self._work(batch, self._begin())))

    def _begin(self) -> int:
        """Reserves a worker; returns the number with which ``_end`` releases it."""
        self._idle -= 1
        self._batches += 1
        # An estimate, from which check_room derives how long a new request would wait.
        self._ends[self._batches] = time.monotonic() + self._batch_seconds
        return self._batches

    def _end(self, number: int) -> None:
        self._idle += 1
        del self._ends[number]

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _on_timer(self) -> None:
        self._timer = None
        self._start_what_can()

    def _next_batch(self) -> list[_Waiting]:
        """The oldest images whose request still waits; divided among the workers that are free."""
        # Rounded up: with idle workers, two half batches side by side finish before one whole batch.
        size = min(self.parameters.max_batch_size, -(-len(self._queue) // self._idle))
        batch: list[_Waiting] = []
        hopeless = time.monotonic() + self._batch_seconds
        while self._queue and len(batch) < size:
            entry = self._queue.popleft()
            self._count(-1, -pixels_in_memory(entry.image).nbytes)
            if entry.answer.done():
                continue  # its request has gone
            if entry.deadline < hopeless and self._queue:  # others wait, for whom it is not too late
                entry.answer.set_exception(overloaded(f"model {self._name} has no time until the request's deadline"))
            else:
                batch.append(entry)
        return batch

    def _count(self, images: int, size: int) -> None:
        """Counts images that entered the queue, or left it (negative)."""
        self._queued_bytes += size
        self._metrics.queued.labels(self._name).inc(images)

    async def _work(self, batch: list[_Waiting], number: int) -> None:
        begun = time.monotonic()
        for entry in batch:
            self._metrics.queue_seconds.labels(self._name).observe(begun - entry.since)
        images = [entry.image for entry in batch]
        outcomes: Sequence[Detections | Exception]
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._threads, self._run, images)
        except RuntimeError as error:  # the threads have ended: requests must not wait for ever
            outcomes = [RefusedError(500, f"model {self._name} is being unloaded: {error}")] * len(batch)
        finally:
            self._end(number)
        answered = sum(isinstance(outcome, Detections) for outcome in outcomes)
        self._note(len(batch), answered, time.monotonic() - begun)
        for entry, outcome in zip(batch, outcomes, strict=True):
            if entry.answer.done():
                continue  # its request has gone
            if isinstance(outcome, Detections):
                entry.answer.set_result((outcome, begun))
            else:
                entry.answer.set_exception(outcome)
        self._start_what_can()

    async def _work_alone(self, work: Callable[[Detect], T], number: int) -> T:
        seconds, answered = 0.0, 0

        def detect(image: Decoded) -> Detections:
            nonlocal seconds, answered
            begun = time.monotonic()
            (outcome,) = self._run([image])
            seconds = time.monotonic() - begun
            if isinstance(outcome, Detections):
                answered = 1
                return outcome
            raise outcome

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, detect)
        finally:
            self._end(number)
            if seconds:
                self._metrics.queue_seconds.labels(self._name).observe(0)
                self._note(1, answered, seconds)
            self._start_what_can()

    def _note(self, size: int, answered: int, seconds: float) -> None:
        """Records what a batch took."""
        self.statistics.add_batch(size, answered, seconds)
        self._metrics.batch_size.labels(self._name).observe(size)
        self._metrics.batch_seconds.labels(self._name).observe(seconds)
        # Rises at once and falls slowly: an estimate that is too low lets requests in that then miss their deadline.
        self._batch_seconds = max(seconds, _MEMORY * self._batch_seconds + (1 - _MEMORY) * seconds)

    def _run(self, images: Sequence[Decoded]) -> Sequence[Detections | Exception]:
        """Runs in a worker thread. If a batch fails, its images are tried one by one: a bad image then fails alone."""
        try:
            return self._model.detect(images)
        except Exception as error:
            if len(images) > 1:
                return [self._run([image])[0] for image in images]
            if isinstance(error, PhidetError):
                return [RefusedError(error.http_status, str(error))]
            log.exception("model %s failed on an image", self._name)
            return [RefusedError(500, f"the model failed: {type(error).__name__}")]
