"""Annotated pictures and videos."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from phidet.files import write_whole
from phidet.results import Detections
from phidet.sinks.base import Names, count
from phidet.sources import Picture, Unusable
from phidet.video import VideoWriter

_VIDEOS = frozenset({".mp4", ".mov", ".mkv"})
_FORMATS: dict[str, tuple[str, dict[str, Any], int]] = {  # Pillow's name, settings, longest side in pixels
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}, 65_500),  # colours as sharp as thin frames are
    ".jpeg": ("JPEG", {"quality": 92, "subsampling": 0}, 65_500),
    ".jfif": ("JPEG", {"quality": 92, "subsampling": 0}, 65_500),
    ".webp": ("WEBP", {"quality": 90}, 16_383),
    ".png": ("PNG", {"compress_level": 4}, 2**31),
}


def writable_name(name: PurePosixPath, size: tuple[int, int]) -> PurePosixPath:
    """``name``, with ``.png`` added where its ending is of no format that can hold a picture of that size."""
    _, _, longest = _FORMATS.get(name.suffix.lower(), ("", {}, 0))
    return name if max(size) <= longest else name.with_name(f"{name.name}.png")


def encode(picture: Image.Image, name: PurePosixPath) -> bytes:
    """The file of that :func:`writable_name`."""
    form, settings, _ = _FORMATS[name.suffix.lower()]
    content = io.BytesIO()
    picture.save(content, form, **settings)
    return content.getvalue()


class PictureSink:
    """Pictures and videos with their objects drawn, called as the originals are.

    JPEG, PNG and WebP stay what they are; other pictures become PNG, other videos MP4, and their ending is added.
    """

    def __init__(self, out: Path) -> None:
        self._out, self._names = out, Names()
        self._pictures = self._videos = 0
        self._video: VideoWriter | None = None
        self._previous: Picture | None = None

    def add(self, picture: Picture, found: Detections) -> None:
        drawn = found.draw(picture.image)
        if not picture.continues(self._previous):
            self._end_video()
        self._previous = picture
        if picture.frame is None:
            name = self._names.of(picture, writable_name(picture.name, drawn.size))
            write_whole(self._out / name, encode(drawn, name))
            self._pictures += 1
            return
        if self._video is None:
            self._video = VideoWriter(self._out / self._names.of(picture, _video_name(picture.name)))
        self._video.write(np.asarray(drawn), picture.time_s or 0.0)

    def skip(self, unusable: Unusable) -> None:
        """Cannot be drawn on."""

    def keep(self) -> str:
        self._end_video()
        counts = [(self._pictures, "picture"), (self._videos, "video")]
        written = " and ".join(count(n, what) for n, what in counts if n)
        return f"{self._out} ({written})" if written else ""

    def discard(self) -> None:
        if self._video is not None:
            self._video.discard()

    def _end_video(self) -> None:
        video, self._video = self._video, None
        if video is not None:
            video.keep()
            self._videos += 1


def _video_name(name: PurePosixPath) -> PurePosixPath:
    return name if name.suffix.lower() in _VIDEOS else name.with_name(f"{name.name}.mp4")
