"""Runs the server until it gets a signal to stop, then finishes the requests in progress."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from phidet.core.errors import ConfigError
from phidet.serve.calls import access_log
from phidet.serve.configuration import ServerSettings
from phidet.serve.http.access_log import LineWriter
from phidet.serve.http.app import build_app
from phidet.serve.http.connection import bounded_protocol
from phidet.serve.models.model import Load
from phidet.serve.service import Service

GRACE_SECONDS = 30
log = logging.getLogger("phidet.serve")


def run(settings: ServerSettings, load: Load, host: str, port: int, log_requests: bool = True) -> None:
    """Serves until SIGTERM or SIGINT; returns when all requests that had begun are answered.

    Args:
        settings: what is served.
        load: opens a model file.
        host: address to listen on.
        port: of it.
        log_requests: writes one line of JSON for each request to standard output.

    Raises:
        ConfigError: the address cannot be used.
    """
    _allow_connections(settings.limits.connections)
    config = uvicorn.Config(
        build_app(Service(settings, load)),
        host=host,
        port=port,
        http=bounded_protocol(settings.limits),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=max(1, int(settings.limits.idle_seconds)),
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=1024,
    )
    server = uvicorn.Server(config)
    config.load()
    # Bound before the models are loaded, so that an address in use is reported at once.
    listening = listen(host, port)
    log.info("phidet serves %s on %s", ", ".join(s.name for s in settings.sources), _address(host, listening))
    for camera in settings.cameras:
        log.info("phidet watches %s: %s/watch#%s", camera.name, _address(host, listening), camera.name)
    with _access_log(log_requests):
        server.run(sockets=[listening])


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


def _address(host: str, listening: socket.socket) -> str:
    """For a browser; port 0 has become a free one."""
    port = listening.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; uvicorn's own way leaves it open where that fails.

    Raises:
        ConfigError: the address cannot be used.
    """
    # asyncio sends small answers at once only over sockets that say that they are TCP; else each waits for 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if not 0 <= port <= 65535:
        raise ConfigError(f"a port is 0 to 65535, got {port}")
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --rest_api_port or --host"
        ) from error
    listening.set_inheritable(True)
    return listening


def _allow_connections(count: int) -> None:
    """Raises the limit on open files where it is below what ``count`` connections need and may be raised."""
    if sys.platform == "win32":
        return  # has no such limit
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
