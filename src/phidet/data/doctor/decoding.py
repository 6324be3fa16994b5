"""Decodes every image once: finds broken ones, and computes hashes for finding duplicates."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from phidet.core.errors import InputError
from phidet.data.tfrecord_file import ImageSource
from phidet.images.decode import encoded, encoding, image_size, read_image

THUMBNAIL = 24  # pixels a side
_STEP = 2  # grey levels between neighbours; less is noise of the encoder, not a feature of the image

_DARK = 16  # of 255: 12 bits that are taken for 16
_DARK_OF_16_BITS = 64  # of 255: 14 bits that are taken for 16


class ImageFile(NamedTuple):
    """An encoded image, and the size that its labels give it."""

    source: ImageSource
    size_hw: tuple[int, int]


class ImageCheck(NamedTuple):
    """The result for one image.

    Attributes:
        fault: kind and sentence where the image cannot be used, else ``None``.
        content: hash of the file, empty where it cannot be read.
        pixels: hash of the decoded pixels, empty where they were not decoded.
        dhash: 64 bits, each whether a patch of a 9×8 grid is brighter than its left neighbour.
        mirrored: the same of the mirrored image.
        thumbnail: (24, 24, 3) uint8; zeros where the image was not decoded.
        dark: sentence where the image is nearly black throughout, else ``None``; it can be used all the same.
    """

    fault: tuple[str, str] | None
    content: bytes
    pixels: bytes = b""
    dhash: int = 0
    mirrored: int = 0
    thumbnail: npt.NDArray[np.uint8] = np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8)
    dark: str | None = None


def check_images(files: Sequence[ImageFile], decode: bool) -> list[ImageCheck]:
    """Examines all ``files`` with a pool of threads, with a progress bar on a terminal.

    Args:
        files: the images to examine.
        decode: decode every image; else only read its header and hash the file.
    """
    check: Callable[[ImageFile], ImageCheck] = _decode if decode else _read_header
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:  # decoding leaves the interpreter's lock
        warnings.simplefilter("ignore")  # of Pillow about odd files; what matters becomes a fault
        checks = pool.map(check, files)
        return list(tqdm(checks, total=len(files), unit=" images", leave=False, disable=None))


def _decode(file: ImageFile) -> ImageCheck:
    content = _content_hash(file.source)
    try:
        image = read_image(file.source, file.size_hw)
    except InputError as error:
        return ImageCheck(("image unreadable", str(error)), content)
    height, width = image.shape[:2]
    # The shape is part of the hash: the same bytes may be another image at another width.
    pixels = hashlib.blake2b(b"%d,%d" % (height, width) + image.tobytes(), digest_size=16).digest()
    fault, dark = _size_fault((height, width), file), _darkness(file.source, image)
    return ImageCheck(fault, content, pixels, *fingerprint(image), dark)


def _read_header(file: ImageFile) -> ImageCheck:
    content = _content_hash(file.source)
    try:
        size_hw = image_size(file.source)
    except InputError as error:
        return ImageCheck(("image unreadable", str(error)), content)
    # Labels may be made on the pixels as stored, where a viewer turns them: only decoding shows which.
    turned = size_hw == file.size_hw[::-1]
    return ImageCheck(None if turned else _size_fault(size_hw, file), content)


def _size_fault(size_hw: tuple[int, int], file: ImageFile) -> tuple[str, str] | None:
    if size_hw == file.size_hw:
        return None
    (height, width), (said_height, said_width) = size_hw, file.size_hw
    what = f"has {width}×{height} pixels, its labels say {said_width}×{said_height}"
    return "image size wrong", what


def _darkness(source: ImageSource, image: npt.NDArray[np.uint8]) -> str | None:
    """Describes what is wrong with an image that is nearly black, or holds a sensor's 10–14 bits in 16."""
    brightest = int(image.max())
    if brightest > _DARK_OF_16_BITS:
        return None
    # Sensors of 10 to 14 bits leave 16-bit files dark by a known factor; an image of 8 bits is just dark.
    if encoding(source).bits == 16:
        return (
            f"nearly black: no pixel is brighter than {brightest} of 255. Its 16 bits look like the 10, 12 or 14 bits "
            "of a sensor; multiply its values so that white is 65,535"
        )
    return f"nearly black: no pixel is brighter than {brightest} of 255" if brightest <= _DARK else None


def _content_hash(source: ImageSource) -> bytes:
    try:
        return hashlib.blake2b(encoded(source), digest_size=16).digest()
    except InputError:
        return b""


def fingerprint(image: npt.NDArray[np.uint8]) -> tuple[int, int, npt.NDArray[np.uint8]]:
    """The 64-bit difference hash of an (H, W, 3) image, that of its mirror image, and its thumbnail."""
    box = Image.Resampling.BOX
    # One pass over the large image; hash and thumbnail are both made from this small one (72 = 9·8 = 24·3).
    small = Image.fromarray(image).resize((72, 72), box, reducing_gap=2.0)
    grey = np.asarray(small.convert("L").resize((9, 8), box), np.int16)
    thumbnail = np.asarray(small.resize((THUMBNAIL, THUMBNAIL), box))
    return _difference_hash(grey), _difference_hash(grey[:, ::-1]), thumbnail


def _difference_hash(grey: npt.NDArray[np.int16]) -> int:
    bits = np.packbits(grey[:, 1:] - grey[:, :-1] > _STEP)
    return int.from_bytes(bits.tobytes(), "big")
