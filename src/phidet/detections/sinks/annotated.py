"""Annotated images and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from phidet.core.errors import ConfigError
from phidet.core.files import raising_write_errors, write_atomic_with
from phidet.core.words import count
from phidet.detections.detections import Detections
from phidet.detections.sinks.base import Names, ObjectSink
from phidet.images.sources import SourceImage

if TYPE_CHECKING:
    from phidet.images.video_writer import VideoWriter

_VIDEOS = frozenset({".mp4", ".mov", ".mkv"})
_ABOUT = 2**16  # bytes at either end of a file, where the formats keep their metadata
_MADE_BY = "drawn by phidet"  # marks every file, so that files of other origin are never overwritten
_JPEG = {
    "quality": 92,
    "subsampling": 0,
    "comment": _MADE_BY.encode(),
}  # 0: it blurs thin frames
_PNG = PngInfo()
_PNG.add_text("Software", _MADE_BY)
_FORMATS: dict[str, tuple[str, dict[str, Any], int]] = {  # Pillow's name, settings, longest side in pixels
    ".jpg": ("JPEG", _JPEG, 65_500),
    ".jpeg": ("JPEG", _JPEG, 65_500),
    ".jfif": ("JPEG", _JPEG, 65_500),
    ".webp": ("WEBP", {"quality": 90, "xmp": _MADE_BY.encode()}, 16_383),
    ".png": ("PNG", {"compress_level": 4, "pnginfo": _PNG}, 2**31),
}


def writable_name(name: PurePosixPath, size: tuple[int, int]) -> PurePosixPath:
    """``name``, with ``.png`` added unless its format can hold an image of that size."""
    _, _, longest = _FORMATS.get(name.suffix.lower(), ("", {}, 0))
    return name if max(size) <= longest else name.with_name(f"{name.name}.png")


def write_image(folder: Path, name: PurePosixPath, image: Image.Image) -> None:
    """Writes an image below ``folder``, under a name from :func:`writable_name`.

    Raises:
        ConfigError: the file there was not written by phidet.
    """
    _check_ours(folder / name)
    form, settings, _ = _FORMATS[name.suffix.lower()]
    write_atomic_with(folder / name, lambda out: image.save(out, form, **settings))


def _check_ours(path: Path) -> None:
    """Raises ConfigError unless ``path`` is free or holds a file that an earlier run wrote."""
    if path.exists() and _MADE_BY.encode() not in _ends_of(path):
        raise ConfigError(f"{path} was not written by phidet, and would be overwritten: choose another --out")


def _ends_of(path: Path) -> bytes:
    """The first and the last bytes of a file, where formats keep comments."""
    with raising_write_errors(path), path.open("rb") as file:
        head = file.read(_ABOUT)
        file.seek(max(len(head), path.stat().st_size - _ABOUT))
        return head + file.read()


Draw = Callable[[SourceImage, Detections], Image.Image]


def _draw(item: SourceImage, found: Detections) -> Image.Image:
    return found.draw(item.image)


class ImageSink(ObjectSink):
    """Images and videos with their objects drawn, named like the originals.

    JPEG, PNG and WebP keep their format; other images become PNG, other videos MP4, with the ending appended.

    Args:
        out: the folder.
        draw: what draws; the boxes and labels of ``Detections.draw`` unless given.
        finished: called with the path of each video that is written, and with its source.

    Raises:
        ConfigError: by ``add``, if it would overwrite a file that no earlier run wrote.
    """

    def __init__(self, out: Path, draw: Draw = _draw, finished: Callable[[Path, str], None] | None = None) -> None:
        self._out, self._names, self._draw, self._finished = out, Names(), draw, finished
        self._images = self._videos = 0
        self._video: VideoWriter | None = None
        self._previous: SourceImage | None = None

    def leave(self, names: Iterable[str]) -> None:
        """Writes nothing below these folders, which are other outputs'."""
        self._names.reserved = frozenset(name.casefold() for name in names)

    def add(self, item: SourceImage, found: Detections) -> None:
        drawn = self._draw(item, found)
        if not item.continues(self._previous):
            self._end_video()
        self._previous = item
        if item.frame is None:
            name = self._names.of(item, writable_name(item.name, drawn.size))
            write_image(self._out, name, drawn)
            self._images += 1
            return
        if self._video is None:
            from phidet.images.video_writer import VideoWriter  # noqa: PLC0415 - images need none of it

            path = self._out / self._names.of(item, _video_name(item.name))
            _check_ours(path)
            self._video = VideoWriter(path, _MADE_BY, item.colors)
        self._video.write(np.asarray(drawn), item.time_s or 0.0, item.duration_s)

    def keep(self) -> str:
        self._end_video()
        counts = [(self._images, "image"), (self._videos, "video")]
        written = " and ".join(count(n, what) for n, what in counts if n)
        return f"{self._out} ({written})" if written else ""

    def discard(self) -> None:
        if self._video is not None:
            self._video.discard()

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.keep()  # if that fails, discard can still delete the temporary file
            path, self._video = self._video.path, None
            self._videos += 1
            # Only now is the file complete, as what adds its sound needs it.
            if self._finished is not None and self._previous is not None:
                self._finished(path, self._previous.source)


def _video_name(name: PurePosixPath) -> PurePosixPath:
    return name if name.suffix.lower() in _VIDEOS else name.with_name(f"{name.name}.mp4")
