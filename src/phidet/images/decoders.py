"""The image decoders, and the only function that calls them.

No decoder outside :data:`DECODERS` is ever called, whatever a file's name; none of them starts a program; and any
exception of theirs becomes an :class:`InputError` of one line.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from phidet.core.errors import InputError, PhidetError
from phidet.images.formats import FORMATS, HEAD_BYTES, Format, describe, format_of
from phidet.images.heic import open_heic

T = TypeVar("T")
_LARGEST_FILE_BYTES = 2**30  # of formats whose decoders take the file into memory as a whole
_JPEG_HEADER_BYTES = 2**22  # where the frame header is looked for, after thumbnails and colour profiles
_LONGEST_REASON = 200  # characters
_DNG_VERSION, _SUB_IFDS, _SUBFILE_TYPE, _REDUCED = 50706, 330, 254, 1  # tags of TIFF, and a bit of the last


class EncodedImage(Protocol):
    """An encoded image: a path, or anything else whose bytes can be read, and whose ``str`` names it."""

    def read_bytes(self) -> bytes:
        """The image as it is stored."""


class UnsupportedImageError(Exception):
    """An image that is refused; the message lacks its subject, the image's name."""


def _avif(file: BinaryIO) -> Image.Image:
    try:
        from PIL import AvifImagePlugin  # noqa: PLC0415  # since Pillow 11.3
    except ImportError:
        supported = False
    else:
        supported = AvifImagePlugin.SUPPORTED
    if not supported:
        raise UnsupportedImageError("is an AVIF image, which needs Pillow 11.3 or newer: pip install --upgrade pillow")
    return AvifImagePlugin.AvifImageFile(file)


def _heic(file: BinaryIO) -> Image.Image:
    try:
        return open_heic(file)
    except ImportError:
        raise UnsupportedImageError(
            "is a HEIC image, which needs a package that is not installed: pip install 'phidet[heic]'"
        ) from None


DECODERS: Mapping[Format, Callable[[BinaryIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,  # also several JPEGs in one file (MPO)
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": _avif,
    "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "HEIC": _heic,
}
"""The only decoders that data reach. Pillow has dozens, and some of them start a program (EPS) or hand the file to
another library of the system (WMF); these ten decode in the process, and each of them is fuzzed."""
PILLOW_NAMES = frozenset({"JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF"})


def open_image(source: EncodedImage | bytes, use: Callable[[Image.Image], T]) -> T:
    """The result of ``use``, called with the image opened but not yet decoded.

    Args:
        source: the image, or its bytes.
        use: may be called twice, raise :class:`UnsupportedImageError`, or anything while it decodes.

    Raises:
        InputError: it is missing, not an image that is read, too large, damaged, or refused by ``use``.
    """
    name = f"the content ({len(source)} bytes)" if isinstance(source, bytes) else str(source)
    with image_file(source) as file:
        kind: Format | None = None
        try:
            kind = format_of(file.read(HEAD_BYTES))
            if kind is None:
                raise UnsupportedImageError(_other(file, source.suffix if isinstance(source, Path) else ""))
            # A TIFF is read in strips or tiles; of the others, the whole file may have to fit into memory.
            if kind != "TIFF" and file.seek(0, os.SEEK_END) > _LARGEST_FILE_BYTES:
                raise UnsupportedImageError(
                    f"has more than {_LARGEST_FILE_BYTES:,} bytes, which is not read: make it smaller"
                )
            return _decode(kind, file, use)
        except PhidetError:
            raise
        except UnsupportedImageError as error:
            raise InputError(f"{name} {error}") from error
        except Exception as error:  # decoders raise nearly anything on damaged files
            if kind is None or (isinstance(error, OSError) and error.errno is not None):
                raise InputError(f"cannot read {name}: {reason_of(error)}") from error
            # Only after a failure: "12 bits per channel" is of more help than the decoder's "broken data stream".
            variant = _jpeg_variant(file) if kind == "JPEG" else None
            if variant is not None:
                raise InputError(f"{name} is a JPEG image {variant}, which is not read: convert it first") from error
            what = f"{name} cannot be decoded as {kind}: {reason_of(error)}"
            raise InputError(f"{what}. Copy it again, convert it, or leave it out") from error


def _decode(kind: Format, file: BinaryIO, use: Callable[[Image.Image], T]) -> T:
    try:
        return use(_checked(DECODERS[kind](_from_start(file))))
    except ValueError as error:
        if kind != "PNG" or isinstance(error, PhidetError):
            raise
        # Pillow refuses more than a megabyte of text or colour profile, neither of which is needed.
        return use(_checked(DECODERS[kind](_png_without_text(file))))


def _from_start(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return file


def _checked(image: Image.Image) -> Image.Image:
    """``image`` itself; raises UnsupportedImageError if its header shows that it must not be decoded."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise UnsupportedImageError(f"is too large to open safely: {image.width}×{image.height}, limit {limit} pixels")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # The first directory of such files is only the camera's thumbnail: decoding it would return a tiny image
        # silently.
        tags = image.tag_v2
        if _DNG_VERSION in tags or (_SUB_IFDS in tags and tags.get(_SUBFILE_TYPE, 0) & _REDUCED):
            raise UnsupportedImageError("is a camera raw file that begins with a small preview: convert it first")
    return image


@contextmanager
def image_file(source: EncodedImage | bytes) -> Iterator[BinaryIO]:
    """The encoded image as a file.

    Raises:
        InputError: it is missing or cannot be opened.
    """
    try:
        if isinstance(source, Path):
            file: BinaryIO = source.open("rb")
        else:
            file = io.BytesIO(source if isinstance(source, bytes) else source.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"there is no image at {source!s}") from error
    except PhidetError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise InputError(f"cannot read {source!s}: {reason_of(error)}") from error
    with file:
        yield file


def reason_of(error: Exception) -> str:
    """An error's message, in one printable line."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    line = "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))
    return line.rstrip(".")[:_LONGEST_REASON]


def _other(file: BinaryIO, ending: str) -> str:
    """Why a file of an unsupported format is refused."""
    what = describe(file, ending)
    if what is None:
        return f"is not an image that can be read: expected {FORMATS}"
    return f"is {what}, which is not read: expected {FORMATS}" if what else f"is empty: expected {FORMATS}"


def _jpeg_variant(file: BinaryIO) -> str | None:
    """What is unusual about a JPEG whose decoding failed, by its frame header (ITU-T T.81, B.2.2), else ``None``."""
    content = b""
    with suppress(OSError, ValueError):
        content = _from_start(file).read(_JPEG_HEADER_BYTES)
    at = 2
    while at + 5 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        # The start-of-frame markers: 0xC0 to 0xCF without the three that mean something else, and JPEG-LS.
        if marker in (0xF7, *range(0xC0, 0xD0)) and marker not in (0xC4, 0xC8, 0xCC):
            bits = content[at + 4]
            kind = {0xC3: "without loss", 0xF7: "without loss (JPEG-LS)"}.get(marker, "")
            return f"of {bits} bits per channel" if bits != 8 else kind or None
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None


def _png_without_text(file: BinaryIO) -> BinaryIO:
    """A PNG file without its texts and its colour profile."""
    content = _from_start(file).read()
    # After the signature of 8 bytes: chunks of length, type, content and checksum.
    kept, at = [content[:8]], 8
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(content[at:end])
        at = end
    return io.BytesIO(b"".join(kept))
