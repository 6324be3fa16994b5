"""Cameras and streams that do not end: RTSP, HTTP (MJPEG, HLS), local cameras, through PyAV (extra ``video``).

What a network does to them is expected: a connection that ends or falls silent is opened again, after pauses that grow;
a stream may come back in another size. Memory is that of one frame, however slow its reader is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.addresses import without_password
from phidet.core.errors import ConfigError, InputError
from phidet.core.structs import require
from phidet.images.live_backlog import keep_up
from phidet.images.live_clock import SourceClock
from phidet.images.pyav import FrameConverter, Upright, colors_of, import_av, square_size
from phidet.images.source_kinds import LIVE_SCHEMES, is_live, is_stream, is_webcam
from phidet.images.video import Frame, camera_device

# What a playlist may lead to: never a file of this machine.
_ALLOWED = "crypto,http,https,httpproxy,rtmp,rtmps,rtp,rtsp,srt,srtp,tcp,tls,udp"
# Formats whose frames have no times of their own; FFmpeg invents them from a guessed frame rate.
_TIMELESS = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "m4v", "image2pipe", "rawvideo"})
_SURELY_MISSING_S = 1.0  # at the end of a file; less may be rounding
_LOOKS_S = 0.5  # after which a reader that waits looks whether it is to stop
log = logging.getLogger("phidet")


class LiveSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a camera or stream is read.

    Attributes:
        newest: the reader gets the newest frame, and those that came while it was busy are left out, but for files
            behind an address; otherwise it gets every frame, and a reader that is too slow falls behind.
        silent_s: a connection that brings nothing for so long is opened again, in seconds.
        retry_s: pause before the first attempt to connect again; each further one is twice as long.
        longest_retry_s: longest pause.
        attempts: how often the first connection is tried.
    """

    newest: bool = True
    silent_s: float = 10.0
    retry_s: float = 1.0
    longest_retry_s: float = 30.0
    attempts: int = 3

    def __post_init__(self) -> None:
        for name in ("silent_s", "retry_s", "longest_retry_s", "attempts"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)!r}")


class LiveState(msgspec.Struct):
    """What has happened so far: frames that came and that the reader took, connections after the first one, and whether
    there is one now."""

    received: int = 0
    taken: int = 0
    reconnects: int = 0
    connected: bool = False


class _Arrival(NamedTuple):
    """A decoded frame and what is needed to convert it."""

    convert: Callable[[], Frame]
    time_s: float


