"""A camera on HTTP that does what it is told: sends frames, cuts the connection, freezes, changes its size."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

SIZE_HW = (48, 64)
_PADDING = bytes(4096)  # FFmpeg wants some kilobytes before it decides what a stream is
Step = tuple[int, tuple[int, int]] | str
"""Frames of a size, ``"freeze"``, or the name of an event to wait for; the connection ends after the last step."""


class Camera:
    """Plays one list of steps for each connection; after the last one, connections are refused with 503.

    Frame k, counted over all connections, is as bright as ``brightness(k)``.
    """

    def __init__(self, connections: Sequence[Sequence[Step]], password: str | None = None) -> None:
        self.connections = list(connections)
        self.password = password
        self.events: dict[str, threading.Event] = {}
        self.requests: list[str] = []
        self.sent = 0
        self.frozen = threading.Event()
        self._lock = threading.Lock()

    def event(self, name: str) -> threading.Event:
        with self._lock:
            return self.events.setdefault(name, threading.Event())

    def play(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(handler.headers.get("Authorization", ""))
        if self.password is not None and self.requests[-1] != self.password:
            handler.send_response(401)
            handler.send_header("WWW-Authenticate", 'Basic realm="camera"')
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if not self.connections:
            handler.send_error(503)
            return
        steps = self.connections.pop(0)
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        for step in steps:
            if step == "freeze":
                self.frozen.set()
                with contextlib.suppress(OSError):
                    while handler.connection.recv(4096):  # until the client gives up
                        pass
                return
            if isinstance(step, str):
                self.event(step).wait()
                continue
            count, size_hw = step
            for _ in range(count):
                content = frame(self.sent, size_hw)
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
                handler.wfile.write(head.encode() + content + b"\r\n")
                self.sent += 1


def brightness(number: int) -> int:
    return 20 + number % 40 * 5


def number_of(image: Any) -> int:
    """The number of a frame below 40."""
    return round((float(np.asarray(image).mean()) - 20) / 5)


def frame(number: int, size_hw: tuple[int, int] = SIZE_HW) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((*size_hw, 3), brightness(number), np.uint8)).save(
        content, "JPEG", quality=95, comment=_PADDING
    )
    return content.getvalue()


@contextlib.contextmanager
def serving_camera(camera: Camera) -> Iterator[str]:
    """The address of the camera while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                camera.play(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/live"
    finally:
        for event in list(camera.events.values()):
            event.set()
        server.shutdown()
        server.server_close()
        thread.join()
