"""The server under pressure and under attack: full queues, deadlines, slow clients, bombs, tokens, shutdown."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phidet.core.errors import ConfigError
from phidet.serve.configuration import Limits
from serve_server import (
    BODY,
    PICTURE,
    PREDICT,
    Server,
    b64,
    encoded,
    held,
    model_of,
    one_model,
    picture,
    received,
    until,
    until_closed,
)


def test_bodies_that_are_too_large(tmp_path: Path) -> None:
    with one_model(tmp_path, limits={"body_bytes": 10_000}) as server:
        for size in (10_001, 39_000):
            reply = server.post(PREDICT, b" " * size)
            assert (reply.status, reply.error) == (413, "the body is larger than this server's limit of 10000 bytes")
        assert server.post(PREDICT, b" " * 9_999 + b"x").status == 400
        endless = server.raw(
            f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
            + b"1000\r\n" + b" " * 4096 + b"\r\n" * 1 + (b"1000\r\n" + b" " * 4096 + b"\r\n") * 40
        )  # fmt: skip
        assert endless.startswith(b"HTTP/1.1 413 ")
        assert server.service.body_bytes_in_flight == 0


def test_all_bodies_together_have_a_limit(tmp_path: Path) -> None:
    limits = {"body_bytes": 100_000, "bodies_in_flight_bytes": 150_000}
    with one_model(tmp_path, limits=limits) as server, ThreadPoolExecutor(4) as pool:
        body = json.dumps(BODY).encode().ljust(90_000)
        with held(model_of(server)):
            replies = [pool.submit(server.post, PREDICT, body) for _ in range(4)]
            until(lambda: sum(reply.done() for reply in replies) == 3)
        assert sorted(reply.result().status for reply in replies) == [200, 503, 503, 503]
        assert server.service.body_bytes_in_flight == 0
        assert server.post(PREDICT, body).status == 200


def test_a_slow_body_is_dropped(tmp_path: Path) -> None:
    with one_model(tmp_path, limits={"idle_seconds": 0.4}) as server:
        with server.opened(
            f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode()
        ) as connection:
            reply = until_closed(connection)
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"no part of the body came for 0.4 s" in reply


def test_a_body_that_drips_meets_the_deadline(tmp_path: Path) -> None:
    with one_model(tmp_path, limits={"idle_seconds": 30, "request_seconds": 1.0}) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n".encode())
            end = time.monotonic() + 60
            connection.settimeout(0.2)
            reply = b""
            while not reply and time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    reply = connection.recv(1000)
                if not reply:
                    connection.sendall(b" ")
        assert reply.startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("sent", [b"", b"GET /v2/health", b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nx-a: "])
def test_slow_headers_are_dropped(tmp_path: Path, sent: bytes) -> None:
    with one_model(tmp_path, limits={"idle_seconds": 0.4}) as server:
        with server.opened(sent) as connection:
            reply = until_closed(connection)
        assert reply == b"" if not sent else reply.startswith(b"HTTP/1.1 408 ")


def test_slow_headers_of_a_second_request_are_dropped(tmp_path: Path) -> None:
    with (
        one_model(tmp_path, limits={"idle_seconds": 0.6}) as server,
        server.opened(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n") as connection,
    ):
        assert received(connection, b'{"live":true}').startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /v2/hea")
        assert until_closed(connection).startswith(b"HTTP/1.1 408 ")


def test_endless_headers_are_refused(tmp_path: Path) -> None:
    with one_model(tmp_path) as server:
        reply = server.raw(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x-filler: " + b"a" * (1 << 20))
        assert reply == b"" or reply.startswith(b"HTTP/1.1 400 ")
        assert server.get("/v2/health/live").status == 200


def test_a_client_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    limits = {"idle_seconds": 0.5, "instances": 64}
    with one_model(tmp_path, limits=limits) as server:
        loaded = server.service.repository.models["m"].available[1]
        loaded.model.max_detections = 20_000  # type: ignore[misc]  # megabytes of padding
        body = json.dumps({"instances": [PICTURE] * 16}).encode()
        head = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        with server.opened(head + body) as connection:
            answered = b'phidet_requests_total{api="v1",model="m",status="200"} 1.0'
            until(lambda: answered in server.service.metrics.text().splitlines())
            until(lambda: not server.engine.server_state.connections)
            assert 0 < len(until_closed(connection)) < 16 * 20_000 * 24, "it was cut off in the middle"
        assert server.get("/v2/health/live").status == 200


def test_more_connections_than_allowed_are_turned_away(tmp_path: Path) -> None:
    with one_model(tmp_path, limits={"connections": 5, "idle_seconds": 60}) as server:
        until(lambda: not server.engine.server_state.connections)
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        reply = server.get("/v2/health/live")
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        for connection in idle:
            connection.close()
        until(lambda: server.get("/v2/health/live").status == 200)


def test_limits_must_be_possible(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="limit body_bytes must be above 0, got 0"):
        Limits(body_bytes=0)


# Token, CORS, paths


def test_the_token(tmp_path: Path) -> None:
    with one_model(tmp_path, token="sésame") as server:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic c8OpYW1l"}):
            reply = server.post(PREDICT, BODY, **headers)
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/models/m", "/v2", "/v2/models/m", "/monitoring/prometheus/metrics", "/v2/repository/index"):
            assert server.get(path).status == 401
        for path in ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"):
            assert server.get(path).status == 200
        right = "Bearer " + "sésame".encode().decode("latin-1")
        assert server.post(PREDICT, BODY, Authorization=right).status == 200


def test_other_sites_may_use_the_api_only_if_asked(tmp_path: Path) -> None:
    with one_model(tmp_path / "a") as server:
        assert not [name for name in server.post(PREDICT, BODY).headers if name.startswith("access-control")]
        assert server.request("OPTIONS", PREDICT).status == 400
    with one_model(tmp_path / "b", cors=True) as server:
        for reply in (server.post(PREDICT, BODY), server.request("OPTIONS", PREDICT), server.get("/v1/models/x")):
            assert reply.headers["access-control-allow-origin"] == "*"
            assert reply.headers["access-control-allow-methods"] == "POST, GET"
            assert reply.headers["access-control-allow-headers"] == "Content-Type"


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page/index.html", "/v1/models/m/versions/../../etc:predict",
        "/v1/models/..%2f..%2fetc%2fpasswd/metadata", "/v2/models/../../../etc/passwd", "//etc/passwd",
        "/v2/models/%2e%2e", "/static/..%5c..%5cwindows",
    ],
)  # fmt: skip
def test_no_path_reaches_the_file_system(tmp_path: Path, path: str, attacked: Server) -> None:
    reply = attacked.get(path)
    assert reply.status in (400, 404)
    assert "error" in reply.json


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"body_bytes": 2 << 20, "image_pixels": 1_000_000}
    with one_model(tmp_path_factory.mktemp("attacked"), limits=limits) as server:
        yield server


def test_pages_use_nothing_from_outside(attacked: Server) -> None:
    for path in ("/", "/docs", "/watch"):
        reply = attacked.get(path)
        policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["connect-src"] == "'self'"
        assert policy["script-src"].startswith("'sha256-")
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        text = reply.body.decode()
        assert not [w for w in ("http://", "https://", "//cdn") if w in text.replace("http://www.w3.org/2000/svg", "")]
        assert " style=" not in text
        assert " onclick=" not in text


# A thousand malformed requests


def png_bomb() -> bytes:
    """A header that promises 30000 × 30000 pixels, and next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 90_001))
        + chunk(b"IEND", b"")
    )


