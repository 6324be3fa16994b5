"""Decodes images to upright 8-bit RGB: EXIF rotation, grey, palette, CMYK, alpha and 16-bit pixels are handled here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin

from phidet.core.addresses import is_address, without_password
from phidet.core.errors import InputError
from phidet.images.decoders import (
    PILLOW_NAMES,
    EncodedImage,
    UnsupportedImageError,
    image_file,
    open_image,
    reason_of,
)

_ORIENTATION = 0x0112
_MOST_SCANS = 500  # encoders write a dozen; libjpeg-turbo's own tests use this limit, too
_PNG_BIT_DEPTH = 24  # offset of the bit depth in the file
_UPRIGHT = {  # the transpose that turns each EXIF orientation upright
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
_BAND_PIXELS = 2**18  # one megabyte of Pillow's own, which is copied while it is in the processor's cache
_FACTORS = (8, 4, 2)  # a JPEG's blocks have 8×8 pixels; decoders make 1, 2 or 4 of a block's side


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


def image_size(source: EncodedImage | bytes) -> tuple[int, int]:
    """(height, width) in pixels as a viewer shows the image, from its header.

    Raises:
        InputError: it is missing, or not an image that is read.
    """

    def size(image: Image.Image) -> tuple[int, int]:
        width, height = _stored_size(image)
        return (width, height) if _orientation(image) in _TRANSPOSED else (height, width)

    return open_image(source, size)


def image_size_or_error(source: EncodedImage) -> tuple[int, int] | InputError:
    """:func:`image_size`, with the error returned: for thread pools over many files, some of which are broken."""
    try:
        return image_size(source)
    except InputError as error:
        return error


def encoding(source: EncodedImage) -> Encoding:
    """How the image is stored, from its header.

    Raises:
        InputError: it is missing, or not an image that is read.
    """

    def stored(image: Image.Image) -> Encoding:
        # Pillow expands PNGs of 1, 2 and 4 bits when it opens them, so their depth is read from the header itself.
        kind = {"MPO": "JPEG"}.get(image.format or "", image.format or "")
        bits = encoded(source)[_PNG_BIT_DEPTH] if kind == "PNG" else _bits(image)
        return Encoding(kind, image.mode, bits, _orientation(image), "transparency" in image.info)

    return open_image(source, stored)


def encoded(source: EncodedImage | bytes) -> bytes:
    """The image as it is stored.

    Raises:
        InputError: it is missing or cannot be read.
    """
    with image_file(source) as file:
        try:
            return file.read()
        except OSError as error:
            raise InputError(f"cannot read {source!s}: {error.strerror or error}") from error


def read_image(
    source: EncodedImage | bytes,
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

    return read_reduced(source, None, labelled_size_hw, check_size).pixels


class Reduced(NamedTuple):
    """An image as it was decoded: whole, or at a fraction of its size.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        factor: pixels of the image per pixel of ``pixels``, along a side: 1, 2, 4 or 8.
        size_hw: of the image; h is ⌈height / factor⌉.
    """

    pixels: npt.NDArray[np.uint8]
    factor: int
    size_hw: tuple[int, int]


Decoded = npt.NDArray[np.uint8] | Reduced
"""What a detector is given: (H, W, 3) uint8 RGB, or an image of which it needs no more."""

Needed = Callable[[tuple[int, int]], tuple[int, int]]
"""Height and width of an image → the least of them that are of use; no more than the image's own."""


def read_reduced(
    source: EncodedImage | bytes,
    needed: Needed | None,
    labelled_size_hw: tuple[int, int] | None = None,
    check_size: Callable[[int, int], None] | None = None,
) -> Reduced:
    """The image as :func:`read_image` gives it, or, of a JPEG, smaller by a factor that leaves what is ``needed``.

    A JPEG is decoded at an eighth, a quarter or half of its size in a fraction of the time: the high frequencies of its
    blocks are left out, so each pixel is a mean of those that it stands for. Pillow decodes other formats whole.

    Args:
        source, labelled_size_hw, check_size: as for :func:`read_image`.
        needed: what is needed of an image of that size; ``None`` for all of it.

    Raises:
        InputError: as :func:`read_image`.
    """
    checked = False

    def pixels(image: Image.Image) -> Reduced:
        nonlocal checked
        if check_size is not None and not checked:  # a second attempt is at the same image
            check_size(image.height, image.width)
        checked = True
        return _upright(image, labelled_size_hw, needed)

    return open_image(source, pixels)


