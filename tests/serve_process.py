"""A server in a process of its own, as the command line starts it, on a port that nobody else takes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from serve_server import Server, until

SOURCE = str(Path(__file__).parents[1] / "src")


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


@contextmanager
def command_line_server(
    base: Path, *flags: str, port: int | None = None, **options: Any
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server's process and its port, a reserved one unless it is given. ``options`` are those of ``Popen``; ``path``
    is what Python's modules are searched in.
    """
    with reserved_port() as free:
        port = port or free
        environment = os.environ | {"PYTHONPATH": options.pop("path", SOURCE)}
        command = [
            sys.executable,
            "-m",
            "phidet.cli.main",
            "serve",
            "--model_name",
            "m",
            "--model_base_path",
            str(base),
        ]
        process = subprocess.Popen([*command, "--rest_api_port", str(port), *flags], env=environment, **options)
        try:
            until(lambda: is_ready(port) or process.poll() is not None, 120)
            assert process.poll() is None, f"the server ended with {process.returncode}"
            yield process, port
        finally:
            process.kill()
            process.wait()


def client(port: int) -> Server:
    return Server(None, port)  # type: ignore[arg-type]


def is_ready(port: int) -> bool:
    with suppress(OSError, HTTPException):
        return client(port).get("/v2/health/ready").status == 200
    return False
