"""Encoded images to RGB pixels, whatever cameras, scanners and editors made of them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from phidet.data.tfrecord_file import encoded_image
from phidet.errors import InputError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
_TRANSPOSED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap height and width
_ORIENTATION = 0x0112


class RecordImage(NamedTuple):
    """An image inside a TFRecord file: where its record starts."""

    path: Path
    offset: int

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset}"


ImageSource = Path | RecordImage


def image_size(source: ImageSource) -> tuple[int, int]:
    """(height, width) in pixels as a viewer shows the image, from its header.

    Raises:
        InputError: it is missing or not an image.
    """
    with _opened(source) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _TRANSPOSED else (height, width)


def read_image(source: ImageSource, labelled_size_hw: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """The image as RGB, (H, W, 3) uint8.

    An EXIF rotation is applied, as viewers and labelling tools do; unless ``labelled_size_hw`` says that the labels
    were made on the pixels as they are stored. Grey, palette and CMYK images become RGB, alpha is dropped, and 16 bits
    become 8 (0…65535 to 0…255).

    Raises:
        InputError: it is missing, not an image, cut off, or of pixels that are neither 8 nor 16 bits.
    """
    with _opened(source) as image:
        try:
            height, width = image.size[1], image.size[0]
            stored = labelled_size_hw == (height, width) and height != width
            if not (stored and _orientation(image) in _TRANSPOSED):
                image = ImageOps.exif_transpose(image)
            return _rgb(image, source)
        except (OSError, SyntaxError, ValueError, MemoryError) as error:
            raise InputError(f"{source} is damaged: {error}. Copy it again, or leave it out") from error


def _opened(source: ImageSource) -> Image.Image:
    try:
        content = source if isinstance(source, Path) else io.BytesIO(encoded_image(source.path, source.offset))
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(content)
    except FileNotFoundError as error:
        raise InputError(f"there is no image at {source}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{source} is not an image that can be read: expected JPEG, PNG, BMP, WebP or TIFF") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{source} is too large to open safely: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"cannot read {source}: {getattr(error, 'strerror', None) or error}") from error


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(_ORIENTATION, 1))


def _rgb(image: Image.Image, source: ImageSource) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16 bits, and what some formats widen them to
        values = np.asarray(image).astype(np.float64)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError("its pixels are 32-bit integers, expected 8 or 16 bits")
        grey = np.rint(values / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers, expected 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # its alpha is dropped below
    pixels: npt.NDArray[np.uint8] = np.array(image.convert("RGB"), dtype=np.uint8)
    return pixels
