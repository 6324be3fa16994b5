"""From an image to the network's input and back: one specification for training, evaluation and deployment.

As the official evaluation: normalise, resize bilinearly (without antialiasing) so that the image fits into the input,
keeping its aspect, and pad right and below with zeros. Networks that are trained with antialiasing are used with it.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.core.structs import require

BAND_NUMBERS = 1 << 16
"""Number of float32 values that are resized at once: 256 KiB, which fits a processor's level-2 cache."""


def fit_scale(image_hw: tuple[int, int], size_hw: tuple[int, int]) -> float:
    """The factor that makes an image of ``image_hw`` pixels just fit into ``size_hw``."""
    return min(size_hw[0] / image_hw[0], size_hw[1] / image_hw[1])


def scaled_size(image_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width of the resized image, whole pixels, cut off as in the official code, at least 1."""
    # The small term undoes what division lost: 480 · (512 / 640) is 384, whatever floating point makes of it.
    return max(1, int(image_hw[0] * scale + 1e-6)), max(1, int(image_hw[1] * scale + 1e-6))


def needed_to_fit(image_hw: tuple[int, int], size_hw: tuple[int, int], share: float = 1.0) -> tuple[int, int]:
    """Height and width that an image of ``image_hw`` has when it just fits into ``share`` of ``size_hw``, at most its
    own: an image that is decoded smaller is as good as a whole one as long as it is not enlarged again."""
    return scaled_size(image_hw, min(1.0, fit_scale(image_hw, size_hw) * share))


def shorter_side_size(image_hw: tuple[int, int], shorter: int, longest: int | None = None) -> tuple[int, int]:
    """Height and width of an image resized so that its shorter side is ``shorter`` pixels, or fewer where the longer
    side would exceed ``longest``; whole pixels as in the official DETR."""
    height, width = image_hw
    small, large = min(image_hw), max(image_hw)
    if longest is not None and large / small * shorter > longest:
        shorter = max(1, round(longest * small / large))
    if small == shorter:
        return image_hw
    other = max(1, int(shorter * large / small))
    return (shorter, other) if height <= width else (other, shorter)


def resize(image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Bilinear, pixel centres at ½, without antialiasing, as ``tf.image.resize``: (H, W, C) → (h, w, C) float32."""
    planes = np.empty((image.shape[2], *size_hw), np.float32)
    _resize_into(planes, image)
    return planes.transpose(1, 2, 0)


def _resize_into(planes: npt.NDArray[np.float32], image: npt.NDArray[np.uint8]) -> None:
    """Fills (C, h, w) with the resized image.

    Works channel by channel, as gathering columns is several times faster where a pixel is one number, and in bands of
    rows, so that intermediate results stay in the processor's cache and need no new memory.
    """
    height, width, channels = image.shape
    top, bottom, y = _neighbours(height, planes.shape[1])
    left, right, x = _neighbours(width, planes.shape[2])
    lines = image.reshape(height, width * channels)
    step = max(1, BAND_NUMBERS // lines.shape[1])
    for start in range(0, planes.shape[1], step):
        band = slice(start, start + step)
        rows = lines[top[band]].astype(np.float32)
        below = lines[bottom[band]].astype(np.float32)
        # top + (bottom − top) · weight, in place: no further temporaries.
        below -= rows
        below *= y[band, None]
        rows += below  # rows first: their memory is contiguous
        source = np.ascontiguousarray(rows.reshape(-1, width, channels).transpose(2, 0, 1))
        resized, beside = source.take(left, axis=2), source.take(right, axis=2)
        beside -= resized
        beside *= x
        np.add(resized, beside, out=planes[:, band])


def antialiased(image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Bilinear, but a pixel is the mean of all that it stands for, weighted by a triangle: (H, W, 3) → (h, w, 3)."""
    return np.asarray(Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.BILINEAR))


def prepare(
    image: npt.NDArray[np.uint8], size_hw: tuple[int, int], spec: Preprocess
) -> tuple[npt.NDArray[np.float32], float]:
    """Resizes, pads and normalises one image to the network's input.

    Args:
        image: (H, W, 3) RGB.
        size_hw: the network's input in pixels.
        spec: mean and standard deviation.

    Returns:
        (3, h, w) float32 with (h, w) = ``size_hw``, and the scale: pixels of the input per pixel of the image. Boxes
        found in the input, divided by it, are boxes in the image.
    """
    image_hw = image.shape[0], image.shape[1]
    scale = fit_scale(image_hw, size_hw)
    height, width = scaled_size(image_hw, scale)
    padded = np.zeros((3, *size_hw), np.float32)
    inside = padded[:, :height, :width]
    if image_hw == (height, width):
        inside[:] = image.transpose(2, 0, 1)
    elif spec.antialias and scale < 1:
        inside[:] = antialiased(image, (height, width)).transpose(2, 0, 1)
    else:
        _resize_into(inside, image)
    # Only the image is normalised: the padding stays exactly 0, as in the official code, which pads afterwards.
    inside -= np.array(spec.mean_rgb, np.float32)[:, None, None]
    inside /= np.array(spec.std_rgb, np.float32)[:, None, None]
    return padded, scale


def in_words(size_hw: tuple[int, int], spec: Preprocess) -> str:
    """How :func:`prepare` resizes, for readers of exported files."""
    how = "Pillow, antialiased" if spec.antialias else "half-pixel centres, no antialiasing"
    return f"resized bilinearly ({how}) by one factor to fit {size_hw[0]}x{size_hw[1]} (height x width)"


def _neighbours(
    length: int, wanted: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each output pixel: the two input pixels beside its centre, and the weight of the second."""
    # Pixel centres lie at ½ in both images; beyond the outermost centres the border pixel is repeated.
    centres = np.clip((np.arange(wanted) + 0.5) * (length / wanted) - 0.5, 0, length - 1)
    first = np.floor(centres).astype(np.int64)
    return first, np.minimum(first + 1, length - 1), (centres - first).astype(np.float32)


class Preprocess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How pixels become network input: ``(pixel - mean_rgb) / std_rgb``, channel by channel, pixels 0–255, RGB.

    ``antialias`` is whether images that :func:`prepare` makes smaller are antialiased. Networks that resize in a way of
    their own, DETR and classifiers, always are.
    """

    mean_rgb: tuple[float, float, float] = (0.485 * 255, 0.456 * 255, 0.406 * 255)
    std_rgb: tuple[float, float, float] = (0.229 * 255, 0.224 * 255, 0.225 * 255)
    antialias: bool = False

    def __post_init__(self) -> None:
        require(all(math.isfinite(m) for m in self.mean_rgb), f"mean_rgb must be finite, got {self.mean_rgb}")
        require(all(math.isfinite(s) and s > 0 for s in self.std_rgb), f"std_rgb must be > 0, got {self.std_rgb}")


IMAGENET = Preprocess()
"""ImageNet mean and deviation: EfficientNet-B and EfficientDet-D."""


LITE = Preprocess(mean_rgb=(127.0, 127.0, 127.0), std_rgb=(128.0, 128.0, 128.0))
"""Scales pixels to about −1…1: EfficientNet-Lite and EfficientDet-Lite."""
