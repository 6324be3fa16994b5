"""Encoded images to RGB pixels, whatever cameras, scanners and editors made of them.

This is the only place where phidet decodes images: no decoder outside :data:`DECODERS` is ever reached, none of them
starts a program, and whatever one of them raises becomes an :class:`InputError` of one line.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from phidet.core.errors import InputError, PhidetError
from phidet.images.formats import FORMATS, HEAD_BYTES, Format, describe, format_of

T = TypeVar("T")

_ORIENTATION = 0x0112
_PNG_BIT_DEPTH = 24  # its place in the file
_UPRIGHT = {  # what brings each EXIF orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TRANSPOSED = frozenset({5, 6, 7, 8})  # those that swap height and width
_WIDENED = ("PNG", "PPM")  # formats whose 16 bits some versions of Pillow open as 32
_LONGEST_REASON = 200  # characters
_DNG_VERSION, _SUB_IFDS, _SUBFILE_TYPE, _REDUCED = 50706, 330, 254, 1  # tags of TIFF, and a bit of the last


class _RefusedError(Exception):
    """A file that is refused; the message lacks its subject, the file's name."""


def _avif(file: BinaryIO) -> Image.Image:
    try:
        from PIL import AvifImagePlugin  # noqa: PLC0415  # since Pillow 11.3
    except ImportError:
        supported = False
    else:
        supported = AvifImagePlugin.SUPPORTED
    if not supported:
        raise _RefusedError("is an AVIF image, which needs Pillow 11.3 or newer: pip install --upgrade pillow")
    return AvifImagePlugin.AvifImageFile(file)


def _heic(file: BinaryIO) -> Image.Image:
    try:
        from pi_heif import HeifImageFile  # noqa: PLC0415  # an extra
    except ImportError:
        raise _RefusedError(
            "is a HEIC image, which needs a package that is not installed: pip install 'phidet[heic]'"
        ) from None
    image: Image.Image = HeifImageFile(file)
    return image


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
_PILLOW_NAMES = frozenset(
    {"JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF"}
)


class RecordImage(NamedTuple):
    """An image inside a TFRecord file: where its record starts."""

    path: Path
    offset: int

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset}"


ImageSource = Path | RecordImage


class Encoding(NamedTuple):
    """How an image is stored.

    Attributes:
        format: Pillow's name: "JPEG", "PNG", "WEBP", …; "JPEG" also for several JPEGs in one file (MPO).
        mode: Pillow's name: "RGB", "L", "P", "CMYK", …
        bits: of each channel where the format tells, else 8.
        orientation: EXIF's, 1 for upright.
        transparency: one colour is marked as transparent.
    """

    format: str
    mode: str
    bits: int
    orientation: int
    transparency: bool


def image_size(source: ImageSource) -> tuple[int, int]:
    """(height, width) in pixels as a viewer shows the image, from its header.

    Raises:
        InputError: it is missing, or not an image that is read.
    """

    def size(image: Image.Image) -> tuple[int, int]:
        width, height = _stored_size(image)
        return (width, height) if _orientation(image) in _TRANSPOSED else (height, width)

    return _open(source, size)


def image_size_or_error(source: ImageSource) -> tuple[int, int] | InputError:
    """:func:`image_size`, for many files at a time in threads, of which some are broken."""
    try:
        return image_size(source)
    except InputError as error:
        return error


def encoding(source: ImageSource) -> Encoding:
    """How the image is stored, from its header.

    Raises:
        InputError: it is missing, or not an image that is read.
    """

    def stored(image: Image.Image) -> Encoding:
        kind = {"MPO": "JPEG"}.get(image.format or "", image.format or "")
        bits = encoded(source)[_PNG_BIT_DEPTH] if kind == "PNG" else _bits(image)
        return Encoding(kind, image.mode, bits, _orientation(image), "transparency" in image.info)

    return _open(source, stored)


def encoded(source: ImageSource | bytes) -> bytes:
    """The image as it is stored.

    Raises:
        InputError: it is missing or cannot be read.
    """
    with _stream(source) as file:
        try:
            return file.read()
        except OSError as error:
            raise InputError(f"cannot read {source!s}: {error.strerror or error}") from error


