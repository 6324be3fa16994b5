"""Around all calls over gRPC: token, limits, deadline, errors as statuses, metrics and the access log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from phidet.serve.calls import LONGEST_PATH, Call
from phidet.serve.grpc.connections import address_of, close_connection
from phidet.serve.messages import message
from phidet.serve.protocols.rpc import Method, Methods
from phidet.serve.refusals import RefusedError, bad_request, deadline_exceeded, overloaded
from phidet.serve.service import SMALL_BODY, Service
from phidet.serve.tasks import begun, whole

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""HTTP's statuses as gRPC's; others are INTERNAL."""
STREAMS = 64
"""Streams at a time: each may have a part of one message in memory, and so may a server of so many cameras."""
_LOOK_EVERY_S = 1.0  # for clients that take no answers
_APIS = {"tensorflow.serving": "grpc_v1", "inference": "grpc_v2"}
log = logging.getLogger("phidet.serve")


@dataclass(eq=False)
class _Writing:
    """An answer on its way to a client."""

    deadline: float
    peer: str
    is_cut_off: bool = False


class Gate(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Finds the method of a call and answers it. Every call is taken as a stream of bytes, which is the same on the
    wire: so the token is checked, and the limits hold, before a message is read.

    Reads and writes are tasks that are never cancelled, and end with their call: gRPC frees the message of one only
    after it has awaited it (grpcio 1.85).

    Args:
        service: settings, limits and metrics.
        methods: by their paths.
    """

    def __init__(self, service: Service, methods: Methods) -> None:
        self._service = service
        self._methods = methods
        limits = service.settings.limits
        # As many messages arrive at a time as the limit on all bodies has room for; gRPC does not say how long one
        # will be, nor how much of it is here. The others wait at their clients.
        self._arriving = asyncio.Semaphore(max(1, limits.bodies_in_flight_bytes // limits.body_bytes))
        self._calls = 0
        self._streams = 0
        self._writings: list[_Writing] = []
        self._looking: asyncio.TimerHandle | None = None

    def service(self, details: Any) -> Any:
        """What answers a call; called by gRPC when its headers are here."""
        metadata = {key: value for key, value in details.invocation_metadata if isinstance(value, str)}

        async def answer(_: Any, context: Any) -> None:
            await self._answer(details.method, metadata, context)

        return grpc.stream_stream_rpc_method_handler(answer)

    async def _answer(self, path: str, metadata: dict[str, str], context: Any) -> None:
        method = self._methods.get(path)
        # Those that last have a label of their own: hours among milliseconds would spoil the histogram of the others.
        lasts = method is not None and (method.failed or method.watch)
        api = "grpc_stream" if lasts else _api(path)
        call = self._service.calls.begin(
            api, "POST", path, address_of(context.peer())[0], metadata.get("traceparent", "")
        )
        # The client's own limit of time, where it has a shorter one: gRPC itself ends the call then. What lasts has no
        # other, but each message in it has the server's.
        own = context.time_remaining()
        ends = min(math.inf if lasts else call.deadline, math.inf if own is None else call.begun + own)
        call.deadline = min(call.deadline, ends)
        code = grpc.StatusCode.CANCELLED
        self._calls += 1
        try:
            code = await self._authorized(method, call, metadata, context)
        finally:
            self._calls -= 1
            if code == grpc.StatusCode.CANCELLED and (call.is_late or time.monotonic() >= ends):
                code = grpc.StatusCode.DEADLINE_EXCEEDED
            self._service.calls.end(call, code.name)

    async def _authorized(
        self, method: Method | None, call: Call, metadata: dict[str, str], context: Any
    ) -> grpc.StatusCode:
        try:
            if method is None:
                raise RefusedError(405, f"there is no method {call.path[:LONGEST_PATH]}")
            if not method.is_open:
                self._service.calls.check_token(metadata.get("authorization", "").encode("latin-1", "replace"))
            if self._calls > self._service.settings.limits.connections:
                raise overloaded("too many calls at a time")
            way = self._stream if method.failed else self._watch if method.watch else self._one
            await way(method, call, context)
            return grpc.StatusCode.OK
        except Exception as error:
            refusal = self._refusal(error, call)
        code = _code(refusal)
        context.set_code(code)
        context.set_details(str(refusal))
        if refusal.retry_after:
            # What gRPC's own retries wait for (gRFC A6).
            context.set_trailing_metadata((("grpc-retry-pushback-ms", str(1000 * refusal.retry_after)),))
        return code

    def _refusal(self, error: Exception, call: Call) -> RefusedError:
        """Any failure as one that a client may read."""
        while isinstance(error, ExceptionGroup):  # of the tasks of a stream
            error = error.exceptions[0]
        if isinstance(error, RefusedError):
            return error
        if isinstance(error, TimeoutError):
            return deadline_exceeded(self._service.settings.limits.request_seconds)
        log.error("%s failed", call.path[:LONGEST_PATH], exc_info=error)
        return RefusedError(500, "internal error")

    async def _one(self, method: Method, call: Call, context: Any) -> None:
        """Reads one message and writes the answer to it."""
        async with self._message(method, call, context) as request, _until(call.deadline):
            assert method.answer is not None
            answer = (await method.answer(request, call)).SerializeToString()
        await self._write(answer, call, context)

    async def _watch(self, method: Method, call: Call, context: Any) -> None:
        """Reads one message and writes what there is to say of it, from time to time."""
        async with self._message(method, call, context) as request:
            pass
        assert method.watch is not None
        async for answer in method.watch(request):
            await whole(begun(context.write(answer.SerializeToString())))

    async def _stream(self, method: Method, call: Call, context: Any) -> None:
        """Answers the messages of a stream, in their order, several at a time: their images share batches."""
        if self._streams >= STREAMS:
            raise overloaded(f"{STREAMS} streams at a time, which is this server's limit")
        self._streams += 1
        # As many at a time as make a batch: more would only wait in memory.
        ahead = self._service.settings.batching.max_batch_size
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(ahead)

        async def read() -> None:
            while (body := await self._next(context)) is not None:
                await answers.put(tasks.create_task(self._in_stream(method, call, body)))
            await answers.put(None)

        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(read())
                while (task := await answers.get()) is not None:
                    await self._write(await task, call, context)
                await reading
        finally:
            self._streams -= 1
        # What it had asked is answered; a client that had more to ask goes to another server.
        if self._service.stopping.is_set():
            raise RefusedError(503, "the server stops", retry_after=1)

    async def _next(self, context: Any) -> bytes | None:
        """The next message of a stream; ``None`` at its end, or when the server stops."""
        coming = begun(context.read())
        stopping = asyncio.ensure_future(self._service.stopping.wait())
        try:
            await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            body = coming.result() if coming.done() else grpc.aio.EOF
            return None if body is grpc.aio.EOF else body
        finally:
            stopping.cancel()

    async def _in_stream(self, method: Method, stream: Call, body: bytes) -> bytes:
        """The answer to one message of a stream, counted and logged as a call of its own."""
        assert method.answer is not None
        assert method.failed is not None
        calls = self._service.calls
        call = calls.begin(_api(stream.path), "POST", stream.path, stream.client, stream.traceparent)
        code = grpc.StatusCode.CANCELLED
        try:
            async with _until(call.deadline):
                with self._held(len(body)):
                    answer = await method.answer(await self._parsed(method, body), call)
            code = grpc.StatusCode.OK
        except Exception as error:
            refusal = self._refusal(error, call)
            code, answer = _code(refusal), method.failed(str(refusal))
        finally:
            calls.end(call, code.name)
        encoded: bytes = answer.SerializeToString()
        return encoded

    @contextlib.asynccontextmanager
    async def _message(self, method: Method, call: Call, context: Any) -> AsyncIterator[Any]:
        """The one message of a call; it counts as in flight until the block is left.

        Raises:
            RefusedError: 400 not such a message, or none, 408 too slow, 503 too many bytes at a time.
        """
        idle = self._service.settings.limits.idle_seconds
        try:
            async with _until(call.deadline), self._arriving:
                # Whoever is slow must not keep the others waiting.
                async with asyncio.timeout(idle):
                    body = await whole(begun(context.read()))
        except TimeoutError as error:
            raise RefusedError(408, f"the message did not come within {idle:g} s") from error
        if body is grpc.aio.EOF:
            raise bad_request("the call ended without a message")
        with self._held(len(body)):
            yield await self._parsed(method, body)

    async def _write(self, answer: bytes, call: Call, context: Any) -> None:
        """Writes an answer, which counts as in flight until its client takes it, or is cut off for not taking it.

        Raises:
            RefusedError: 503 too many bytes at a time.
            CancelledError: the client has gone, or was cut off. As an error it would make gRPC send a status behind an
                answer that it is still sending.
        """
        writing = _Writing(time.monotonic() + self._service.settings.limits.request_seconds, context.peer())
        self._writings.append(writing)
        if self._looking is None:
            self._look_for_slow()
        try:
            with self._held(len(answer)):
                await whole(begun(context.write(answer)))
        # The client has gone: gRPC cancels the task, or the write fails before it does.
        except (asyncio.CancelledError, grpc.aio.InternalError) as error:
            call.is_late = writing.is_cut_off
            raise asyncio.CancelledError from error
        finally:
            self._writings.remove(writing)

    def _look_for_slow(self) -> None:
        """Closes connections whose clients take too long; comes again while anything is being written.

        One timer for all: those of every answer, called off at once, would lie about for as long as a request may last.
        """
        for writing in self._writings:
            if not writing.is_cut_off and time.monotonic() >= writing.deadline:
                writing.is_cut_off = close_connection(writing.peer)
        self._looking = None
        if self._writings:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look_for_slow)

    async def _parsed(self, method: Method, body: bytes) -> Any:
        if not method.request:
            return None
        kind = message(method.request)
        try:
            if len(body) <= SMALL_BODY:
                return kind.FromString(body)
            return await self._service.in_thread(lambda: kind.FromString(body))
        except DecodeError as error:
            raise bad_request(f"the message is not a valid {method.request}") from error

    @contextlib.contextmanager
    def _held(self, size: int) -> Iterator[None]:
        """Counts a message as in flight. An answer that its client does not read counts, too: gRPC keeps it."""
        try:
            self._service.count_body(size)
            yield
        finally:
            self._service.body_bytes_in_flight -= size


def _api(path: str) -> str:
    """The label of a method in the metrics, by its package."""
    return _APIS.get(path[1:].rpartition(".")[0], "grpc_other")


def _code(refusal: RefusedError) -> grpc.StatusCode:
    return _CODES.get(refusal.http_status, grpc.StatusCode.INTERNAL)


def _until(deadline: float) -> asyncio.Timeout:
    return asyncio.timeout(deadline - time.monotonic())
