"""The socket that HTTP is served on."""

from __future__ import annotations

import socket
import sys

from phidet.core.errors import ConfigError


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


def allow_connections(count: int) -> None:
    """Raises the limit on open files where it is below what ``count`` connections need and may be raised."""
    if sys.platform == "win32":
        return  # has no such limit
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
