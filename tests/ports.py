"""Ports for tests, without asking the system twice."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of this machine that stays ours inside the block, whatever starts and stops listening on it.

    The system gives a port that is bound here to nobody who asks for any, while a server that names it may listen on
    it: both sides allow reuse, and this one does not listen. Connections to it are refused until a server is there.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
