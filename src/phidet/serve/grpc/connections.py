"""Closes a client's connection by its socket: grpc.aio can neither reset a call nor close a connection."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

# What a process has open: on Linux, and elsewhere.
_OPEN = ("/proc/self/fd", "/dev/fd")


def address_of(peer: str) -> tuple[str, int]:
    """Address and port in ``ipv4:127.0.0.1:1234`` or ``ipv6:%5B::1%5D:1234``; port 0 where there is none."""
    host, _, port = unquote(peer.partition(":")[2]).rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else 0


def close_connection(peer: str) -> bool:
    """Ends the connection with a client; gRPC then cancels all calls on it and drops what they had to send.

    Args:
        peer: as gRPC names it.

    Returns:
        Whether there was one. Where a process cannot see what it has open, as on Windows, there is none.
    """
    wanted = address_of(peer)
    for name in _open_files():
        # A copy, so that what is shut down is what was looked at. Most are no sockets, or have no such peer.
        with suppress(OSError, ValueError), socket.socket(fileno=os.dup(int(name))) as copy:
            if copy.family not in (socket.AF_INET, socket.AF_INET6):
                continue  # the name of a peer is something else there: of the kernel's own sockets a number
            host, port = copy.getpeername()[:2]
            if (_plain(host), port) == wanted:
                copy.shutdown(socket.SHUT_RDWR)
                return True
    return False


def _open_files() -> list[str]:
    for folder in _OPEN:
        with suppress(OSError):
            return os.listdir(folder)
    return []


def _plain(host: str) -> str:
    """An address; one of IPv4 also where a socket of IPv6 took it."""
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
