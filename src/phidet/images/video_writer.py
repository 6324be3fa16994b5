"""Writes videos through PyAV (extra ``video``)."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phidet.core.errors import PhidetError
from phidet.core.files import part_of
from phidet.images.pyav import Colors, FrameConverter, default_colors, import_av

# Parts of a second. Whole numbers of them are frames of all usual rates, those over 1.001 included, milliseconds
# (Matroska) and the 90 kHz of MPEG streams, so that times are the source's own. MPEG-4 Part 2 counts up to 65,535.
_TICKS = {"libx264": 360_000, "mpeg4": 60_000}
_SHORTEST_S = 0.001  # MP4's edit lists count milliseconds; a frame that is shorter gets lost in them
_LIMITED_RANGE = 1  # FFmpeg's AVColorRange
_USUAL_FRAME_S = 1 / 30


def container_of(path: Path) -> tuple[str, dict[str, str]]:
    """FFmpeg's name of the container for a path, and options for it."""
    if path.suffix.lower() == ".mkv":
        return "matroska", {}
    # The index comes first, so that browsers play a file while it is loaded.
    return "mov" if path.suffix.lower() == ".mov" else "mp4", {"movflags": "faststart"}


class VideoWriter:
    """Writes H.264 video atomically: the file appears under its name only when ``keep`` is called.

    Images of another size than the first one are resized to it; a last odd row or column is repeated, since H.264 with
    4:2:0 chroma needs even sizes. Colours are coded and tagged as in the source, in limited range.

    Args:
        path: ending in ``.mp4``, ``.mov`` or ``.mkv``.
        comment: stored in the file's metadata.
        colors: of the video that the images come from; by default, what players assume for their size.

    Raises:
        PhidetError: it cannot be written there.
        MissingExtraError: the ``video`` extra is not installed.
    """

    def __init__(self, path: Path, comment: str = "", colors: Colors | None = None) -> None:
        self._av = import_av()
        self.path = path
        self._part = part_of(path)
        self._colors = colors
        self._converter = FrameConverter(self._av)
        # Some builds of PyAV leave out libx264 (GPL); MPEG-4 Part 2 is in all of them.
        self._codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        self._ticks = _TICKS[self._codec]
        self._shortest = round(_SHORTEST_S * self._ticks)
        self._stream: Any = None
        self._waiting: Any = None  # the latest frame, held back: its duration is known only when the next one comes
        self._duration = round(_USUAL_FRAME_S * self._ticks)  # of that frame, in ticks
        self._durations: dict[int, int] = {}  # durations of the frames inside the encoder, by timestamp
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kind, options = container_of(path)
            self._container = self._av.open(str(self._part), "w", format=kind, options=options)
            self._container.metadata["comment"] = comment
        except (OSError, self._av.FFmpegError) as error:
            raise self._failed(error) from error

    def write(self, image: npt.NDArray[np.uint8], time_s: float, duration_s: float | None = None) -> None:
        """Appends an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            time_s: seconds from the beginning at which it is shown.
            duration_s: seconds for which it is shown if it is the last image; by default as long as the one before it.

        Raises:
            PhidetError: it cannot be written.
        """
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            if self._stream is None:
                self._stream = self._new_stream(image.shape[1], image.shape[0])
            frame = self._converter.to_yuv(image, (self._stream.width, self._stream.height), self._tagged())
            frame.pts, frame.time_base = round(time_s * self._ticks), Fraction(1, self._ticks)
            if self._waiting is not None:
                frame.pts = max(frame.pts, self._waiting.pts + self._shortest)  # timestamps must increase
                self._duration = frame.pts - self._waiting.pts
                self._encode(self._waiting)
            self._waiting = frame
            if duration_s is not None:
                self._duration = max(self._shortest, round(duration_s * self._ticks))
        except (OSError, self._av.FFmpegError) as error:
            raise self._failed(error) from error

    def keep(self) -> None:
        """Finishes the video and renames it to its path; writes nothing without images. Raises PhidetError."""
        try:
            if self._stream is not None:
                if self._waiting is not None:
                    self._encode(self._waiting)
                    self._waiting = None
                # Flushes the encoder, which still holds the last frames.
                self._encode(None)
            self._container.close()
            if self._stream is None:
                self._part.unlink(missing_ok=True)
                return
            # FFmpeg has closed the file, so it is opened again to sync it to disk before the rename.
            with self._part.open("rb") as file:
                os.fsync(file.fileno())
            self._part.replace(self.path)
        except (OSError, self._av.FFmpegError) as error:
            raise self._failed(error) from error

    def discard(self) -> None:
        """Deletes the temporary file."""
        self._container.close()
        self._part.unlink(missing_ok=True)

    def _encode(self, frame: Any) -> None:
        """Sends a frame (``None`` to flush) to the encoder and writes the packets of earlier frames that it returns."""
        if frame is not None:
            self._durations[frame.pts] = self._duration
        for packet in self._stream.encode(frame):
            # Encoders do not carry frame durations through; without them, every player shows the last frame for an
            # arbitrary time.
            packet.duration = self._durations.pop(packet.pts)
            self._container.mux(packet)

    def _tagged(self) -> Colors:
        return self._colors or default_colors(self._stream.width, self._stream.height)

    def _new_stream(self, width: int, height: int) -> Any:
        stream = self._container.add_stream(self._codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, self._ticks)
        colors = self._colors or default_colors(width, height)
        context.colorspace, context.color_range = colors.matrix, _LIMITED_RANGE
        context.color_primaries, context.color_trc = colors.primaries, colors.transfer
        if self._codec == "libx264":
            # No B-frames: MP4 keeps durations in decoding order, where the last image would not be the last.
            stream.options = {"crf": "21", "preset": "veryfast", "bf": "0"}
        return stream

    def _failed(self, error: Exception) -> PhidetError:
        return PhidetError(f"cannot write {self.path}: {getattr(error, 'strerror', None) or error}")
