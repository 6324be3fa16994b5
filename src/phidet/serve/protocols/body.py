"""Reads a request's body within the limits, and inflates it."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from phidet.serve.calls import Call
from phidet.serve.refusals import RefusedError, bad_request, too_large
from phidet.serve.service import Service

CALL = "phidet.call"
"""Where the scope of a request has its :class:`phidet.serve.calls.Call`."""
DRAINED = 4  # times the limit: how much of a too large body is still read, so that its client gets the reason
MEMBERS = 64
"""Of a gzip body, at most."""
T = TypeVar("T")
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def call_of(request: Request) -> Call:
    """What is known of a request."""
    call: Call = request.scope[CALL]
    return call


@contextlib.asynccontextmanager
async def read_body(request: Request, service: Service) -> AsyncIterator[bytes]:
    """The body, inflated if ``Content-Encoding`` says so; it counts as in flight until the block is left.

    Raises:
        RefusedError: 413 too long (also when inflated), 408 too slow, 415 another encoding, 400 damaged gzip, 503 too
            many bodies at a time.
    """
    limit = service.settings.limits.body_bytes
    held = 0
    chunks: list[bytes] = []
    coming = _chunks(request, service.settings.limits.idle_seconds)
    try:
        async for chunk in coming:
            held += len(chunk)
            if held > limit:
                service.body_bytes_in_flight -= held - len(chunk)
                held = 0
                chunks.clear()
                # Closing while the client still sends would reset the connection before it reads the 413.
                await _drain(coming, DRAINED * limit)
                raise too_large(f"the body is larger than this server's limit of {limit} bytes")
            service.count_body(len(chunk))
            chunks.append(chunk)
        body = b"".join(chunks)
        chunks.clear()
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            body = await service.in_thread(lambda: inflate(body, encoding, limit))
            held, before = len(body), held
            service.count_body(held - before)
        yield body
    finally:
        service.body_bytes_in_flight -= held


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """What ``body`` was before it was compressed; gzip may have several members (RFC 1952, 2.2).

    Raises:
        RefusedError: 415 an encoding other than gzip and deflate, 413 more than ``limit`` bytes, 400 damaged.
    """
    if encoding not in _WINDOW:
        raise RefusedError(415, f"Content-Encoding {encoding!r} is not supported: use gzip, deflate or none")
    inflated = b""
    for _ in range(MEMBERS):  # each of them copies what follows it
        inflater = zlib.decompressobj(_WINDOW[encoding])
        try:
            # One byte more than allowed tells "exactly at the limit" from "too much", without inflating a bomb.
            inflated += inflater.decompress(body, limit + 1 - len(inflated))
        except zlib.error as error:
            raise bad_request(f"the body is not valid {encoding}: {error}") from error
        if len(inflated) > limit:
            raise too_large(f"the inflated body is larger than this server's limit of {limit} bytes")
        if not inflater.eof:
            raise bad_request(f"the body is not valid {encoding}: it is cut off")
        body = inflater.unused_data
        if not body:
            return inflated
        if encoding == "deflate":
            raise bad_request(f"the body is not valid deflate: {len(body)} bytes follow its end")
    raise bad_request(f"the body has more than {MEMBERS} gzip members")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits ``work`` for a request whose body has been read; gives up when its client leaves.

    Raises:
        ClientDisconnect: it has left.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        # With the body read, the next message can only be the disconnect.
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()


async def _chunks(request: Request, idle_seconds: float) -> AsyncIterator[bytes]:
    more = True
    while more:
        try:
            async with asyncio.timeout(idle_seconds):
                message = await request.receive()
        except TimeoutError as error:
            raise RefusedError(408, f"no part of the body came for {idle_seconds:g} s") from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _drain(chunks: AsyncIterator[bytes], limit: int) -> None:
    """Reads and drops the rest of a body, up to ``limit`` bytes."""
    with contextlib.suppress(RefusedError, ClientDisconnect):
        async for chunk in chunks:
            limit -= len(chunk)
            if limit < 0:
                return