def read_image(
    source: ImageSource | bytes,
    labelled_size_hw: tuple[int, int] | None = None,
    check_size: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.uint8]:
    """The image as RGB, (H, W, 3) uint8; ``source`` may be the encoded image itself.

    An EXIF rotation is applied, as viewers and labelling tools do; unless ``labelled_size_hw`` says that the labels
    were made on the pixels as they are stored. Grey, palette and CMYK images become RGB, alpha is dropped, and more
    than 8 bits become 8: the brightest value that the format can store becomes 255, whatever the brightest pixel is.

    Args:
        source: a file, a record of a TFRecord file, or the encoded image.
        labelled_size_hw: height and width that the labels give.
        check_size: called with height and width before anything is decoded; what it raises is passed on.

    Raises:
        InputError: it is missing, not an image that is read, cut off, or of pixels of more than 16 bits.
    """

    def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
        if check_size is not None:
            check_size(image.height, image.width)
        return _upright(image, labelled_size_hw)

    return _open(source, pixels)


def pixels_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """An image that the caller opened with Pillow, as :func:`read_image` gives it.

    Raises:
        InputError: it is damaged, of pixels of more than 16 bits, or not loaded yet and of a format that phidet does
            not decode.
    """
    name = getattr(image, "filename", "") or "the image"
    # Pillow decodes on first use; the caller opened the file, but it would be phidet that starts the decoder.
    pending = isinstance(image, ImageFile.StubImageFile) or bool(getattr(image, "tile", None))
    if pending and image.format not in _PILLOW_NAMES:
        raise InputError(f"{name} is a {image.format} image, which phidet does not decode: call its load() first")
    try:
        return _upright(image, None)
    except _RefusedError as error:
        raise InputError(f"{name} {error}") from error
    except Exception as error:
        raise InputError(f"{name} cannot be decoded: {_reason(error)}") from error


def _open(source: ImageSource | bytes, use: Callable[[Image.Image], T]) -> T:
    """What ``use`` makes of the image, which is opened but not decoded yet: the one way to Pillow's decoders."""
    name = f"the content ({len(source)} bytes)" if isinstance(source, bytes) else str(source)
    with _stream(source) as file:
        kind: Format | None = None
        try:
            kind = format_of(file.read(HEAD_BYTES))
            if kind is None:
                raise _RefusedError(_other(file, source.suffix if isinstance(source, Path) else ""))
            return _decode(kind, file, use)
        except PhidetError:
            raise
        except _RefusedError as error:
            raise InputError(f"{name} {error}") from error
        except Exception as error:  # what decoders raise on damaged files is no closed list
            if kind is None or (isinstance(error, OSError) and error.errno is not None):
                raise InputError(f"cannot read {name}: {_reason(error)}") from error
            variant = _jpeg_variant(file) if kind == "JPEG" else None
            if variant is not None:
                raise InputError(f"{name} is a JPEG image {variant}, which is not read: convert it first") from error
            what = f"{name} cannot be decoded as {kind}: {_reason(error)}"
            raise InputError(f"{what}. Copy it again, convert it, or leave it out") from error


def _decode(kind: Format, file: BinaryIO, use: Callable[[Image.Image], T]) -> T:
    try:
        return use(_limited(DECODERS[kind](_from_start(file))))
    except ValueError as error:
        if kind != "PNG" or isinstance(error, PhidetError):
            raise
        # Pillow refuses more than a megabyte of text or colour profile, neither of which is needed.
        return use(_limited(DECODERS[kind](_png_without_text(file))))


