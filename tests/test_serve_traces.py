"""OpenTelemetry traces: what a collector gets, over HTTP and gRPC, with a client's trace and without."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from phidet.core.errors import ConfigError
from serve_server import BODY, PREDICT, Server, one_model, settings_for

for package in ("grpc", "opentelemetry"):
    pytest.importorskip(package, reason="no grpcio or opentelemetry here: pip install 'phidet[grpc,otel]'")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402

from serve_grpc import IMAGE, ON, client, predict_request  # noqa: E402
from serve_grpc import PREDICT as PREDICT_GRPC  # noqa: E402

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(BaseHTTPRequestHandler):
    """Keeps what is sent to it."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip  # noqa: PLC0415

            body = gzip.decompress(body)
        self.server.kept.append((self.path, ExportTraceServiceRequest.FromString(body)))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.kept = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.kept  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def spans(kept: list[tuple[str, Any]]) -> list[Any]:
    assert {path for path, _ in kept} <= {"/v1/traces"}
    requests = [request for _, request in kept]
    return [
        span
        for r in requests
        for resource in r.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def ask(server: Server) -> None:
    parent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    assert server.post(PREDICT, BODY, **parent).status == 200
    assert server.post("/v1/models/x:predict", BODY).status == 404
    server.get("/v2/health/ready")
    with client(server) as asked:
        asked.raw(PREDICT_GRPC, predict_request(IMAGE).SerializeToString(), tuple(parent.items()))


def test_a_request_is_one_span_and_its_parts(tmp_path: Path) -> None:
    with collector() as (address, kept):
        with one_model(tmp_path, network=ON, trace_address=address) as server:
            ask(server)
        found = spans(kept)
    over_http, missing, over_grpc = (span for span in found if span.kind == 2)  # probes leave none
    for span, name in ((over_http, "POST /v1"), (over_grpc, PREDICT_GRPC[1:])):
        assert (span.trace_id.hex(), span.parent_span_id.hex(), span.name) == (TRACE, PARENT, name)
        parts = [part for part in found if part.parent_span_id == span.span_id]
        assert [part.name for part in parts] == ["decode", "queue", "network", "encode"]
        assert all(part.trace_id == span.trace_id for part in parts)
        edges = [span.start_time_unix_nano, *(t for p in parts for t in (p.start_time_unix_nano, p.end_time_unix_nano))]
        assert edges == sorted(edges), "one after the other, inside the request"
        assert edges[-1] <= span.end_time_unix_nano + 1_000_000  # clocks are read one after the other
    assert attributes(over_http) == {
        "client.address": "127.0.0.1", "phidet.model": "m", "phidet.version": 1, "http.request.method": "POST",
        "url.path": PREDICT, "http.response.status_code": 200,
    }  # fmt: skip
    assert attributes(over_grpc) == {
        "client.address": "127.0.0.1", "phidet.model": "m", "phidet.version": 1, "rpc.system": "grpc",
        "rpc.service": "tensorflow.serving.PredictionService", "rpc.method": "Predict", "rpc.grpc.status_code": "OK",
    }  # fmt: skip
    assert attributes(missing)["http.response.status_code"] == 404
    assert missing.parent_span_id == b""


def test_a_share_is_of_the_requests_that_have_no_trace_yet(tmp_path: Path) -> None:
    with collector() as (address, kept):
        with one_model(tmp_path, network=ON, trace_address=f"{address}/v1/traces", trace_share=0.0) as server:
            ask(server)
        assert [span.parent_span_id.hex() for span in spans(kept) if span.kind == 2] == [PARENT, PARENT]


def test_a_collector_that_is_away_holds_nobody_up(tmp_path: Path) -> None:
    with one_model(tmp_path, network=ON, trace_address="http://127.0.0.1:9") as server:
        ask(server)


def test_the_settings_must_be_possible(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for changes, text in (({"trace_address": "collector:4318"}, "must be that of a collector"),
                          ({"trace_share": 1.5}, "--trace_share must be 0 to 1, got 1.5"),
                          ({"prefix": "detect"}, "--prefix must be a path such as /detect")):  # fmt: skip
        with pytest.raises(ConfigError, match=text):
            settings_for(tmp_path / "m", **changes)
