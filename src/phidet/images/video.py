"""Video files and webcams, frame by frame, through PyAV (extra ``video``)."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError, MissingExtraError, PhidetError
from phidet.core.files import part_of

EXTENSIONS = frozenset(
    {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv"}
)
_TICKS = 90_000  # a second, as MPEG counts
_MISSING = 0.05  # of a video's time; what it says of itself need not be exact
_CAMERA = re.compile(r"webcam(?::(.+))?")


class Frame(NamedTuple):
    """One picture of a video.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        number: 0, 1, ….
        time_s: since the beginning.
    """

    image: npt.NDArray[np.uint8]
    number: int
    time_s: float


def is_webcam(source: str) -> bool:
    """Whether ``source`` names a camera: ``webcam``, ``webcam:1``, or ``webcam:NAME`` as the system calls it."""
    return _CAMERA.fullmatch(source) is not None


def video_frames(path: Path) -> Iterator[Frame]:
    """The frames of a video file, turned as the file says; one at a time is in memory.

    Raises:
        InputError: it is missing, no video, or damaged (after the frames before the damage).
        MissingExtraError: the ``video`` extra is not installed.
    """
    if not path.is_file():
        raise InputError(f"there is no video at {path}")
    yield from _frames(str(path), str(path), None)


def webcam_frames(source: str) -> Iterator[Frame]:
    """The frames of a camera, as they come, without end; times count from the first one.

    Raises:
        InputError: there is no such camera, or it is in use.
        MissingExtraError: the ``video`` extra is not installed.
    """
    match = _CAMERA.fullmatch(source)
    which = (match[1] if match else None) or "0"
    device, kind = {
        "linux": (f"/dev/video{which}" if which.isdigit() else which, "v4l2"),
        "darwin": (which, "avfoundation"),
        "win32": (f"video={which}", "dshow"),
    }.get(sys.platform, (which, "v4l2"))
    first: float | None = None
    for frame in _frames(device, source, kind):
        now = time.monotonic()
        first = now if first is None else first
        yield frame._replace(time_s=now - first)


def _frames(file: str, name: str, kind: str | None) -> Iterator[Frame]:
    av = _av()
    try:
        with av.open(file, format=kind) as container:
            if not container.streams.video:
                raise InputError(f"{name} holds no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or 30)
            first: float | None = None
            frames, last = 0, 0.0
            for number, frame in enumerate(container.decode(stream)):
                frames += 1
                at = number / rate if frame.time is None else float(frame.time)
                first = at if first is None else first
                last = at - first
                yield Frame(_upright(frame), number, last)
            if not frames:
                raise InputError(f"{name} holds no frame that can be decoded: it is cut off or damaged")
            promised = _seconds(stream, container)
            if kind is None and last + 1 / rate < promised * (1 - _MISSING) - 1:
                raise InputError(f"{name} ends after {last:.1f} s of {promised:.1f} s: it is cut off or damaged")
    except av.FFmpegError as error:
        what = "camera" if kind else "video"
        raise InputError(f"cannot read {what} {name}: {error.strerror or error}") from error


def _seconds(stream: Any, container: Any) -> float:
    """How long the pictures go on, by the file's own words; 0 where it has none."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    sounds = len(container.streams) > 1  # may go on for longer
    return 0.0 if sounds or container.duration is None else container.duration / 1e6


def _upright(frame: Any) -> npt.NDArray[np.uint8]:
    image: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4  # anticlockwise, to be shown as it was seen
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


class VideoWriter:
    """Writes H.264 in MP4; the file appears when it is kept, and not before.

    Pictures of another size than the first one are resized to it; a last odd row or column is doubled, which H.264
    cannot do without.

    Args:
        path: ending in ``.mp4``, ``.mov`` or ``.mkv``.
        comment: for those who look into the file.

    Raises:
        PhidetError: it cannot be written there.
        MissingExtraError: the ``video`` extra is not installed.
    """

    def __init__(self, path: Path, comment: str = "") -> None:
        self._av = _av()
        self.path = path
        self._part = part_of(path)
        self._last = -1
        self._stream: Any = None
        kind = {".mkv": "matroska", ".mov": "mov"}.get(path.suffix.lower(), "mp4")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = self._av.open(str(self._part), "w", format=kind)
            self._container.metadata["comment"] = comment
        except (OSError, self._av.FFmpegError) as error:
            raise self._failed(error) from error

    def write(self, image: npt.NDArray[np.uint8], time_s: float) -> None:
        """Appends a picture, (H, W, 3) uint8 RGB, to be shown from ``time_s`` on; raises PhidetError if it cannot."""
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            if self._stream is None:
                self._stream = self._new_stream(image.shape[1], image.shape[0])
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(width=self._stream.width, height=self._stream.height, format="yuv420p")
            self._last = max(self._last + 1, round(time_s * _TICKS))  # time only goes forward
            frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))
        except (OSError, self._av.FFmpegError) as error:
            raise self._failed(error) from error

    def keep(self) -> None:
        """Ends the video and puts it in its place; nothing if no picture came. Raises PhidetError if it cannot."""
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if self._stream is None:
                self._part.unlink(missing_ok=True)
                return
            with self._part.open("rb") as file:
                os.fsync(file.fileno())
            self._part.replace(self.path)
        except (OSError, self._av.FFmpegError) as error:
            raise self._failed(error) from error

    def discard(self) -> None:
        """Leaves nothing behind."""
        self._container.close()
        self._part.unlink(missing_ok=True)

    def _new_stream(self, width: int, height: int) -> Any:
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        stream = self._container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        if codec == "libx264":
            stream.options = {"crf": "21", "preset": "veryfast"}
        return stream

    def _failed(self, error: Exception) -> PhidetError:
        return PhidetError(f"cannot write {self.path}: {getattr(error, 'strerror', None) or error}")


def _av() -> Any:
    try:
        av = import_module("av")
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise MissingExtraError("reading and writing video", "video") from None
    av.logging.set_level(av.logging.PANIC)  # what matters comes as an error
    return av