def pixels_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """An image that the caller opened with Pillow, as :func:`read_image` gives it.

    Raises:
        InputError: it is damaged, of pixels of more than 16 bits, or not loaded yet and of a format that phidet does
            not decode.
    """
    name = getattr(image, "filename", "") or "the image"
    # Pillow decodes on first use: the caller opened the file, but phidet would be the one to start an unlisted decoder.
    pending = isinstance(image, ImageFile.StubImageFile) or bool(getattr(image, "tile", None))
    if pending and image.format not in PILLOW_NAMES:
        raise InputError(f"{name} is a {image.format} image, which phidet does not decode: call its load() first")
    try:
        return _upright(image, None, None).pixels
    except UnsupportedImageError as error:
        raise InputError(f"{name} {error}") from error
    except Exception as error:
        raise InputError(f"{name} cannot be decoded: {reason_of(error)}") from error


def _upright(image: Image.Image, labelled_size_hw: tuple[int, int] | None, needed: Needed | None) -> Reduced:
    _check_depth(image)
    _check_scans(image)
    width, height = _stored_size(image)
    orientation = _orientation(image)
    # A labelling tool that ignored EXIF recorded the stored size. Only a quarter turn of a non-square image changes the
    # size, so only there can the two cases be told apart.
    as_stored = labelled_size_hw == (height, width) and height != width and orientation in _TRANSPOSED
    if image.format == "TIFF":  # Pillow applies the orientation while it loads; undone by the inverse turn if unwanted
        image.load()
        turn = {6: 8, 8: 6}.get(orientation, orientation) if as_stored else 1
    else:
        turn = 1 if as_stored else orientation
    size_hw = (width, height) if orientation in _TRANSPOSED and not as_stored else (height, width)
    factor = 1 if needed is None else _reduce(image, needed(size_hw), turn)
    black, white = _black_and_white(image)
    return Reduced(_rgb(image.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else image, black, white), factor, size_hw)


def _reduce(image: Image.Image, needed_hw: tuple[int, int], turn: int) -> int:
    """Has a JPEG decoded as small as ``needed_hw``, of the upright image, allows; returns the factor."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return 1
    width, height = image.size
    needed_height, needed_width = needed_hw[::-1] if turn in _TRANSPOSED else needed_hw
    for factor in _FACTORS:
        # A last pixel that stands for fewer than ``factor`` would come first when the image is turned, and move it.
        splits = turn in _UPRIGHT and (width % factor or height % factor)
        if not splits and -(-width // factor) >= needed_width and -(-height // factor) >= needed_height:
            # Pillow rounds the size asked for down to a whole factor: this one, or none where it cannot.
            drafted = image.draft(None, (max(1, width // factor), max(1, height // factor)))
            return 1 if drafted is None else round(width / drafted[1][2])
    return 1


def _check_depth(image: Image.Image) -> None:
    """Refuses pixels of more than 16 bits, for which the format does not define the value of white.

    Raises:
        UnsupportedImageError: for those.
    """
    wide = _bits(image) > 16 if isinstance(image, TiffImagePlugin.TiffImageFile) else image.format not in _WIDENED
    kind = {"F": "floating point numbers", "I": "32-bit integers"}.get(image.mode)
    if kind is not None and (wide or image.mode == "F"):
        raise UnsupportedImageError(f"has pixels that are {kind}, expected 8 or 16 bits: convert it first")


def _check_scans(image: Image.Image) -> None:
    """Refuses progressive JPEGs that would take hours to decode: a scan of a hundred bytes updates all pixels.

    Raises:
        UnsupportedImageError: for those.
    """
    file = image.fp if isinstance(image, ImageFile.ImageFile) and image.info.get("progressive") else None
    if file is None:
        return
    place = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")  # entropy-coded data never contain this marker
    file.seek(place)
    if scans > _MOST_SCANS:
        raise UnsupportedImageError(f"has {scans:,} scans, more than {_MOST_SCANS}: save it again")


def _bits(image: Image.Image) -> int:
    """Bits of each channel, where Pillow's mode or a TIFF's tag tells."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
    return 16 if image.mode.startswith("I") else 8


