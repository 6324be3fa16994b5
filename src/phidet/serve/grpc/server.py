"""The server for gRPC, beside that for HTTP on the same event loop."""

from __future__ import annotations

from typing import Any

import grpc

from phidet.core.errors import ConfigError
from phidet.serve.configuration import Limits
from phidet.serve.grpc.gate import Gate
from phidet.serve.grpc.health import health, reflection
from phidet.serve.protocols import inference_grpc, tfserving_grpc
from phidet.serve.service import Service
from phidet.serve.tls import Certificate

CALLS_OF_A_CONNECTION = 128
_PING_MS = 30_000
_LEAST_PING_MS = 10_000


class GrpcServer:
    """Both protocols, health checking and reflection on one port. Made, started and stopped on the event loop.

    Args:
        service: what answers.
        host: address to listen on.
        port: of it, 0 for a free one.
        certificate: for TLS.

    Attributes:
        port: that was bound.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(self, service: Service, host: str, port: int, certificate: Certificate | None = None) -> None:
        methods = {**tfserving_grpc.methods(service), **inference_grpc.methods(service)}
        # Services of the protocols alone have a health; that of health checking itself nobody asks for.
        services = sorted({path[1:].rpartition("/")[0] for path in methods})
        methods |= health(service, services)
        methods |= reflection([*services, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"])
        self._server = grpc.aio.server(options=_options(service.settings.limits))
        self._server.add_generic_rpc_handlers([Gate(service, methods)])
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if not 0 <= port <= 65535:
            raise ConfigError(f"a port is 0 to 65535, got {port}")
        try:
            if certificate is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, _credentials(certificate))
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {address} for gRPC: choose another --port or --host") from error

    async def start(self) -> None:
        """Accepts calls."""
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Accepts no more calls, and waits up to ``seconds`` for those that have begun."""
        await self._server.stop(seconds)


def _options(limits: Limits) -> list[tuple[str, int]]:
    idle_ms = max(1, int(limits.idle_seconds * 1000))
    return [
        # Else a second server on the same port takes a part of the calls, and nobody is told.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", CALLS_OF_A_CONNECTION),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", idle_ms),
        # A client whose machine has gone is noticed, and its calls are cancelled.
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_timeout_ms", idle_ms),
        # Clients may ask for the same; by default they would be cut off for asking oftener than every five minutes.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _LEAST_PING_MS),
    ]


def _credentials(certificate: Certificate) -> Any:
    """TLS with the certificate as it is when a connection begins; gRPC asks for it at each handshake."""

    def configuration() -> Any:
        chain = certificate.chain
        return grpc.ssl_server_certificate_configuration([(chain.key, chain.certificate)])

    return grpc.dynamic_ssl_server_credentials(configuration(), configuration)
