"""Requests with ``Upgrade`` are answered in HTTP/1.1 as if they had none (RFC 9110, 7.8), body and all."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from serve_server import BODY, PREDICT, Server, one_model, received, until_closed

UPGRADES = (
    b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
    b"upgrade: websocket\r\nconnection: keep-alive, upgrade\r\n",
    b"upgrade: TLS/1.0\r\nupgrade: h2c\r\nconnection: upgrade\r\n",
)
CONTENT = json.dumps(BODY).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with one_model(tmp_path_factory.mktemp("upgrade"), limits={"idle_seconds": 600}) as running:
        yield running


@pytest.fixture(scope="module")
def answer(server: Server) -> bytes:
    """What a request without the header gets."""
    return server.post(PREDICT, BODY).body


def head(headers: bytes) -> bytes:
    return f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\n".encode() + headers


def with_length(upgrade: bytes, content: bytes = CONTENT) -> bytes:
    return head(upgrade + b"content-length: %d\r\n\r\n" % len(content)) + content


def chunked(upgrade: bytes) -> bytes:
    middle = len(CONTENT) // 2
    chunks = (CONTENT[:middle], CONTENT[middle:], b"")
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head(upgrade + b"transfer-encoding: chunked\r\n\r\n") + body


@pytest.mark.parametrize("framing", [with_length, chunked])
@pytest.mark.parametrize("upgrade", UPGRADES)
def test_the_body_is_read(server: Server, answer: bytes, upgrade: bytes, framing: type) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=600) as connection:
        for _ in range(2):  # the connection stays usable
            connection.sendall(framing(upgrade))
            reply = received(connection, answer)
            assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
            assert reply.endswith(answer)


@pytest.mark.parametrize("framing", [with_length, chunked])
def test_however_the_bytes_are_cut(server: Server, answer: bytes, framing: type) -> None:
    request = framing(UPGRADES[0])
    body_at = request.index(b"\r\n\r\n") + 4
    for cut in (10, request.index(b"pgrade, "), body_at - 1, body_at, body_at + 1, len(request) - 1):
        with socket.create_connection(("127.0.0.1", server.port), timeout=600) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(request[:cut])
            assert server.get("/v2/health/live").status == 200  # the first part has been read by now
            connection.sendall(request[cut:])
            assert received(connection, answer).startswith(b"HTTP/1.1 200 OK\r\n"), cut


def test_requests_one_behind_the_other(server: Server, answer: bytes) -> None:
    """All in one packet: with the header, without, with it again."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=600) as connection:
        connection.sendall(
            with_length(UPGRADES[0]) + with_length(b"") + b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n"
            + UPGRADES[1] + b"\r\n" + chunked(UPGRADES[2] + b"x-last: yes\r\n")
        )  # fmt: skip
        reply = b""
        while reply.count(answer) < 3:
            reply += received(connection, answer)
        assert reply.count(b"HTTP/1.1 200 OK\r\n") == 4
        assert reply.index(b'"live":true') > reply.index(answer)


def test_a_connection_that_is_to_be_closed_is_closed_after_the_answer(server: Server, answer: bytes) -> None:
    # Long before the server closes connections that are idle.
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(with_length(b"connection: close, Upgrade\r\nupgrade: h2c\r\n"))
        reply = until_closed(connection)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(answer)


def test_the_body_is_asked_for(server: Server, answer: bytes) -> None:
    request = with_length(UPGRADES[0] + b"expect: 100-continue\r\n")
    body_at = request.index(b"\r\n\r\n") + 4
    with socket.create_connection(("127.0.0.1", server.port), timeout=600) as connection:
        connection.sendall(request[:body_at])
        assert received(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 100 Continue\r\n")
        connection.sendall(request[body_at:])
        assert received(connection, answer).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_second_head_cannot_be_smuggled_in(server: Server) -> None:
    """A header's value that goes on in the next line stays one value, or the request is refused."""
    hidden = b"x-a: 1\r\n content-length: 0\r\n\t\r\n"
    request = head(UPGRADES[0] + hidden + b"content-length: 2\r\n\r\n") + b"{}"
    reply = server.raw(request + b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", seconds=60)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.count(b"HTTP/1.1 ") <= 2


def test_a_body_that_cannot_be_is_refused(server: Server) -> None:
    for framing in (b"content-length: 2\r\ncontent-length: 3\r\n", b"content-length: x\r\n",
                    b"content-length: 2\r\ntransfer-encoding: chunked\r\n"):  # fmt: skip
        reply = server.raw(head(UPGRADES[0] + framing + b"\r\n") + b"{}", seconds=60)
        assert reply.startswith(b"HTTP/1.1 400 "), framing


def test_no_warning_is_written(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.raw(with_length(UPGRADES[0] + b"x-y: 1\r\n", b"{}").replace(b"Upgrade, ", b"close, Upgrade, "), seconds=60)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


def test_this_is_no_proxy(server: Server) -> None:
    reply = server.raw(b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\nmore", seconds=60)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.count(b"HTTP/1.1 ") == 1
