"""A camera on RTSP (RFC 2326): MPEG transport stream in RTP (RFC 2250), interleaved with the control connection."""

from __future__ import annotations

import contextlib
import io
import socketserver
import struct
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from mjpeg_server import brightness

SIZE_HW = (64, 96)


def transport_stream(numbers: range, rate: int = 25) -> bytes:
    """Frames as bright as their numbers say, H.264 in an MPEG transport stream."""
    out = io.BytesIO()
    with av.open(out, "w", format="mpegts") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = SIZE_HW[1], SIZE_HW[0], "yuv420p"
        stream.options = {"crf": "10", "g": "5", "bf": "0"}
        for i, number in enumerate(numbers):
            image = Image.fromarray(np.full((*SIZE_HW, 3), brightness(number), np.uint8))
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


_ABOUT = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
_PAYLOAD = 7 * 188  # bytes: packets of the transport stream that fit a network's frame


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads, block_on_close, allow_reuse_address = True, False, True

    def __init__(self, streams: list[bytes], authorization: str | None) -> None:
        self.streams, self.authorization = streams, authorization
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Connection)


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while (request := self._read()) is not None:
                if self._answer(*request):
                    return

    def _read(self) -> tuple[str, dict[str, str]] | None:
        first = self.rfile.readline().decode().strip()
        if not first:
            return None
        self.server.requests.append(first)
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return first, headers

    def _answer(self, first: str, headers: dict[str, str]) -> bool:
        """Answers a request; true where the stream has been played, and the connection ends."""
        method = first.split(" ", maxsplit=1)[0]
        wanted = self.server.authorization
        if wanted is not None and method != "OPTIONS" and headers.get("authorization") != wanted:
            self._send("401 Unauthorized", headers, 'WWW-Authenticate: Basic realm="camera"')
        elif method == "DESCRIBE":
            self._send("200 OK", headers, f"Content-Type: application/sdp\r\nContent-Length: {len(_ABOUT)}", _ABOUT)
        elif method == "SETUP":
            self._send("200 OK", headers, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1")
        elif method == "PLAY":
            self._send("200 OK", headers, "Session: 1")
            self._play(self.server.streams.pop(0) if self.server.streams else b"")
            return True
        else:
            self._send("200 OK", headers, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        return False

    def _send(self, status: str, headers: dict[str, str], more: str, body: str = "") -> None:
        self.wfile.write(f"RTSP/1.0 {status}\r\nCSeq: {headers.get('cseq', '1')}\r\n{more}\r\n\r\n{body}".encode())

    def _play(self, stream: bytes) -> None:
        for number, start in enumerate(range(0, len(stream), _PAYLOAD)):
            head = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, number * 900, 1)
            packet = head + stream[start : start + _PAYLOAD]
            self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)


@contextlib.contextmanager
def serving_rtsp(streams: list[bytes], authorization: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """The address of a camera that plays one stream for each connection, and the requests that it gets."""
    server = _Server(streams, authorization)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"rtsp://127.0.0.1:{server.server_address[1]}/stream", server.requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
