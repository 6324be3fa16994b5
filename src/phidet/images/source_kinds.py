"""What a source is, as far as its name tells, and what its outputs are called; nothing that reads one is imported."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from phidet.core.addresses import is_address, without_password
from phidet.images.formats import EXTENSIONS as IMAGE_EXTENSIONS

VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv"}
)
HOW_KNOWN = f"a video is known by the end of its name ({', '.join(sorted(VIDEO_EXTENSIONS))})"
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp")
"""What is a stream whatever it is used for; http and https may be one, or an image or a file."""
LIVE_SCHEMES = (*STREAM_SCHEMES, "http", "https")
CAMERA = re.compile(r"webcam(?::(.+))?")


def is_webcam(source: str) -> bool:
    """Whether ``source`` names a camera: ``webcam``, ``webcam:1``, or ``webcam:NAME`` as the system calls it."""
    return CAMERA.fullmatch(source) is not None


def is_stream(source: str) -> bool:
    """Whether ``source`` is the address of a stream, which no image or file is."""
    return source.partition("://")[0].lower() in STREAM_SCHEMES and "://" in source


def is_live(source: str) -> bool:
    """Whether ``source`` can be read as a camera or stream: http and https addresses, too."""
    return is_webcam(source) or (source.partition("://")[0].lower() in LIVE_SCHEMES and "://" in source)


def live_name(source: str) -> PurePosixPath:
    """A safe file name for the outputs of a camera or stream, without passwords."""
    shown = without_password(source).partition("://")[2] if is_address(source) else source
    return PurePosixPath((re.sub(r"[^\w-]+", "-", shown).strip("-")[-100:] or "stream") + ".mp4")


def name_of_address(url: str) -> PurePosixPath:
    """A safe file name from the last part of an image's address, ending as an image."""
    if url.startswith("data:"):
        return PurePosixPath("data.png" if url.startswith("data:image/png") else "data.jpg")
    try:
        path = unquote(urlsplit(url).path)
    except ValueError:
        path = ""
    name = re.sub(r"[^\w.-]+", "_", path.rstrip("/").rsplit("/", maxsplit=1)[-1]).strip("._")[-100:] or "picture"
    return PurePosixPath(name if PurePosixPath(name).suffix.lower() in IMAGE_EXTENSIONS else f"{name}.jpg")
