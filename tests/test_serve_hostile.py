"""What one hostile or broken client could do: each of these once took the server's memory, time or connections."""

from __future__ import annotations

import gzip
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from phidet.core.errors import ConfigError
from phidet.serve.configuration import Source
from phidet.serve.http.connection import BoundedProtocol
from phidet.serve.http.listening import listen
from phidet.serve.inputs import Budget, decode
from phidet.serve.refusals import RefusedError
from phidet.serve.wire import parse
from serve_server import (
    PICTURE,
    PREDICT,
    encoded,
    held,
    model_of,
    picture,
    received,
    serving,
    settings_for,
    until,
    until_closed,
    write_version,
)

INFER = "/v2/models/m/infer"


def test_trailers_behind_a_chunked_body_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(tmp_path / "m", 1, "900")
    with serving(settings_for(tmp_path / "m")) as server:
        kept: list[int] = []
        original = BoundedProtocol.on_header

        def counting(self: BoundedProtocol, name: bytes, value: bytes) -> None:
            original(self, name, value)
            kept.append(len(self.headers))

        monkeypatch.setattr(BoundedProtocol, "on_header", counting)
        head = b"POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
        server.raw(head + b"a:b\r\n" * 20_000 + b"\r\n", seconds=1)
        until(lambda: len(kept) > 20_000)  # the trailers came
        assert max(kept) == 2


def test_a_body_that_does_not_come_after_the_answer_ends_the_connection(tmp_path: Path) -> None:
    write_version(tmp_path / "m", 1, "900")
    with (
        serving(settings_for(tmp_path / "m", limits={"idle_seconds": 0.5})) as server,
        server.opened(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n") as connection,
    ):
        assert received(connection, b'{"live":true}').endswith(b'{"live":true}')
        with suppress(ConnectionError):  # it may have been closed already
            connection.sendall(b"x")
        assert until_closed(connection) == b""


def test_headers_have_a_limit_however_they_come(tmp_path: Path) -> None:
    write_version(tmp_path / "m", 1, "900")
    with serving(settings_for(tmp_path / "m")) as server:
        many = b"".join(b"x-%d: %s\r\n" % (i, b"a" * 1000) for i in range(150))
        reply = server.raw(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n" + many + b"\r\n", seconds=2)
        assert reply == b"" or reply.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("tail", [b'"' + b'\\"' * 200_000, b'"' + b"\\" * 200_001, b'"a' * 100_000])
def test_strings_without_an_end_are_seen_through_at_once(tail: bytes) -> None:
    begun = time.thread_time()
    with pytest.raises(RefusedError):
        parse(b"[" * 65 + tail)
    assert time.thread_time() - begun < 5, "it took hours"


def test_pixels_of_a_request_are_counted_before_any_is_decoded() -> None:
    budget = Budget(1_000, 1_500)
    data = encoded(picture(20, 30))
    assert decode(data, budget).shape == (20, 30, 3)
    decode(data, budget)
    with pytest.raises(RefusedError, match="more pixels together than this server's limit of 1500"):
        decode(data, budget)


def test_many_large_images_in_one_request_are_refused(tmp_path: Path) -> None:
    write_version(tmp_path / "m", 1, "900")
    limits = {"request_pixels": 1_000}
    with serving(settings_for(tmp_path / "m", limits=limits)) as server:
        assert server.post(PREDICT, {"instances": [PICTURE]}).status == 200
        reply = server.post(PREDICT, {"instances": [PICTURE] * 2})
        assert reply.status == 400
        assert "send them in several requests" in reply.error


def test_inflated_bodies_count(tmp_path: Path) -> None:
    write_version(tmp_path / "m", 1, "900")
    limits = {"body_bytes": 2 << 20, "bodies_in_flight_bytes": 1 << 20}
    with serving(settings_for(tmp_path / "m", limits=limits)) as server:
        body = gzip.compress(json.dumps({"instances": [PICTURE]}).encode().ljust(3 << 19))
        reply = server.request("POST", PREDICT, body, content_encoding="gzip")
        assert (reply.status, reply.error) == (503, "too many large requests at a time")
        assert server.service.body_bytes_in_flight == 0


def test_a_version_stays_loaded_while_a_body_comes(tmp_path: Path) -> None:
    write_version(tmp_path / "m", 1, "100")
    body = json.dumps({"instances": [PICTURE]}).encode()
    with (
        serving(settings_for(tmp_path / "m", limits={"idle_seconds": 60, "request_seconds": 60})) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=600) as connection,
    ):
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode())
        connection.sendall(body[:10])
        first = server.service.repository.models["m"].available[1]
        until(lambda: first.users == 1)
        write_version(tmp_path / "m", 2, "200")
        until(lambda: list(server.service.repository.models["m"].available) == [2])
        connection.sendall(body[10:])
        reply = received(connection, b"detection_scores")
        assert reply.startswith(b"HTTP/1.1 200 ")
        assert b"0.1," in reply


def test_images_of_clients_that_left_do_not_fill_the_queue(tmp_path: Path) -> None:
    write_version(tmp_path / "m", 1, "900")
    batching = {"max_batch_size": 1, "max_enqueued_batches": 3}
    with serving(settings_for(tmp_path / "m", batching=batching)) as server, ThreadPoolExecutor(1) as pool:
        body = json.dumps({"instances": [PICTURE]}).encode()
        request = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        batcher = server.service.repository.models["m"].available[1].batcher
        with held(model_of(server)):
            clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
            for client in clients:
                client.sendall(request)
            until(lambda: batcher.waiting == 3)
            for client in clients:
                client.close()
            until(lambda: batcher.waiting == 0)
            reply = pool.submit(server.post, PREDICT, body)
            until(lambda: batcher.waiting == 1 or reply.done())
        assert reply.result().status == 200


