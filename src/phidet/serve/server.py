"""Runs the server until it gets a signal to stop, then finishes the requests in progress."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import uvicorn

from phidet.core.machine import give_freed_memory_back, limit_heaps
from phidet.serve.calls import access_log
from phidet.serve.configuration import ServerSettings
from phidet.serve.http.access_log import LineWriter
from phidet.serve.http.app import build_app
from phidet.serve.http.connection import bounded_protocol
from phidet.serve.http.listening import allow_connections, listen
from phidet.serve.models.model import Load
from phidet.serve.service import Service
from phidet.serve.tls import Certificate

if TYPE_CHECKING:
    from phidet.serve.grpc.server import GrpcServer

GRACE_SECONDS = 30
_DRAIN_STEP_S = 0.1
MEMORY_STEP_S = 10.0
log = logging.getLogger("phidet.serve")


class Network(NamedTuple):
    """Where the server listens, and how it stops.

    Attributes:
        host: address to listen on.
        rest_port: for HTTP; 0 is any that is free.
        grpc_port: for gRPC, likewise; ``None`` for none.
        certificate: for TLS on both.
        drain_seconds: how long it goes on after a signal to stop, not ready any more, so that load balancers notice.
    """

    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int | None = None
    certificate: Certificate | None = None
    drain_seconds: float = 0.0


def run(settings: ServerSettings, load: Load, network: Network, log_requests: bool = True) -> None:
    """Serves until SIGTERM or SIGINT; returns when all requests that had begun are answered.

    Args:
        settings: what is served.
        load: opens a model file.
        network: where.
        log_requests: writes one line of JSON for each request to standard output.

    Raises:
        ConfigError: an address cannot be used.
    """
    limit_heaps()
    allow_connections(settings.limits.connections * (1 if network.grpc_port is None else 2))
    server = Server(Service(settings, load), network)
    # Bound before the models are loaded, so that an address in use is reported at once.
    listening = listen(network.host, network.rest_port)
    address = _address(network, listening) + settings.prefix
    log.info("phidet serves %s on %s", ", ".join(s.name for s in settings.sources), address)
    for camera in settings.cameras:
        log.info("phidet watches %s: %s/watch#%s", camera.name, address, camera.name)
    with _access_log(log_requests):
        server.run(sockets=[listening])


class Server(uvicorn.Server):
    """uvicorn's server for HTTP, and beside it that for gRPC, which begin and stop together.

    Args:
        service: what answers.
        network: where.

    Attributes:
        grpc: the server for gRPC, while it runs.
        draining_until: when it stops to answer, on the monotonic clock, once it has had a signal to stop.
    """

    def __init__(self, service: Service, network: Network) -> None:
        limits = service.settings.limits
        config = uvicorn.Config(
            build_app(service),
            host=network.host,
            port=network.rest_port,
            http=bounded_protocol(limits),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=max(1, int(limits.idle_seconds)),
            timeout_graceful_shutdown=GRACE_SECONDS,
            backlog=1024,
        )
        # By hand, as uvicorn takes files of certificates only once; this context gets renewed ones.
        config.load()
        if network.certificate is not None:
            config.ssl = network.certificate.context
        super().__init__(config)
        self.grpc: GrpcServer | None = None
        self.draining_until = 0.0
        self._service = service
        self._network = network

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Until a signal to stop.

        Raises:
            ConfigError: the address for gRPC cannot be used.
        """
        beside = [asyncio.create_task(_give_memory_back())]
        if self._network.grpc_port is not None:
            from phidet.serve.grpc.server import GrpcServer  # noqa: PLC0415 - an extra

            host, port = self._network.host, self._network.grpc_port
            self.grpc = GrpcServer(self._service, host, port, self._network.certificate)
            log.info("phidet serves gRPC on %s:%d", host, self.grpc.port)
        if self._network.certificate is not None:
            beside.append(asyncio.create_task(self._network.certificate.follow()))
        try:
            await super().serve(sockets)
        finally:
            for task in beside:
                task.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; then gRPC answers as well."""
        await super().startup(sockets)
        if self.grpc is not None and not self.should_exit:
            await self.grpc.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Says that the server is not ready, goes on for a while, then finishes what has begun."""
        self._service.draining = True
        self.draining_until = time.monotonic() + self._network.drain_seconds
        # A second signal, which sets force_exit, ends it at once.
        while time.monotonic() < self.draining_until and not self.force_exit:
            await asyncio.sleep(_DRAIN_STEP_S)
        self._service.stopping.set()
        begun = time.monotonic()
        if self.grpc is not None:
            for http in self.servers:
                http.close()  # nothing new on either side
            # Before uvicorn's part, which ends with closing the models: calls that have begun still use them.
            await self.grpc.stop(0 if self.force_exit else GRACE_SECONDS)
        left = GRACE_SECONDS - (time.monotonic() - begun)
        self.config.timeout_graceful_shutdown = max(1, int(left))
        await super().shutdown(sockets)


async def _give_memory_back() -> None:
    # What requests have left in the heaps, which would otherwise grow for hours by the gaps between larger blocks.
    while await asyncio.to_thread(give_freed_memory_back):
        await asyncio.sleep(MEMORY_STEP_S)


@contextmanager
def _access_log(wanted: bool) -> Iterator[None]:
    """Sends the access log to standard output, while the server runs."""
    handler = LineWriter(sys.stdout)
    access_log.addHandler(handler)
    access_log.propagate = False
    access_log.setLevel(logging.INFO if wanted else logging.WARNING)
    try:
        yield
    finally:
        access_log.removeHandler(handler)
        handler.close()
        access_log.propagate = True
        access_log.setLevel(logging.NOTSET)


def _address(network: Network, listening: socket.socket) -> str:
    """For a browser; port 0 has become a free one."""
    scheme = "http" if network.certificate is None else "https"
    host = f"[{network.host}]" if ":" in network.host else network.host
    return f"{scheme}://{host}:{listening.getsockname()[1]}"
