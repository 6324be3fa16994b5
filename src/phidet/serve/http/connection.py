"""Connections that do not come to the point are closed: what uvicorn leaves open, this does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from phidet.serve.configuration import Limits
from phidet.serve.wire import error_body

MAX_HEAD_BYTES = 64 << 10
_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits on connections, on the size of headers, on the time that headers take to come
    and an answer takes to be read.
    """

    limits: ClassVar[Limits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # uvicorn's own signature, whatever its version
        super().__init__(*args, **kwargs)
        self._head_bytes = self._header_bytes = 0
        self._in_head = self._in_message = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Turns it away where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.write(_full())
            transport.close()
            return
        self._head_timer = self._later(self._on_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Its timers go with it."""
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes of headers that are not complete."""
        if self.transport.is_closing():
            return
        begun_before = self._in_head
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        if self._head_timer is None:
            self._head_timer = self._later(self._on_slow)
        if begun_before:  # the first part may be the end of another request
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response(f"Headers of more than {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """A request's first line begins."""
        self._in_head = self._in_message = True
        self._head_bytes = self._header_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; those behind a chunked body are nobody's.

        Raises:
            ValueError: all of them together are too large; the parser makes it an error of the client.
        """
        if self._in_head:
            self._header_bytes += len(name) + len(value)
            if self._header_bytes > MAX_HEAD_BYTES:
                raise ValueError(f"headers of more than {MAX_HEAD_BYTES} bytes")
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """What follows is the body, whose time the application looks after."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is here."""
        self._in_message = False
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is out; what is missing of the request's body has a while to come, for the next one to follow."""
        super().on_response_complete()
        if self._in_message and self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self._later(self._on_slow)

    def pause_writing(self) -> None:
        """The client does not read: it has a while to go on."""
        super().pause_writing()
        self._write_timer = self._later(self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_slow(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._in_head:
            self.transport.write(_SLOW)
        self.transport.close()

    def _later(self, action: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(self.limits.idle_seconds, action)


def bounded_protocol(limits: Limits) -> type[BoundedProtocol]:
    """The protocol with these limits, for uvicorn to make connections of."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits})


def _full() -> bytes:
    body = error_body("too many connections")
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
