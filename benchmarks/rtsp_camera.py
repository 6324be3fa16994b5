"""A camera on RTSP for ``benchmarks/stream.py``: GStreamer's server, H.264, faults on demand.

    apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly
    /usr/bin/python3 benchmarks/rtsp_camera.py      prints its address

It runs on the system's Python, which has GStreamer's bindings, and needs nothing else. Lines on standard input are
orders: ``cut`` closes all connections, ``freeze 20`` sends nothing for 20 s, ``size 320 240`` changes the frames,
``rate 5`` sends 5 frames a second, whose times still say 25.

Each frame has its number as black and white blocks in its first rows (:func:`marked`). Whenever one has been coded and
goes to the readers, a line says so: ``sent NUMBER SECONDS``, by the machine's monotonic clock.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import Any

RATE = 25  # frames a second that the times say
BITS = 24
BLOCK = 8  # pixels a side
USER, PASSWORD = "me", "hunter2"


def marked(number: int, width: int, height: int, texture: bytes) -> bytes:
    """A frame of moving texture, I420, with its number as blocks, the lowest bit first."""
    row = b"".join((b"\xeb" if number >> bit & 1 else b"\x10") * BLOCK for bit in range(BITS))
    head = (row + bytes([16]) * (width - len(row))) * BLOCK
    start = number * 4 % width
    # Each row begins a little further in the texture: it moves to the left.
    rows = [texture[start + y % 97 * width :][:width] for y in range(height - BLOCK)]
    return head + b"".join(rows) + b"\x80" * (width * height // 2)


def made_texture() -> bytes:
    """Runs of equal bytes: what an encoder meets in real scenes, neither flat nor noise."""
    noise = random.Random(0)
    return b"".join(bytes([noise.randrange(40, 200)]) * noise.randrange(4, 60) for _ in range(8000))


def obey(camera: Any, cut: Callable[[], object]) -> None:
    """Does what standard input says, until it ends.

    Args:
        camera: with ``size``, ``rate`` and ``frozen_until``.
        cut: closes all connections.
    """
    for line in sys.stdin:
        what, *numbers = line.split()
        if what == "cut":
            cut()
        elif what == "freeze":
            camera.frozen_until = time.monotonic() + float(numbers[0])
        elif what == "size":
            camera.size = int(numbers[0]), int(numbers[1])
        elif what == "rate":
            camera.rate = float(numbers[0])


class Camera:
    """Feeds every connection's pipeline with the same frames.

    Args:
        gst: GStreamer.
    """

    def __init__(self, gst: Any) -> None:
        self.gst = gst
        self.size = 1280, 720
        self.rate = float(RATE)
        self.frozen_until = 0.0
        self._number = 0
        self._texture = made_texture()

    def configure(self, _: Any, media: Any) -> None:
        """Called by the server for the first connection after a pause."""
        source, payloader = (media.get_element().get_by_name(name) for name in ("source", "pay0"))
        ended = threading.Event()
        inside: deque[int] = deque()

        def leaves(*_: Any) -> Any:
            if inside:
                print(f"sent {inside.popleft()} {time.monotonic():.4f}", flush=True)
            return self.gst.PadProbeReturn.OK

        payloader.get_static_pad("sink").add_probe(self.gst.PadProbeType.BUFFER, leaves)
        media.connect("unprepared", lambda *_: ended.set())
        threading.Thread(target=self._feed, args=(source, inside, ended), daemon=True).start()

    def _feed(self, source: Any, inside: deque[int], ended: threading.Event) -> None:
        gst, size, sent = self.gst, (0, 0), 0
        begun = due = time.monotonic()
        while not ended.is_set():
            due = max(due + 1 / self.rate, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
            if time.monotonic() < self.frozen_until:
                continue
            if self.size != size:
                size = self.size
                text = f"video/x-raw,format=I420,width={size[0]},height={size[1]},framerate={RATE}/1"
                source.set_property("caps", gst.Caps.from_string(text))
            buffer = gst.Buffer.new_wrapped(marked(self._number, *size, self._texture))
            # A camera that lies counts frames; another one looks at its clock.
            time_s = sent / RATE if self.rate != RATE else time.monotonic() - begun
            buffer.pts = buffer.dts = int(time_s * gst.SECOND)
            buffer.duration = gst.SECOND // RATE
            inside.append(self._number)
            self._number, sent = self._number + 1, sent + 1
            if source.emit("push-buffer", buffer) != gst.FlowReturn.OK:
                return


def main() -> None:
    """Serves until standard input ends."""
    gi = import_module("gi")
    for name in ("Gst", "GstRtspServer"):
        gi.require_version(name, "1.0")
    gst, servers, glib = (import_module(f"gi.repository.{name}") for name in ("Gst", "GstRtspServer", "GLib"))
    gst.init(None)
    camera, server, factory = Camera(gst), servers.RTSPServer(), servers.RTSPMediaFactory()
    factory.set_launch(
        "( appsrc name=source is-live=true format=time block=true max-buffers=4 ! videoconvert ! x264enc "
        "tune=zerolatency speed-preset=ultrafast bitrate=3000 key-int-max=25 threads=1 ! "
        "rtph264pay name=pay0 pt=96 config-interval=-1 )"
    )
    factory.set_shared(True)
    factory.connect("media-configure", camera.configure)
    auth, token = servers.RTSPAuth(), servers.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_basic(servers.RTSPAuth.make_basic(USER, PASSWORD), token)
    permissions = servers.RTSPPermissions()
    permissions.add_permission_for_role("user", "media.factory.access", True)
    permissions.add_permission_for_role("user", "media.factory.construct", True)
    factory.set_permissions(permissions)
    server.set_auth(auth)
    server.set_service(sys.argv[1] if len(sys.argv) > 1 else "0")
    server.get_mount_points().add_factory("/camera", factory)
    server.attach(None)
    loop = glib.MainLoop()

    def cut() -> None:
        glib.idle_add(lambda: server.client_filter(lambda *_: servers.RTSPFilterResult.REMOVE) and False)

    def orders() -> None:
        obey(camera, cut)
        loop.quit()

    threading.Thread(target=orders, daemon=True).start()
    print(f"rtsp://{USER}:{PASSWORD}@127.0.0.1:{server.get_bound_port()}/camera", flush=True)
    loop.run()


if __name__ == "__main__":
    main()
