"""Reads video files and webcams, frame by frame, through PyAV (extra ``video``)."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.images.cut_off import is_cut_off
from phidet.images.pyav import (
    Colors,
    FrameConverter,
    Upright,
    colors_of,
    import_av,
    is_plausible_aspect,
    is_supported_matrix,
    square_size,
)
from phidet.images.source_kinds import CAMERA

_STILL = 0x0400 | 0x0800  # FFmpeg's dispositions of attached pictures and timed thumbnails
_STILL_CODECS = ("mjpeg", "png", "bmp", "gif", "webp")
_AGAIN_S = 1.0  # by which time must go back to begin again
_LONGEST_FRAME_S = 86_400.0  # a day; a header with more is damaged
_USUAL_RATE = 30.0

log = logging.getLogger("phidet")


class Frame(NamedTuple):
    """One image of a video.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright, of square pixels.
        number: 0, 1, ….
        time_s: seconds since the beginning of the video.
        duration_s: seconds for which it is shown; ``None`` where that is not known, as for a camera.
        colors: how the video codes them.
    """

    image: npt.NDArray[np.uint8]
    number: int
    time_s: float
    duration_s: float | None = None
    colors: Colors | None = None


def video_frames(path: Path) -> Iterator[Frame]:
    """The frames of a video file as a player shows them; two at a time are in memory.

    They are turned as the file says, their pixels are made square, and colours are converted by the matrix and range
    that the file names, or that players assume. Transfer functions are left alone: HDR is not mapped to SDR.

    Raises:
        InputError: it is missing, no video, or damaged (after the frames before the damage).
        MissingExtraError: the ``video`` extra is not installed.
    """
    if not path.is_file():
        raise InputError(f"there is no video at {path}")
    decoder = _Decoder(str(path), str(path))
    last: Frame | None = None
    try:
        for frame in decoder.frames():
            if frame.duration_s is None:
                last = frame
            else:
                yield frame
    except InputError:
        if last is not None:
            yield last
        raise
    if last is None:
        raise InputError(f"{path} holds no frame that can be decoded: it is cut off or damaged")
    # The missing bytes may be sound only, or an index that was not needed.
    # So a short file counts as cut off only if frames are missing, with 2.5 frames' tolerance for rounded durations.
    cut_off = is_cut_off(path) and last.time_s + 2.5 / decoder.rate < (decoder.end_s or float("inf"))
    if cut_off or decoder.end_s is None or decoder.end_s <= last.time_s:
        yield last
    else:
        yield last._replace(duration_s=min(decoder.end_s - last.time_s, _LONGEST_FRAME_S))
    if cut_off:
        whole = "" if decoder.end_s is None else f" of {decoder.end_s:.1f} s"
        raise InputError(f"{path} ends after {last.time_s:.1f} s{whole}: it is cut off or damaged")


def webcam_frames(source: str) -> Iterator[Frame]:
    """The frames of a camera, as they come, without end; times count from the first one.

    Raises:
        InputError: there is no such camera, or it is in use.
        MissingExtraError: the ``video`` extra is not installed.
    """
    device, driver = camera_device(source)
    first: float | None = None
    for frame in _Decoder(device, source, driver).frames():
        now = time.monotonic()
        first = now if first is None else first
        yield frame._replace(time_s=now - first)


def camera_device(source: str) -> tuple[str, str]:
    """What FFmpeg opens for ``webcam``, ``webcam:1`` or ``webcam:NAME``, and with which driver."""
    match = CAMERA.fullmatch(source)
    which = (match[1] if match else None) or "0"
    return {
        "linux": (f"/dev/video{which}" if which.isdigit() else which, "v4l2"),
        "darwin": (which, "avfoundation"),
        "win32": (f"video={which}", "dshow"),
    }.get(sys.platform, (which, "v4l2"))


class _Decoder:
    """Decodes a file, or a camera if ``driver`` is given; ``name`` stands for it in messages.

    Attributes:
        rate: average frames per second by the file's header.
        end_s: end of the last frame in seconds, known once all frames are read; ``None`` if unknown.
    """

    def __init__(self, file: str, name: str, driver: str | None = None) -> None:
        self._av = import_av()
        self._file, self._name, self._driver = file, name, driver
        self._converter, self._upright = FrameConverter(self._av), Upright()
        self._warned: set[str] = set()
        self.rate = _USUAL_RATE
        self.end_s: float | None = None

    def frames(self) -> Iterator[Frame]:
        """All frames, the last one and those of a camera without a duration; InputError where they cannot be read."""
        waiting: tuple[Any, int, float] | None = None
        try:
            # Titles and comments are of any encoding.
            with self._av.open(self._file, format=self._driver, metadata_errors="replace") as container:
                stream = self._choose(container.streams.video)
                try:
                    for decoded in self._decode(container, stream):
                        # The next frame tells how long one is shown. It waits as it was decoded: held back as RGB, it
                        # would keep the memory that the next conversion uses again.
                        ready, waiting = (decoded, None) if self._driver else (waiting, decoded)
                        if ready is not None:
                            yield self._converted(stream, *ready, None if waiting is None else waiting[2] - ready[2])
                except self._av.FFmpegError:
                    if waiting is not None:
                        yield self._converted(stream, *waiting, None)
                    raise
                if waiting is not None:
                    yield self._converted(stream, *waiting, None)
        except self._av.FFmpegError as error:
            what = "camera" if self._driver else "video"
            remedy = "Is it connected, and allowed?" if self._driver else "Copy it again, or convert it"
            raise InputError(f"cannot read {what} {self._name}: {error.strerror or error}. {remedy}") from error

    def _choose(self, streams: Sequence[Any]) -> Any:
        videos = [stream for stream in streams if not _is_still(stream)]
        if not videos:
            raise InputError(f"{self._name} holds no video{', only a cover image' if streams else ''}")
        if videos[0].codec_context is None:
            raise InputError(f"{self._name} has a codec that the installed PyAV does not decode: convert it to H.264")
        if len(videos) > 1:
            self._warn(f"{self._name} holds {len(videos)} videos: only the first one is read")
        return videos[0]

    def _decode(self, container: Any, stream: Any) -> Iterator[tuple[Any, int, float]]:
        """PyAV's frames with their numbers and times."""
        # Also frame threading, which PyAV leaves off by default: faster, at the price of a few frames'
        # delay.
        stream.thread_type = "AUTO"
        self.rate = float(stream.average_rate or _USUAL_RATE)
        number, first_s, packets_end_s = 0, None, None
        last_s, before_s = -math.inf, 0.0  # the time that the last frame had in the file; what lies before this part
        for packet in container.demux(stream):
            for frame in packet.decode():
                # Raw streams have no timestamps; then the average rate gives the time.
                at_s = number / self.rate if frame.time is None else float(frame.time)
                first_s = at_s if first_s is None else first_s
                # Recordings that were joined byte by byte begin anew, and follow one another; single frames may be
                # out of order.
                if at_s < last_s - _AGAIN_S or at_s <= first_s < last_s:
                    before_s += last_s - at_s + 1 / self.rate
                last_s = at_s
                yield frame, number, at_s - first_s + before_s
                number += 1
            if packet.pts is not None and packet.duration:
                packets_end_s = max(packets_end_s or 0.0, float((packet.pts + packet.duration) * packet.time_base))
        if first_s is not None and not before_s:  # of parts, no header says the end
            self.end_s = _end_s(container, stream, first_s, packets_end_s)

    def _converted(self, stream: Any, frame: Any, number: int, time_s: float, duration_s: float | None) -> Frame:
        aspect = stream.sample_aspect_ratio
        if not is_plausible_aspect(aspect):
            self._warn(f"{self._name} says that its pixels are {aspect} times as wide as high: taken as square")
        if not is_supported_matrix(frame):
            self._warn(
                f"{self._name} has a colour matrix that is not supported, {int(frame.colorspace)} of ITU-T H.273: its "
                "colours are read as a player reads an untagged video"
            )
        colors = colors_of(frame, stream.codec_context)
        image = self._converter.to_rgb(frame, square_size(frame.width, frame.height, aspect), colors)
        duration_s = None if duration_s is None else max(0.0, duration_s)
        return Frame(self._upright(image, frame), number, time_s, duration_s, colors)

    def _warn(self, message: str) -> None:
        """Logs a warning once for each video."""
        if message not in self._warned:
            self._warned.add(message)
            log.warning("%s", message)


def _is_still(stream: Any) -> bool:
    """Whether a stream is a cover or a thumbnail, which FFmpeg lists among the videos."""
    disposition = getattr(stream, "disposition", None)  # missing in PyAV 13, where codec and rate must do
    if disposition is not None:
        return bool(disposition.value & _STILL)  # an enum.Flag, whose kind changed between versions
    codec = stream.codec_context
    return stream.average_rate is None and codec is not None and codec.name in _STILL_CODECS


def _end_s(container: Any, stream: Any, first_s: float, packets_end_s: float | None) -> float | None:
    """When the last frame ends, counted from the first one: by its packet or by the headers, whichever is later."""
    # Headers are often wrong or missing in recordings, the last packet's duration in some containers.
    ends = []
    if packets_end_s is not None:
        ends.append(packets_end_s - first_s)
    if stream.duration is not None:
        ends.append(float(stream.duration * stream.time_base))
    elif container.duration is not None and len(container.streams) == 1:  # sound may go on for longer
        ends.append(container.duration / 1e6 - first_s)
    return max(ends, default=None)
