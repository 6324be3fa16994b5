"""OpenTelemetry traces: one span for each request, and in it where its time went. Off unless an address is given."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from phidet.core.extras import __version__
from phidet.serve.calls import LONGEST_PATH, Call
from phidet.serve.models.statistics import RequestSeconds

_EXPORT_S = 5  # that a collector may take
_PARTS = (("decode", "compute_input"), ("queue", "queue"), ("network", "compute_infer"), ("encode", "compute_output"))
"""Span → part of :class:`RequestSeconds`, in the order in which they follow each other."""
_SERVERS = frozenset({"INTERNAL", "UNAVAILABLE", "UNKNOWN", "DATA_LOSS"})
"""gRPC's statuses that are the server's fault."""


class Traces:
    """Makes spans of requests, and sends them.

    Args:
        address: of a collector that takes OTLP over HTTP, such as ``http://collector:4318``.
        share: of the requests that have no trace of their client's, 0…1; the others are traced if their client's are.
        exporter: instead of one that sends to ``address``.
    """

    def __init__(self, address: str, share: float, exporter: SpanExporter | None = None) -> None:
        # Everything that variables of the environment could set is given here: they must not choose where spans go.
        if exporter is None:
            path = "" if urlsplit(address).path.strip("/") else "/v1/traces"
            exporter = OTLPSpanExporter(endpoint=address.rstrip("/") + path, timeout=_EXPORT_S)
        resource = Resource({"service.name": "phidet", "service.version": __version__})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("phidet.serve")
        self._propagator = TraceContextTextMapPropagator()

    def note(self, call: Call, status: int | str) -> None:
        """A request that is answered. Those that ask no model, as probes, leave no trace."""
        if not call.model:
            return
        parent = self._propagator.extract({"traceparent": call.traceparent}, Context())
        # Spans are made when all is over, from times that are taken anyway: without traces nothing is slower.
        epoch_ns = time.time_ns() - time.monotonic_ns()
        name = call.path[1:] if call.api.startswith("grpc") else f"{call.method} /{call.api}"
        span = self._tracer.start_span(
            name, parent, SpanKind.SERVER, _attributes(call, status), start_time=epoch_ns + _ns(call.begun)
        )
        if status in _SERVERS or (isinstance(status, int) and status >= 500):
            span.set_status(StatusCode.ERROR)
        if call.seconds is not None and span.is_recording():
            self._parts(set_span_in_context(span), epoch_ns + _ns(call.answering), call.seconds)
        span.end()

    def close(self) -> None:
        """Sends what is left, as far as the collector takes it."""
        self._provider.shutdown()

    def _parts(self, parent: Context, begun_ns: int, seconds: RequestSeconds) -> None:
        for name, field in _PARTS:
            took_ns = _ns(getattr(seconds, field))
            self._tracer.start_span(name, parent, start_time=begun_ns).end(begun_ns + took_ns)
            begun_ns += took_ns


def _attributes(call: Call, status: int | str) -> dict[str, str | int]:
    """OpenTelemetry's names for HTTP and gRPC, and ours for the model."""
    found: dict[str, str | int] = {"client.address": call.client, "phidet.model": call.model[:LONGEST_PATH]}
    if call.version is not None:
        found["phidet.version"] = call.version
    if isinstance(status, str):
        service, _, method = call.path[1:].rpartition("/")
        return found | {
            "rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "rpc.grpc.status_code": status,
        }  # fmt: skip
    return found | {
        "http.request.method": call.method, "url.path": call.path[:LONGEST_PATH], "http.response.status_code": status,
    }  # fmt: skip


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