def _black_and_white(image: Image.Image) -> tuple[int, int]:
    """The values of black and white in an image of mode I or I;16; Pillow keeps those of a TIFF as they are stored."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0, 2**16 - 1
    brightest = 2 ** _bits(image) - 1  # also of 12 bits
    white_is_zero = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    return (brightest, 0) if white_is_zero else (0, brightest)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) before EXIF rotation; for TIFF, Pillow's ``size`` is rotated in some versions only."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH]), int(image.tag_v2[TiffImagePlugin.IMAGELENGTH])
    return image.size


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1 where it is missing or invalid."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole image to see whether EXIF follows it
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1  # viewers show a photo with damaged EXIF as it is stored
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _rgb(image: Image.Image, black: int, white: int) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 12 or 16 bits
        values = np.asarray(image).astype(np.float64)
        if values.size and values.min() < 0:
            raise ValueError("its pixels are below 0")
        # Scaled here, since Pillow's own conversion of these modes clips at 255 instead of scaling.
        grey = np.rint((values - black) * (255 / (white - black))).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # its alpha is dropped below
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    rgb.load()
    # Band by band: Pillow has four bytes for a pixel, and converts all of them into one new block of memory after the
    # other, which takes longer than to decode them.
    pixels = np.empty((rgb.height, rgb.width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // rgb.width)
    for top in range(0, rgb.height, rows):
        pixels[top : top + rows] = np.asarray(rgb.crop((0, top, rgb.width, min(top + rows, rgb.height))))
    return pixels


def size_of(image: Decoded) -> tuple[int, int]:
    """Height and width of the image, however small it was decoded."""
    return image.size_hw if isinstance(image, Reduced) else (image.shape[0], image.shape[1])


def pixels_in_memory(image: Decoded) -> npt.NDArray[np.uint8]:
    """The pixels as they were decoded."""
    return image.pixels if isinstance(image, Reduced) else image


ImageLike = str | Path | Image.Image | npt.NDArray[np.uint8]
"""A file's path or address, a Pillow image, or (H, W, 3) uint8 RGB."""


def as_pixels(image: Any) -> npt.NDArray[np.uint8]:
    """An image of any accepted type as (H, W, 3) uint8 RGB.

    Raises:
        InputError, DownloadError: as :func:`as_decoded`.
    """
    return pixels_in_memory(as_decoded(image, None))


def as_decoded(image: Any, needed: Needed | None) -> Decoded:
    """An image of any accepted type; of a file or an address no more than is ``needed``.

    Raises:
        InputError: it cannot be read, or is something else.
        DownloadError: an address, http, https or data, that cannot be fetched.
    """
    if isinstance(image, str) and is_address(image):
        return _of_address(image, needed)
    if isinstance(image, str | Path):
        if is_address(str(image).replace(":/", "://", 1)) and not Path(image).exists():
            raise InputError(f"{image} is an address in a Path, where it loses a slash: give it as text")
        return read_reduced(Path(image), needed)
    if isinstance(image, Image.Image):
        return pixels_of(image)
    if isinstance(image, np.ndarray):
        return check_pixels(image)
    raise InputError(
        f"expected a path, an address, a Pillow image or an array (H, W, 3) uint8, got a {type(image).__name__}"
    )


def _of_address(url: str, needed: Needed | None) -> Reduced:
    from phidet.images.remote import fetch_image  # noqa: PLC0415 - slow to import, and rarely needed

    content = fetch_image(url)
    try:
        return read_reduced(content, needed)
    except InputError as error:
        raise InputError(f"{without_password(url)}: {error}") from error


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


def as_pil_image(image: ImageLike) -> Image.Image:
    """A new Pillow image, RGB and upright.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    return Image.fromarray(np.ascontiguousarray(as_pixels(image)))  # RGB is copied