def _from_start(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return file


def _limited(image: Image.Image) -> Image.Image:
    """``image`` itself, unless its header promises more pixels than Pillow's limit allows."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _RefusedError(f"is too large to open safely: {image.width}×{image.height}, limit {limit} pixels")
    return image


@contextmanager
def _stream(source: ImageSource | bytes) -> Iterator[BinaryIO]:
    """The encoded image as a file.

    Raises:
        InputError: it is missing or cannot be opened.
    """
    if isinstance(source, RecordImage):
        from phidet.data.tfrecord_file import encoded_image  # noqa: PLC0415  # needs the data extra

        source = encoded_image(source.path, source.offset)
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        file = source.open("rb")
    except FileNotFoundError as error:
        raise InputError(f"there is no image at {source}") from error
    except (OSError, ValueError) as error:  # the latter of a name with a null character
        raise InputError(f"cannot read {str(source)!r}: {_reason(error)}") from error
    with file:
        yield file


def _reason(error: Exception) -> str:
    """What a decoder's error says, in one line."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")[:_LONGEST_REASON]


def _other(file: BinaryIO, ending: str) -> str:
    """Why a file of none of the formats is refused."""
    what = describe(file, ending)
    if what is None:
        return f"is not an image that can be read: expected {FORMATS}"
    return f"is {what}, which is not read: expected {FORMATS}" if what else f"is empty: expected {FORMATS}"


def _jpeg_variant(file: BinaryIO) -> str | None:
    """What is unusual about a JPEG whose decoding failed, by its frame header (ITU-T T.81, B.2.2), else ``None``."""
    content = _from_start(file).read()
    at = 2
    while at + 5 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in (0xF7, *range(0xC0, 0xD0)) and marker not in (0xC4, 0xC8, 0xCC):
            bits = content[at + 4]
            kind = {0xC3: "without loss", 0xF7: "without loss (JPEG-LS)"}.get(marker, "")
            return f"of {bits} bits per channel" if bits != 8 else kind or None
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None


def _png_without_text(file: BinaryIO) -> BinaryIO:
    """A PNG file without its texts and its colour profile."""
    content = _from_start(file).read()
    kept, at = [content[:8]], 8
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(content[at:end])
        at = end
    return io.BytesIO(b"".join(kept))


def _upright(image: Image.Image, labelled_size_hw: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    _check_pixels(image)
    width, height = _stored_size(image)
    orientation = _orientation(image)
    as_stored = labelled_size_hw == (height, width) and height != width and orientation in _TRANSPOSED
    if image.format == "TIFF":  # Pillow turns these itself
        image.load()
        turn = {6: 8, 8: 6}.get(orientation, orientation) if as_stored else 1
    else:
        turn = 1 if as_stored else orientation
    return _rgb(image.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else image, _white(image))


def _check_pixels(image: Image.Image) -> None:
    """Refuses pixels of more than 16 bits, as nothing tells which of their values is white, and previews of raw files.

    Raises:
        _RefusedError: for either.
    """
    wide = image.format not in _WIDENED
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        if _DNG_VERSION in tags or (_SUB_IFDS in tags and tags.get(_SUBFILE_TYPE, 0) & _REDUCED):
            raise _RefusedError("is a camera raw file, of which only a small preview could be read: convert it first")
        wide = _bits(image) > 16
    kind = {"F": "floating point numbers", "I": "32-bit integers"}.get(image.mode)
    if kind is not None and (wide or image.mode == "F"):
        raise _RefusedError(f"has pixels that are {kind}, expected 8 or 16 bits: convert it first")


def _bits(image: Image.Image) -> int:
    """Bits of each channel, where Pillow's mode or a TIFF's tag tells."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
    return 16 if image.mode.startswith("I") else 8


def _white(image: Image.Image) -> int:
    """The value of white in an image of mode I or I;16: of 12 bits in a TIFF, Pillow keeps the values as they are."""
    return 2**12 - 1 if isinstance(image, TiffImagePlugin.TiffImageFile) and _bits(image) == 12 else 2**16 - 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) before EXIF turns it; of TIFF, some versions of Pillow give the one and some the other."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH]), int(image.tag_v2[TiffImagePlugin.IMAGELENGTH])
    return image.size


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where it says none that is known."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole image to see whether EXIF follows it
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1  # viewers show a photo with damaged EXIF as it is stored
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _rgb(image: Image.Image, white: int) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 12 or 16 bits
        values = np.asarray(image).astype(np.float64)
        if values.size and values.min() < 0:
            raise ValueError("its pixels are below 0")
        grey = np.rint(values * (255 / white)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # its alpha is dropped below
    pixels: npt.NDArray[np.uint8] = np.array(image.convert("RGB"), dtype=np.uint8)
    return pixels


def as_picture(image: Path | str | Image.Image | npt.NDArray[np.uint8]) -> Image.Image:
    """A new RGB picture, upright: of a path, a Pillow image, or an (H, W, 3) uint8 RGB array.

    Raises:
        InputError: it cannot be read, or is an array of another shape or type.
    """
    if isinstance(image, Image.Image):
        return Image.fromarray(pixels_of(image))
    if isinstance(image, str | Path):
        return Image.fromarray(read_image(Path(image)))
    if not isinstance(image, np.ndarray):
        raise InputError(f"expected a path, a Pillow image or an array, got a {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"expected an image (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    return Image.fromarray(np.ascontiguousarray(image)).copy()


Picture = str | Path | Image.Image | npt.NDArray[np.uint8]
"""A file's path, a PIL image, or (H, W, 3) uint8 RGB."""


def as_pixels(image: Any) -> npt.NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 RGB.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return pixels_of(image)
    if isinstance(image, np.ndarray):
        return check_pixels(image)
    raise InputError(f"expected a path, a PIL image or an array (H, W, 3) uint8, got a {type(image).__name__}")


def check_pixels(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """``array`` itself.

    Raises:
        InputError: not (H, W, 3) uint8 with at least one pixel.
    """
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise InputError(
            f"expected an image as (height, width, 3) uint8 RGB, got shape {array.shape} {array.dtype}: "
            "convert it to 8 bits and three channels, channels last"
        )
    return array
