"""uvicorn's HTTP protocol with limits: closes slow, idle and excessive connections, and ignores ``Upgrade``."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from typing import Any, ClassVar

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from phidet.serve.configuration import Limits
from phidet.serve.wire import error_body

MAX_HEAD_BYTES = 64 << 10
_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _Parser(HttpRequestParser):
    """httptools' parser, which goes on reading HTTP/1.1 behind an ``Upgrade`` header.

    A server may ignore ``Upgrade`` (RFC 9110, 7.8), which Java's clients send with every request. httptools takes what
    follows such a head for another protocol, so that the body is lost. Here the head is parsed once more, without that
    header, and then the body.
    """

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol
        self._restart()

    def feed_data(self, data: bytes | bytearray | memoryview[int] | array[int]) -> None:
        """As httptools' own.

        Raises:
            HttpParserError: not HTTP, or CONNECT, which asks for a tunnel.
        """
        while True:
            try:
                super().feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                if self.get_method() == b"CONNECT":
                    raise HttpParserError("this is no proxy") from upgrade
                (consumed,) = upgrade.args
                data = b"".join([self._protocol.head_without_upgrade(), memoryview(data)[consumed:]])
                self._restart()  # after "Connection: close" it would read no further request

    def _restart(self) -> None:
        super().__init__(self._protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits on connections, on the size of headers, on the time that headers take to come
    and an answer takes to be read.
    """

    limits: ClassVar[Limits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # uvicorn's own signature, whatever its version
        super().__init__(*args, **kwargs)
        self.parser = _Parser(self)
        self._head_bytes = self._header_bytes = 0
        self._in_head = self._in_message = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Rejects the connection if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.write(_full())
            transport.close()
            return
        self._head_timer = self._later(self._on_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels its timers."""
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts the bytes of headers that are not complete yet."""
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
        """One header; trailers behind a chunked body are ignored.

        Raises:
            ValueError: all of them together are too large; the parser makes it an error of the client.
        """
        if self._in_head:
            self._header_bytes += len(name) + len(value)
            if self._header_bytes > MAX_HEAD_BYTES:
                raise ValueError(f"headers of more than {MAX_HEAD_BYTES} bytes")
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body follows, whose timeout the application enforces."""
        self._in_head = False
        self._stop_waiting()
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is complete."""
        if self.parser.should_upgrade():
            return  # the same head follows once more
        self._in_message = False
        self._stop_waiting()
        super().on_message_complete()

    def head_without_upgrade(self) -> bytes:
        """The head that was just parsed, without its ``Upgrade`` headers; ``Connection`` says ``close`` or nothing."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                # Its other words are about the upgrade, and older uvicorns only see this one where it stands alone.
                if b"close" in [word.strip().lower() for word in value.split(b",")]:
                    lines.append(b"connection: close")
            elif name != b"upgrade":
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def on_response_complete(self) -> None:
        """The answer is sent; the rest of the request's body gets limited time, so that the next request can follow."""
        super().on_response_complete()
        if self._in_message and self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self._later(self._on_slow)

    def pause_writing(self) -> None:
        """The client does not read: it gets limited time to continue."""
        super().pause_writing()
        self._write_timer = self._later(self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
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