class LiveSource:
    """A camera or stream.

    Args:
        source: ``webcam``, ``webcam:1``, or an address; a name and a password in it are used and never shown.
        settings: how it is read.
        wait: waits between attempts to connect; returns early, and true, when it is not to go on.
        clock: seconds that only rise.

    Attributes:
        state: what has happened so far.

    Raises:
        ConfigError: neither a camera nor an address that can be read.
        MissingExtraError: the ``video`` extra is not installed.
    """

    def __init__(
        self,
        source: str,
        settings: LiveSettings | None = None,
        *,
        wait: Callable[[float], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not is_live(source):
            expected = f"expected a camera or the address of a stream ({', '.join(LIVE_SCHEMES)})"
            raise ConfigError(f"{expected}, got {source!r}")
        self._av = import_av()
        self.shown = without_password(source)
        self._source, self.settings = source, settings or LiveSettings()
        self.state = LiveState()
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._clock = clock
        self._times = SourceClock()
        self._finite = False
        self._converter, self._upright = FrameConverter(self._av), Upright()

    def frames(self) -> Iterator[Frame]:
        """The frames, as they come, until ``close``; of a file behind an address, until its end. Times count from the
        first frame, by the source where it has times of its own, else by arrival.

        Raises:
            InputError: it could not be opened at first, or a file not be read to its end; others are waited out.
        """
        arrivals = self._newest() if self.settings.newest else self._arrivals()
        for arrival in arrivals:
            frame = arrival.convert()
            yield frame._replace(number=self.state.taken, time_s=arrival.time_s)
            self.state.taken += 1

    def close(self) -> None:
        """Ends ``frames``, at the latest when the connection was silent for ``silent_s``."""
        self._stopped.set()

    def _newest(self) -> Iterator[_Arrival]:
        """Reads in a thread of its own, which goes on while the reader is busy."""
        slot = _Slot()

        def read() -> None:
            error: BaseException | None = None
            try:
                for arrival in self._arrivals():
                    slot.put(arrival)
                    # A file behind an address waits for its reader: nothing of it is left out.
                    while self._finite and not self._stopped.is_set() and not slot.is_taken(_LOOKS_S):
                        pass
            except BaseException as raised:  # raised again by the reader
                error = raised
            slot.end(error)

        threading.Thread(target=read, name="live", daemon=True).start()
        try:
            while (arrival := slot.take()) is not None:
                yield arrival
        finally:
            self.close()

    def _arrivals(self) -> Iterator[_Arrival]:
        """The frames of one connection after the other."""
        pause = self.settings.retry_s
        failures = 0
        while not self._stopped.is_set():
            before = self.state.received
            try:
                finite = yield from self._connection()
                if finite:
                    return
                reason = "the stream ended"
            except self._av.FFmpegError as error:
                # Only the system's words: the error's own text may hold the address with its password.
                silent = isinstance(error, self._av.ExitError)  # what PyAV's time limits raise
                reason = f"nothing came for {self.settings.silent_s:g} s" if silent else _reason(error)
                failures += 1
                if self._finite:  # from its beginning everything would be seen twice
                    raise InputError(f"{self.shown} was not read to its end: {reason}") from None
                if not self.state.received and (failures >= self.settings.attempts or _is_final(self._av, error)):
                    raise InputError(f"cannot read {self.shown}: {reason}") from None
            finally:
                self.state.connected = False
            if self._stopped.is_set():
                return
            if self.state.received > before:
                pause = self.settings.retry_s
            log.warning("%s: %s; connecting again in %g s", self.shown, reason, pause)
            if self._wait(pause):
                return
            pause = min(2 * pause, self.settings.longest_retry_s)
            self.state.reconnects += 1

    def _connection(self) -> Any:
        """Yields the frames of one connection; returns whether it was a file, which has come to its end."""
        from phidet.core.web import wants_offline  # noqa: PLC0415 - slow to import, and rarely needed

        if not is_webcam(self._source) and wants_offline():
            raise InputError(f"{self.shown} is not read: the network is not to be used (--offline, or PHIDET_OFFLINE)")
        file, driver, options = _how_to_open(self._source)
        limits = (self.settings.silent_s, self.settings.silent_s)
        # Options of the container alone: of ``options`` PyAV before 17.1 also makes a table, for the streams that are
        # known by then, and FFmpeg reads beyond its end when more turn up later (MPEG-TS in RTSP, FLV).
        with self._av.open(
            file, format=driver, container_options=options, timeout=limits, metadata_errors="replace"
        ) as container:
            if not container.streams.video:
                raise InputError(f"{self.shown} holds no video")
            stream = container.streams.video[0]
            # Threads for parts of a frame only: those for whole frames keep several back.
            stream.thread_type = "SLICE"
            timeless = container.format.name in _TIMELESS
            finite = self._finite = bool(container.duration) and not is_stream(self._source)
            self._times.begin(is_file=finite)
            last_s = 0.0
            packets = container.demux(stream)
            for packet in keep_up(packets, self._clock) if self.settings.newest and not finite else packets:
                if self._stopped.is_set():
                    return True
                for frame in self._decoded(packet):
                    self.state.connected = True
                    own_s = None if timeless or frame.time is None else float(frame.time)
                    last_s = own_s or last_s
                    yield _Arrival(self._converting(stream, frame), self._times.time_of(own_s, self._clock()))
                    # Now its reader can have it, or a newer one: no earlier, so that nobody counts on an older one.
                    self.state.received += 1
            if finite:
                self._warn_of_missing_end(stream, last_s)
        return finite

    def _warn_of_missing_end(self, stream: Any, last_s: float) -> None:
        """About a file whose last frame, at ``last_s``, comes long before the end that its header says."""
        if stream.duration is None:
            return
        end_s = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        if last_s + max(_SURELY_MISSING_S, 2.5 / float(stream.average_rate or 25)) < end_s:
            log.warning("%s ends after %.1f s of %.1f s: it is cut off or damaged", self.shown, last_s, end_s)

    def _decoded(self, packet: Any) -> list[Any]:
        """A packet's frames; none of one that was damaged on the way."""
        try:
            return list(packet.decode())
        except self._av.InvalidDataError:
            return []

    def _converting(self, stream: Any, frame: Any) -> Callable[[], Frame]:
        # Read now: the connection may be closed when the reader comes to convert.
        colors, aspect = colors_of(frame, stream.codec_context), stream.sample_aspect_ratio

        def convert() -> Frame:
            size = square_size(frame.width, frame.height, aspect)
            image: npt.NDArray[np.uint8] = self._upright(self._converter.to_rgb(frame, size, colors), frame)
            return Frame(image, 0, 0.0, None, colors)

        return convert


class _Slot:
    """Holds the newest item until it is taken."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: _Arrival | None = None
        self._ended = False
        self._error: BaseException | None = None

    def put(self, item: _Arrival) -> None:
        with self._changed:
            self._item = item
            self._changed.notify_all()

    def is_taken(self, limit_s: float) -> bool:
        """Whether the last item has been taken, within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._item is None, limit_s)

    def end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def take(self) -> _Arrival | None:
        """The newest item, once there is one; ``None`` after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._ended)
            item, self._item = self._item, None
            self._changed.notify_all()
            if item is None and self._error is not None:
                raise self._error
            return item


def _how_to_open(source: str) -> tuple[str, str | None, dict[str, str]]:
    """File, driver and options for FFmpeg."""
    if is_webcam(source):
        device, driver = camera_device(source)
        return device, driver, {}
    # What is read to recognise a stream is shown late: a second at most, and no frames to guess a rate nobody asks for.
    options = {"protocol_whitelist": _ALLOWED, "analyzeduration": "1000000", "fpsprobesize": "0"}
    if source.lower().startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # packets that are lost on the way would tear frames
    if source.lower().startswith("http"):
        options["user_agent"] = "phidet"
    return source, None, options


def _reason(error: Any) -> str:
    return str(error.strerror or type(error).__name__)


def _is_final(av: Any, error: Exception) -> bool:
    """Whether trying again is in vain: the server refuses, or what it sends is no video."""
    kinds = ("HTTPClientError", "HTTPUnauthorizedError", "HTTPForbiddenError", "HTTPNotFoundError", "InvalidDataError",
             "ProtocolNotFoundError", "FileNotFoundError")  # fmt: skip
    return isinstance(error, tuple(getattr(av, kind) for kind in kinds if hasattr(av, kind)))