GZIP_BOMB = gzip.compress(b"[" * (8 << 20))
Malformed = tuple[bytes, dict[str, str], set[int]]
"""A body, headers, and the statuses that are right for it."""


def broken_json(random_: random.Random) -> Malformed:
    valid = json.dumps({"instances": [PICTURE]}).encode()
    kind = random_.randrange(6)
    if kind == 0:  # a few bytes changed
        body = bytearray(valid)
        for _ in range(random_.randint(1, 8)):
            body[random_.randrange(len(body))] = random_.randrange(256)
        return bytes(body), {}, {200, 400}
    if kind == 1:
        return valid[: random_.randrange(len(valid))], {}, {400}
    if kind == 2:
        return random_.randbytes(random_.randint(0, 2000)), {}, {400}
    if kind == 3:
        opening = random_.choice([b"[", b'{"a":', b'[{"instances":'])
        return b'{"instances": ' + opening * random_.choice([70, 1000, 50_000]), {}, {400}
    if kind == 4:
        number = random_.choice(["1e99999", "9" * 4000, "9" * 6000, "-1e-99999", "1" + "0" * 300, "NaN", "-Infinity"])
        return f'{{"instances": [[[[1, 2, {number}]]]]}}'.encode(), {}, {400}
    values = [None, True, 0, -1, 1.5, "x", [], {}, [[]], {"b64": 1}, {"b64": "x", "y": 1}, [[[1, 2]]], [{}]]
    key = random_.choice(["instances", "inputs", "signature_name"])
    return json.dumps({key: random_.choice(values), "instances": [random_.choice(values)]}).encode(), {}, {400}


