"""Objects cut out of their images, as a generator learns and makes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.data.dataset import Annotations, Dataset

SMALLEST = 4.0
"""Objects whose box has a shorter side, in pixels, show nothing that could be learned."""


class Crop(NamedTuple):
    """An object of a data set: index of its image, its box in pixels, its class."""

    image: int
    box_xyxy: npt.NDArray[np.float32]
    class_id: int


def crops_of(dataset: Dataset) -> list[Crop]:
    """All objects of a data set but crowds and the tiniest, image by image."""
    found = []
    for index in range(len(dataset)):
        objects = dataset.annotations(index)
        sides = objects.boxes_xyxy[:, 2:] - objects.boxes_xyxy[:, :2]
        usable = np.flatnonzero(~objects.crowd & (sides.min(axis=1, initial=np.inf) >= SMALLEST))
        found += [Crop(index, objects.boxes_xyxy[i], int(objects.class_ids[i])) for i in usable]
    return found


class CropImages:
    """Crops that are read when they are needed: of large images, all at once would not fit in memory.

    Args:
        dataset: the images.
        size: side of the crops in pixels.
        context: see :func:`window_of`.
        limit: so many crops at most, drawn by chance, the same ones each time.

    Attributes:
        crops: which ones, image by image.
        class_ids: (N,) their classes.
    """

    def __init__(self, dataset: Dataset, size: int, context: float, limit: int) -> None:
        self.dataset, self.size, self.context = dataset, size, context
        crops = crops_of(dataset)
        # Sorted, so that the crops of an image lie together and it is decoded once.
        chosen = np.sort(np.random.default_rng(0).permutation(len(crops))[:limit])
        self.crops = [crops[i] for i in chosen]
        self.class_ids = np.array([crop.class_id for crop in self.crops], np.int64)

    def __len__(self) -> int:
        return len(self.crops)

    def take(self, indices: Iterable[int]) -> npt.NDArray[np.uint8]:
        """The crops of these indices, (N, size, size, 3) uint8 RGB."""
        return read_crops(self.dataset, [self.crops[i] for i in indices], self.size, self.context)

    def batches(self, count: int = 64) -> Iterator[npt.NDArray[np.uint8]]:
        """All crops, ``count`` at a time."""
        for start in range(0, len(self), count):
            yield self.take(range(start, min(start + count, len(self))))


def whole_images(dataset: Dataset) -> Dataset:
    """A data set without labels, each image as one object of the class "image"."""
    annotations = []
    for index in range(len(dataset)):
        height, width = dataset.size_hw(index)
        box = np.array([[0, 0, width, height]], np.float32)
        annotations.append(Annotations.of_boxes(box, np.zeros(1, np.int64)))
    return dataset.relabelled(annotations, ("image",))


def window_of(box_xyxy: npt.NDArray[np.float32], image_hw: tuple[int, int], context: float) -> tuple[float, ...]:
    """What of an image is cut out for an object: its box and some surroundings, each side ``context`` times as long.

    So the object fills the same part of every crop, whatever its proportions. An object that covers its image is the
    image itself, of which the middle square is taken.

    Args:
        box_xyxy: of the object, pixels.
        image_hw: of the image.
        context: ≥ 1.

    Returns:
        x1, y1, x2, y2 in pixels, perhaps beyond the image.
    """
    height, width = image_hw
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    # Within a pixel, as labels of whole images are rounded in any way.
    if x1 <= 1 and y1 <= 1 and x2 >= width - 1 and y2 >= height - 1:
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side
    dx, dy = (x2 - x1) * (context - 1) / 2, (y2 - y1) * (context - 1) / 2
    return x1 - dx, y1 - dy, x2 + dx, y2 + dy


def cut_out(image: npt.NDArray[np.uint8], window_xyxy: tuple[float, ...], size: int) -> npt.NDArray[np.uint8]:
    """A window of an (H, W, 3) image as (size, size, 3); beyond the image it is mirrored."""
    x1, y1, x2, y2 = window_xyxy
    height, width = image.shape[:2]
    left, top = max(0, int(np.ceil(-x1))), max(0, int(np.ceil(-y1)))
    right, bottom = max(0, int(np.ceil(x2 - width))), max(0, int(np.ceil(y2 - height)))
    if left or top or right or bottom:
        # Only the part around the window is padded: images are large, and objects small.
        part = image[max(0, int(y1) - bottom - 1) :, max(0, int(x1) - right - 1) :]
        x1, y1, x2, y2 = (x1 - (width - part.shape[1]), y1 - (height - part.shape[0]),
                          x2 - (width - part.shape[1]), y2 - (height - part.shape[0]))  # fmt: skip
        # Mirrored and not black, which a generator would learn to make.
        image = np.pad(part, ((top, bottom), (left, right), (0, 0)), mode="symmetric")
        x1, y1, x2, y2 = x1 + left, y1 + top, x2 + left, y2 + top
    box = (max(x1, 0.0), max(y1, 0.0), min(x2, image.shape[1]), min(y2, image.shape[0]))
    # Pillow's antialiased resampling: crops are mostly made smaller.
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=None)
    return np.asarray(resized)


def read_crops(dataset: Dataset, crops: list[Crop], size: int, context: float) -> npt.NDArray[np.uint8]:
    """Crops as (N, size, size, 3) uint8 RGB, in their order; each image is decoded once.

    Raises:
        InputError: an image cannot be decoded.
    """
    pixels = np.zeros((len(crops), size, size, 3), np.uint8)
    by_image: dict[int, list[int]] = {}
    for i, crop in enumerate(crops):
        by_image.setdefault(crop.image, []).append(i)
    for index, own in by_image.items():
        image = dataset.image(index)
        for i in own:
            window = window_of(crops[i].box_xyxy, (image.shape[0], image.shape[1]), context)
            pixels[i] = cut_out(image, window, size)
    return pixels