def test_null_is_what_clients_write_for_nothing(tmp_path: Path) -> None:
    write_version(tmp_path / "m", 1, "900")
    with serving(settings_for(tmp_path / "m")) as server:
        data = PICTURE["b64"]
        tensor = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "parameters": None, "data": [data]}
        reply = server.post(INFER, {"id": None, "parameters": None, "outputs": None, "inputs": [tensor]})
        assert reply.status == 200
        assert "id" not in reply.json
        reply = server.post(INFER, b'{"id":"a\\ud800","inputs":[%s]}' % json.dumps(tensor).encode())
        assert (reply.status, reply.json["id"]) == (200, "a?")


def test_small_answers_are_sent_at_once() -> None:
    with listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP, "asyncio looks at this before it sets TCP_NODELAY"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v2/models/m/infer", {"POST"}),
        ("POST", "/v2/models/m/versions/1", {"GET", "HEAD"}),
        ("GET", "/v2/repository/index", {"POST"}),
        ("DELETE", "/v2/health/live", {"GET", "HEAD"}),
        ("POST", "/", {"GET", "HEAD"}),
    ],
)
def test_another_method_is_named_as_the_fault(tmp_path: Path, method: str, path: str, allowed: set[str]) -> None:
    write_version(tmp_path / "m", 1, "900")
    with serving(settings_for(tmp_path / "m")) as server:
        reply = server.request(method, path)
        assert (reply.status, reply.error) == (405, f"{path} takes {', '.join(sorted(allowed))}, not {method}")
        assert set(reply.headers["allow"].split(", ")) == allowed


def test_the_description_of_the_api_keeps_names_behind_the_token(tmp_path: Path) -> None:
    write_version(tmp_path / "secret-model", 1, "900")
    source = Source("secret-model", tmp_path / "secret-model", labels={"secret-label": 1})
    with serving(settings_for(tmp_path, sources=(source,), token="t")) as server:
        assert b"secret" not in server.get("/openapi.json").body
    with serving(settings_for(tmp_path, sources=(source,))) as server:
        assert b"secret-model" in server.get("/openapi.json").body
        assert b"secret-label" in server.get("/openapi.json").body


@pytest.mark.parametrize("zeros", [0, 40, 4400])
def test_versions_of_any_length(tmp_path: Path, zeros: int) -> None:
    """Python refuses to read more than 4,300 digits."""
    write_version(tmp_path / "m", 9, "900")
    nine, endless = "0" * zeros + "9", "0" * zeros + "9" * 4400
    with serving(settings_for(tmp_path / "m")) as server:
        for api in ("v1", "v2"):
            assert server.get(f"/{api}/models/m/versions/{nine}").status == 200
            reply = server.get(f"/{api}/models/m/versions/{endless}")
            assert reply.status == 400
            assert len(reply.body) < 500


@pytest.mark.parametrize("shape", [[1, 0, 2**63 - 1, 2**63 - 1], [1, 0, 10**23, 3], [10**4000, 1, 1, 3]])
def test_sides_that_no_array_has(tmp_path: Path, shape: list[int]) -> None:
    write_version(tmp_path / "m", 1, "900")
    tensor = {"name": "input_tensor", "shape": shape, "datatype": "UINT8", "data": []}
    with serving(settings_for(tmp_path / "m")) as server:
        reply = server.post(INFER, {"inputs": [tensor]})
        assert reply.status == 400
        assert len(reply.body) < 500
        assert len(server.get(f"/v2/models/{'a' * 50_000}/ready").body) < 500


def test_a_gzip_body_of_several_members(tmp_path: Path) -> None:
    write_version(tmp_path / "m", 1, "900")
    body = json.dumps({"instances": [PICTURE]}).encode()
    with serving(settings_for(tmp_path / "m")) as server:
        parts = gzip.compress(body[:50]) + gzip.compress(body[50:])
        assert server.post(PREDICT, parts, Content_Encoding="gzip").status == 200
        for wrong in (gzip.compress(body) * 2, gzip.compress(body) + b"more", gzip.compress(b"") * 65):
            assert server.post(PREDICT, wrong, Content_Encoding="gzip").status == 400


@pytest.mark.parametrize("port", [-1, 65536, 70000])
def test_a_port_is_a_number_of_sixteen_bits(port: int) -> None:
    with pytest.raises(ConfigError, match=f"a port is 0 to 65535, got {port}"):
        listen("127.0.0.1", port)


@pytest.mark.parametrize("path", ["/v1/models/a%0Ab:predict", "/v1/models/%0A", "/a%0Ab", "/v2/models/%0A/infer"])
def test_paths_with_line_breaks_get_errors_in_json(tmp_path: Path, path: str) -> None:
    write_version(tmp_path / "m", 1, "900")
    with serving(settings_for(tmp_path / "m")) as server:
        for reply in (server.get(path), server.post(path, {"instances": [PICTURE]})):
            assert reply.status in (400, 404, 405)
            assert reply.headers["content-type"] == "application/json"
            assert reply.error


def test_paths_are_not_redirected(tmp_path: Path) -> None:
    write_version(tmp_path / "m", 1, "900")
    with serving(settings_for(tmp_path / "m")) as server:
        statuses = {
            path: server.get(path).status for path in ("/v1", "/V1/models/m", "/v2/", "/docs/", "/v2/models/m/")
        }
        assert statuses == {"/v1": 400, "/V1/models/m": 200, "/v2/": 404, "/docs/": 404, "/v2/models/m/": 404}
        assert server.get("/v1").error == "Malformed request: GET /v1"
