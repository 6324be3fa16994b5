"""Watches cameras: the newest frame of each is detected on by a served model, tracked, counted and shown to viewers."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import threading
import time
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from phidet.core.errors import PhidetError
from phidet.detections.detections import Detections
from phidet.detections.fields import TRACK_ID
from phidet.detections.tracking.counting import Counter, CountSettings
from phidet.detections.tracking.places import Place
from phidet.detections.tracking.settings import TrackerSettings
from phidet.detections.tracking.tracker import Tracker
from phidet.images.live import LiveSettings, LiveSource
from phidet.images.video import Frame
from phidet.serve.camera import Camera
from phidet.serve.models.versions import Repository

_LARGEST_WH = (960, 960)  # of frames for viewers
_VIEWED_S = 10.0  # frames are encoded for so long after somebody asked for one
_RETRY_S = 10.0
log = logging.getLogger("phidet.serve")


class Watcher:
    """One camera. Reading, tracking and encoding happen in a thread, detection in the model's workers.

    Args:
        camera: what to watch.
        repository: of the served models.
        live: reads the camera; made from its address unless given.
    """

    def __init__(self, camera: Camera, repository: Repository, live: LiveSource | None = None) -> None:
        self.camera = camera
        self._repository = repository
        self._live = live or LiveSource(camera.address, LiveSettings())
        # The detector's thresholds are the server's; below a track's lowest score nothing is used.
        self._tracker = Tracker(TrackerSettings())
        self._counter = Counter(CountSettings(places=camera.places, forget_s=self._tracker.settings.lost_s))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {camera.name}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._sequence, self._body = 0, b""
        self._viewed_until = 0.0
        self._begun_s = self._looked_s = time.monotonic()
        self._interval_s = 1.0  # between frames that are looked at, a running mean
        self._before_s = self._last_s = 0.0  # where the present source's times begin, and of the last frame

    def start(self) -> None:
        """Begins to watch; called from the server's event loop."""
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        self._thread.start()

    async def close(self) -> None:
        """Stops; a connection that is silent ends by itself."""
        self._stopped.set()
        self._live.close()

    async def latest(self, after: int, limit_s: float) -> bytes:
        """JSON of the first frame after number ``after``; of the state alone where none comes in time.

        Frames are encoded once, however many viewers wait, and only while there are any.
        """
        self._viewed_until = time.monotonic() + max(_VIEWED_S, limit_s)
        try:
            async with asyncio.timeout(limit_s):
                while self._sequence <= after or not self._body:
                    assert self._changed is not None
                    await self._changed.wait()
                return self._body
        except TimeoutError:
            return msgspec.json.encode(self._about() | {"sequence": after})

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                for frame in self._live.frames():
                    self._look(frame)
                    if self._stopped.is_set():
                        return
                reason = "it has ended"
            except PhidetError as error:
                reason = str(error)
            except Exception:  # a server goes on after any failure
                log.exception("watching %s failed", self.camera.name)
                reason = "an internal error"
            if self._stopped.is_set():
                return
            log.error("camera %s: %s; again in %g s", self.camera.name, reason, _RETRY_S)
            self._stopped.wait(_RETRY_S)
            # A source that has ended cannot be read again. Counts and tracks go on, and so do their times.
            self._live = LiveSource(self.camera.address, LiveSettings())
            self._before_s = max(self._last_s, time.monotonic() - self._begun_s)

    def _look(self, frame: Frame) -> None:
        assert self._loop is not None
        detecting = asyncio.run_coroutine_threadsafe(self._detect(frame), self._loop)
        try:
            found = detecting.result()
        except (PhidetError, asyncio.CancelledError, RuntimeError) as error:
            # No version is loaded yet, the queue is full, or the server ends.
            log.debug("camera %s: %s", self.camera.name, error)
            self._stopped.wait(0.1)
            return
        height, width = frame.image.shape[:2]
        self._last_s = self._before_s + frame.time_s
        tracked = self._tracker.update(found, self._last_s)
        self._counter.update(tracked, self._last_s, (height, width))
        body = self._encoded(frame, tracked) if time.monotonic() < self._viewed_until else b""
        now = time.monotonic()
        self._interval_s += 0.1 * (now - self._looked_s - self._interval_s)
        self._looked_s = now
        if not self._stopped.is_set():
            self._loop.call_soon_threadsafe(self._publish, body)

    async def _detect(self, frame: Frame) -> Detections:
        loaded = self._repository.find(self.camera.model or next(iter(self._repository.models)))
        with loaded.used():
            answers = await loaded.batcher.detect([frame.image])
        return answers.detections[0]

    def _publish(self, body: bytes) -> None:
        assert self._changed is not None
        self._body = body
        if body:
            self._sequence += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _encoded(self, frame: Frame, tracked: Detections) -> bytes:
        """What the page shows: the frame, smaller where it is large, and its tracks and counts."""
        height, width = frame.image.shape[:2]
        shown = Image.fromarray(frame.image)
        shown.thumbnail(_LARGEST_WH, Image.Resampling.BILINEAR, reducing_gap=2.0)
        jpeg = io.BytesIO()
        shown.save(jpeg, "JPEG", quality=80)
        ids = np.asarray(tracked.fields[TRACK_ID]).tolist()
        tracks = [
            {"id": i, "label": one.label, "score": round(one.score, 3), "box_xyxy": [round(v, 1) for v in one.box_xyxy]}
            for i, one in zip(ids, tracked, strict=True)
        ]
        image = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
        about = {"sequence": self._sequence + 1, "time_s": round(self._last_s, 3), "size_hw": [height, width]}
        places = [self._place(place, (height, width)) for place in self.camera.places]
        return msgspec.json.encode(self._about() | about | {"image": image, "tracks": tracks, "places": places})

    def _about(self) -> dict[str, Any]:
        state = self._live.state
        return {
            "name": self.camera.name,
            "connected": state.connected,
            "reconnects": state.reconnects,
            "frames_per_second": round(1 / max(1e-3, self._interval_s), 1) if state.connected else 0.0,
        }

    def _place(self, place: Place, size_hw: tuple[int, int]) -> dict[str, Any]:
        totals = self._counter.totals[place.name].values()
        return {
            "name": place.name,
            "points": place.in_pixels(size_hw).round(1).tolist(),
            "line": place.is_line,
            "in": sum(t.in_ for t in totals),
            "out": sum(t.out for t in totals),
            "inside": sum(t.inside for t in totals),
            "entered": sum(t.entered for t in totals),
        }
