"""A camera on HTTP for ``benchmarks/stream.py --http``: MJPEG, faults on demand.

    python benchmarks/http_camera.py      prints its address

Orders on standard input, the numbers in the frames and the lines ``sent NUMBER SECONDS`` are those of
``rtsp_camera.py``. Frames of MJPEG have no times; FFmpeg says 25 a second, whatever comes.
"""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from rtsp_camera import PASSWORD, RATE, USER, made_texture, marked, obey


class Camera:
    """Codes each frame once; every connection sends the newest one that it has not sent."""

    def __init__(self) -> None:
        self.size = 1280, 720
        self.rate = float(RATE)
        self.frozen_until = 0.0
        self.connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._number, self._content = -1, b""
        self._texture = made_texture()

    def run(self) -> None:
        """Makes frames for ever."""
        due = time.monotonic()
        while True:
            due = max(due + 1 / self.rate, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
            if time.monotonic() < self.frozen_until or not self.connections:
                continue
            (width, height), out = self.size, io.BytesIO()
            planes = marked(self._number + 1, width, height, self._texture)
            luma = Image.frombytes("L", (width, height), planes[: width * height])
            grey = Image.new("L", luma.size, 128)
            Image.merge("YCbCr", (luma, grey, grey)).save(out, "JPEG", quality=80)
            with self._changed:
                self._number, self._content = self._number + 1, out.getvalue()
                print(f"sent {self._number} {time.monotonic():.4f}", flush=True)
                self._changed.notify_all()

    def send(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers a request with frame after frame."""
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        handler.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections.add(handler.connection)
        try:
            number = self._number
            while handler.connection in self.connections:
                number, content = self._after(number)
                if content:
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
                    handler.wfile.write(head.encode() + content + b"\r\n")
        finally:
            self.connections.discard(handler.connection)

    def _after(self, number: int) -> tuple[int, bytes]:
        """The newest frame, once it is not that one; empty where none comes for a second."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._number > number, 1)
            return self._number, self._content if came else b""

    def cut(self) -> None:
        """Closes all connections."""
        for connection in list(self.connections):
            self.connections.discard(connection)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serves until standard input ends."""
    camera = Camera()
    wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            with suppress(OSError):
                camera.send(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    for target in (server.serve_forever, camera.run):
        threading.Thread(target=target, daemon=True).start()
    print(f"http://{USER}:{PASSWORD}@127.0.0.1:{server.server_address[1]}/camera", flush=True)
    obey(camera, camera.cut)


if __name__ == "__main__":
    main()
