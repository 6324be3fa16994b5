"""A server in a process of its own, as the command line starts it, on a port that nobody else takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ports import reserved_port
from serve_server import Server, until

SOURCE = str(Path(__file__).parents[1] / "src")


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
            until(lambda: client(port).is_ready() or process.poll() is not None)
            assert process.poll() is None, f"the server ended with {process.returncode}"
            yield process, port
        finally:
            process.kill()
            process.wait()


def client(port: int) -> Server:
    return Server(None, port)  # type: ignore[arg-type]
