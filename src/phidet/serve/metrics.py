"""Metrics for Prometheus. Labels come from the configuration and from fixed lists, never from a request."""

from __future__ import annotations

import os

# prometheus_client looks at these variables when it is imported. Where one is set, it keeps all values in files of that
# folder, for servers of several processes: a missing folder ends the server, and a restart with the same process id (in
# a container always 1) continues the old counts. This server is one process, so its values stay in memory.
_hidden = {
    name: os.environ.pop(name)
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
    if name in os.environ
}
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest  # noqa: E402
from prometheus_client.gc_collector import GCCollector  # noqa: E402
from prometheus_client.platform_collector import PlatformCollector  # noqa: E402
from prometheus_client.process_collector import ProcessCollector  # noqa: E402

os.environ.update(_hidden)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = Counter("phidet_requests", "Requests answered.", ["api", "model", "status"], registry=registry)
        self.request_seconds = Histogram(
            "phidet_request_seconds", "From the first byte to the last.", ["api"], buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "phidet_batch_size", "Images in one call of the model.", ["model"], buckets=_SIZES, registry=registry
        )
        self.batch_seconds = Histogram(
            "phidet_batch_seconds", "One call of the model.", ["model"], buckets=_SECONDS, registry=registry
        )
        self.queue_seconds = Histogram(
            "phidet_queue_seconds", "An image's wait for its batch.", ["model"], buckets=_SECONDS, registry=registry
        )
        self.queued = Gauge("phidet_queued_pictures", "Images that wait.", ["model"], registry=registry)
        self.in_flight = Gauge("phidet_requests_in_flight", "Requests begun and not answered.", registry=registry)
        self.versions = Gauge(
            "phidet_model_version_available", "1 for each version that answers.", ["model", "version"],
            registry=registry,
        )  # fmt: skip
        self.loads = Counter("phidet_model_loads", "Versions loaded.", ["model", "outcome"], registry=registry)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