def broken_pictures(random_: random.Random) -> Malformed:
    kind = random_.randrange(6)
    if kind == 0:
        text = random_.choice(["", "=", "A", "####", "é" * 10, "A" * 1000, "\\u0000", "QUJD" * 1000])
        return json.dumps({"instances": [{"b64": text}]}).encode(), {}, {400}
    if kind == 1:  # a few bytes changed: Pillow may still read it
        data = bytearray(encoded(picture(40, 40), "JPEG"))
        for _ in range(random_.randint(1, 40)):
            data[random_.randrange(len(data))] = random_.randrange(256)
        return json.dumps({"inputs": b64(bytes(data))}).encode(), {}, {200, 400}
    if kind == 2:
        return json.dumps({"inputs": b64(png_bomb())}).encode(), {}, {400}
    if kind == 3:
        return GZIP_BOMB, {"Content-Encoding": "gzip"}, {413}
    if kind == 4:
        return random_.randbytes(100), {"Content-Encoding": random_.choice(["gzip", "deflate"])}, {400}
    rows = [[[1] * random_.randint(0, 4)] * random_.randint(0, 3) for _ in range(random_.randint(0, 3))]
    return json.dumps({"inputs": [rows]}).encode(), {}, {200, 400}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.repeated
def test_a_thousand_malformed_requests(attacked: Server) -> None:
    random_ = random.Random(0)
    kinds = (broken_json, broken_pictures)
    paths = [PREDICT, "/v1/models/m/versions/1:predict", "/v2/models/m/infer"]

    def send(count: int) -> None:
        for i in range(count):
            body, headers, statuses = kinds[i % 2](random_)
            path = random_.choice(paths)
            if path.startswith("/v2"):
                statuses = statuses - {200} | {400}
            reply = attacked.post(path, body, **{k.replace("-", "_"): v for k, v in headers.items()})
            assert reply.status in statuses, (path, body[:200], reply)
            if reply.status != 200:
                assert list(reply.json) == ["error"]
                assert len(reply.body) < 3000

    send(200)
    before = resident_bytes()
    send(800)
    assert resident_bytes() - before < 30 << 20, "memory is flat"
    assert attacked.post(PREDICT, BODY).status == 200
    assert attacked.service.body_bytes_in_flight == 0


def test_http_that_is_no_http(attacked: Server) -> None:
    random_ = random.Random(1)
    lines = [
        b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ]  # fmt: skip
    for line in lines + [random_.randbytes(200) for _ in range(30)]:
        reply = attacked.raw(line, seconds=0.3)
        assert not reply.startswith(b"HTTP/1.1 5"), (line, reply)
    assert attacked.post(PREDICT, BODY).status == 200


# Shutdown, log, metrics


def test_a_shutdown_finishes_what_has_begun(tmp_path: Path) -> None:
    pool = ThreadPoolExecutor(5)
    with one_model(tmp_path, batching={"max_batch_size": 2}) as server:
        model = model_of(server)
        with held(model):
            replies = [pool.submit(server.post, PREDICT, BODY) for _ in range(5)]
            until(lambda: server.service.repository.models["m"].available[1].users == 5)
            server.engine.should_exit = True
            until(lambda: not any(listening.is_serving() for listening in server.engine.servers))
    assert [reply.result().status for reply in replies] == [200] * 5
    assert model.closed
    pool.shutdown()


def test_the_access_log_is_json(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "phidet.access")
    with one_model(tmp_path) as server:
        server.post(PREDICT, BODY)
        server.get("/v1/models/%22%e2%80%a8%0a?secret=1")
    entries = [json.loads(record.getMessage()) for record in caplog.records if record.name == "phidet.access"]
    entry = next(entry for entry in entries if entry["path"] == PREDICT)
    assert entry["client"] == "127.0.0.1"
    assert (entry["method"], entry["status"], entry["model"], entry["version"]) == ("POST", 200, "m", 1)
    assert 0 < entry["ms"] < 10_000
    assert not any("secret" in record.getMessage() or "\n" in record.getMessage() for record in caplog.records)


def test_prometheus_sees_requests_batches_and_versions(tmp_path: Path) -> None:
    with one_model(tmp_path) as server:
        for body in (BODY, {"instances": [PICTURE] * 3}, {}):
            server.post(PREDICT, body)
        server.post("/v1/models/unknown:predict", BODY)
        reply = server.get("/monitoring/prometheus/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = reply.body.decode().splitlines()
    for wanted in (
        'phidet_requests_total{api="v1",model="m",status="200"} 2.0',
        'phidet_requests_total{api="v1",model="m",status="400"} 1.0',
        'phidet_requests_total{api="v1",model="",status="404"} 1.0',
        'phidet_batch_size_sum{model="m"} 4.0',
        'phidet_batch_size_count{model="m"} 2.0',
        'phidet_queued_pictures{model="m"} 0.0',
        'phidet_model_version_available{model="m",version="1"} 1.0',
        'phidet_model_loads_total{model="m",outcome="loaded"} 1.0',
        "phidet_requests_in_flight 1.0",
    ):
        assert wanted in lines


def test_nothing_of_the_server_outlives_it(tmp_path: Path) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with one_model(tmp_path) as server:
        server.post(PREDICT, BODY)
    until(lambda: {thread.name for thread in threading.enumerate()} <= before)
