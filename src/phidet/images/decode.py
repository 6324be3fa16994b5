"""Encoded images to RGB pixels, whatever cameras, scanners and editors made of them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from phidet.core.errors import InputError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
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
# What Pillow's decoders raise on damaged files, found by damaging files.
_DAMAGE = (OSError, SyntaxError, ValueError, MemoryError, EOFError, LookupError, TypeError, ArithmeticError,
           struct.error, zlib.error)  # fmt: skip


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
        InputError: it is missing or not an image.
    """
    with _opened(source) as image:
        width, height = _stored_size(image)
        return (width, height) if _orientation(image) in _TRANSPOSED else (height, width)


def image_size_or_error(source: ImageSource) -> tuple[int, int] | InputError:
    """:func:`image_size`, for many files at a time in threads, of which some are broken."""
    try:
        return image_size(source)
    except InputError as error:
        return error


def encoding(source: ImageSource) -> Encoding:
    """How the image is stored, from its header.

    Raises:
        InputError: it is missing or not an image.
    """
    with _opened(source) as image:
        kind = {"MPO": "JPEG"}.get(image.format or "", image.format or "")
        bits = encoded(source)[_PNG_BIT_DEPTH] if kind == "PNG" else 16 if image.mode.startswith("I") else 8
        return Encoding(kind, image.mode, bits, _orientation(image), "transparency" in image.info)


def encoded(source: ImageSource | bytes) -> bytes:
    """The image as it is stored.

    Raises:
        InputError: it is missing or cannot be read.
    """
    if isinstance(source, bytes):
        return source
    try:
        if isinstance(source, Path):
            return source.read_bytes()
        from phidet.data.tfrecord_file import encoded_image  # noqa: PLC0415  # needs the data extra

        return encoded_image(source.path, source.offset)
    except FileNotFoundError as error:
        raise InputError(f"there is no image at {source}") from error
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror or error}") from error


def read_image(source: ImageSource | bytes, labelled_size_hw: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """The image as RGB, (H, W, 3) uint8; ``source`` may be the encoded image itself.

    An EXIF rotation is applied, as viewers and labelling tools do; unless ``labelled_size_hw`` says that the labels
    were made on the pixels as they are stored. Grey, palette and CMYK images become RGB, alpha is dropped, and 16 bits
    become 8 (0…65535 to 0…255).

    Raises:
        InputError: it is missing, not an image, cut off, or of pixels that are neither 8 nor 16 bits.
    """
    with _opened(source) as image:
        return _upright(image, _name(source), labelled_size_hw)


def pixels_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """An opened image as :func:`read_image` gives it.

    Raises:
        InputError: it is damaged, or of pixels that are neither 8 nor 16 bits.
    """
    return _upright(image, getattr(image, "filename", "") or "the image", None)


def _upright(image: Image.Image, name: str, labelled_size_hw: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    _check_depth(image, name)
    try:
        width, height = _stored_size(image)
        orientation = _orientation(image)
        as_stored = labelled_size_hw == (height, width) and height != width and orientation in _TRANSPOSED
        if image.format == "TIFF":  # Pillow turns these itself
            image.load()
            turn = {6: 8, 8: 6}.get(orientation, orientation) if as_stored else 1
        else:
            turn = 1 if as_stored else orientation
        return _rgb(image.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else image)
    except _DAMAGE as error:
        raise InputError(f"{name} is damaged: {error}. Copy it again, or leave it out") from error


def _check_depth(image: Image.Image, name: str) -> None:
    """Raises InputError for pixels that are neither 8 nor 16 bits: which of their values is white, nothing tells."""
    kind = {"F": "floating point numbers", "I": "32-bit integers"}.get(image.mode)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        wide = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))) > 16
    else:
        wide = image.format not in _WIDENED
    if kind is not None and (wide or image.mode == "F"):
        raise InputError(f"the pixels of {name} are {kind}, expected 8 or 16 bits: convert it first")


def _name(source: ImageSource | bytes) -> str:
    return f"an image of {len(source)} bytes" if isinstance(source, bytes) else str(source)


def _opened(source: ImageSource | bytes) -> Image.Image:
    name = _name(source)
    try:
        image = Image.open(source if isinstance(source, Path) else io.BytesIO(encoded(source)))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"there is no image at {name}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not an image that can be read: expected JPEG, PNG, BMP, WebP or TIFF") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name} is too large to open safely: {error}") from error
    except _DAMAGE as error:
        raise InputError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    # Pillow only warns between its limit and twice that; filters for warnings are not safe in threads.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        image.close()
        raise InputError(f"{name} is too large to open safely: {image.width}×{image.height}, limit {limit} pixels")
    return image


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
    except _DAMAGE:
        return 1  # viewers show a photo with damaged EXIF as it is stored
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16 bits
        values = np.asarray(image).astype(np.float64)
        if values.size and values.min() < 0:
            raise ValueError("its pixels are below 0")
        grey = np.rint(values / 257).astype(np.uint8)
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
