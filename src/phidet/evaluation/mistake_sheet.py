"""The worst mistakes as one sheet: crops with ground truth and detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.detections.draw import colour, draw_frame
from phidet.detections.draw_masks import draw_masks
from phidet.detections.masks import Masks
from phidet.detections.sheet import TILE_H, TILE_W, Tile, draw_sheet
from phidet.evaluation.mistakes import Mistake

FOUND, TRUTH = 0, 1  # their colours
_TITLES = {
    "missed": "Missed",
    "false positive": "False positive",
    "wrong class": "Wrong class",
    "poor box": "Poor box",
    "double": "Duplicate",
}
_GREY = "#E4E4E4"
_CONTEXT = 2.2  # minimum ratio of a crop's side to that of the boxes in it
_SMALLEST = 64  # minimum height of a crop in pixels of the image

_Box = tuple[float, float, float, float]


def draw_mistakes(dataset: Dataset, detections: Sequence[Detections], mistakes: Sequence[Mistake]) -> Image.Image:
    """A tile for each mistake, row by row: a crop with ground truth dashed in blue and detections in orange.

    The boxes that the mistake is about are thick; other objects of the crop are thin. Under it stand kind, classes,
    score and image.
    """
    heading = "The worst mistakes" if mistakes else "No mistakes"
    tiles = [_tile(dataset, detections[mistake.image], mistake) for mistake in mistakes]
    return draw_sheet(heading, tiles, max(3, min(4, len(tiles))), [("ground truth", TRUTH), ("detected", FOUND)])


def _tile(dataset: Dataset, found: Detections, mistake: Mistake) -> Tile:
    truth = dataset.annotations(mistake.image)
    title, name = f"{_TITLES[mistake.kind]}: {_what(dataset, found, mistake)}", str(dataset.names[mistake.image])
    there = [truth.boxes_xyxy[o] for o in [mistake.object] if o is not None]
    detected = [found.boxes_xyxy[d] for d in [mistake.detection] if d is not None]
    try:
        image = _with_masks(dataset.image(mistake.image), dataset.masks(mistake.image), found.masks, mistake)
    except InputError:  # damaged since it was looked at: the mistake is listed without its image
        return Tile(title, name)
    window = _window(np.stack([*there, *detected]).astype(np.float64), dataset.size_hw(mistake.image))
    crop = _crop(image, window)
    pen = ImageDraw.Draw(crop, "RGBA")
    # The boxes that the mistake is about come last, on top of the others.
    others = np.delete(truth.boxes_xyxy, [] if mistake.object is None else mistake.object, axis=0)
    for boxes, which, width in ((others, TRUTH, 2), (detected, FOUND, 3), (there, TRUTH, 3)):
        for box in boxes:
            draw_frame(pen, _inside(box, window), colour(which), width, dashed=which == TRUTH)
    return Tile(title, name, np.asarray(crop))


def _with_masks(
    image: npt.NDArray[np.uint8], truth: Masks | None, found: Masks | None, mistake: Mistake
) -> npt.NDArray[np.uint8]:
    """The image with the masks of the object and of the detection that the mistake is about, the latter on top."""
    pairs = ((found, mistake.detection, FOUND), (truth, mistake.object, TRUTH))
    some = [(masks[i : i + 1], which) for masks, i, which in pairs if masks is not None and i is not None]
    if not some:
        return image
    masks = some[0][0].joined([one for one, _ in some[1:]])
    return np.asarray(draw_masks(Image.fromarray(image), masks, [which for _, which in some]))


def _what(dataset: Dataset, found: Detections, mistake: Mistake) -> str:
    names, truth = dataset.class_names, dataset.annotations(mistake.image)
    there = None if mistake.object is None else names[truth.class_ids[mistake.object]]
    if mistake.detection is None:
        return str(there)
    seen = names[found.class_ids[mistake.detection]]
    score = f"{found.scores[mistake.detection]:.2f}"
    return f"{seen} {score}" if there in (None, seen) else f"{there}, detected as {seen} {score}"


def _window(boxes: npt.NDArray[np.float64], size_hw: tuple[int, int]) -> _Box:
    """The part of the image that a crop shows: around the boxes, and inside the image if that is large enough."""
    height, width = size_hw
    (x1, y1), (x2, y2) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    # The window has the aspect of a tile, so that nothing is distorted.
    shape = TILE_W / TILE_H
    high = max(_SMALLEST, _CONTEXT * max((x2 - x1) / shape, y2 - y1))
    # Not larger than the image, unless the boxes themselves are.
    high = min(high, max(height, width / shape, (x2 - x1) / shape, y2 - y1))
    left = _shift((x1 + x2) / 2, high * shape, width)
    top = _shift((y1 + y2) / 2, high, height)
    return left, top, left + high * shape, top + high


def _shift(centre: float, side: float, length: int) -> float:
    """Where a window of ``side`` begins: inside 0…length, or in the middle of it where it is longer."""
    return (length - side) / 2 if side >= length else min(max(centre - side / 2, 0), length - side)


def _crop(image: npt.NDArray[np.uint8], window: _Box) -> Image.Image:
    """The window resized to a tile, grey outside the image."""
    height, width = image.shape[:2]
    left, top, right, bottom = window
    part = max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)
    x1, y1, x2, y2 = (round(value) for value in _inside(np.array(part), window))
    crop = Image.new("RGB", (TILE_W, TILE_H), _GREY)
    size = max(1, x2 - x1), max(1, y2 - y1)
    # Only the part inside the image: Pillow would fill the rest with black, which could be the image's own.
    crop.paste(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box=part), (x1, y1))
    return crop


def _inside(box: npt.NDArray[np.floating], window: _Box) -> _Box:
    scale = TILE_H / (window[3] - window[1])
    x1, y1, x2, y2 = (float(v - window[i % 2]) * scale for i, v in enumerate(box))
    return x1, y1, x2, y2
