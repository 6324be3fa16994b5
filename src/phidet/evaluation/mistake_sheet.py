"""The worst mistakes as one picture: crops with what is there and what was detected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.evaluation.mistakes import Mistake
from phidet.images.style import INK, PALETTE, font

TRUTH, FOUND = PALETTE[4], PALETTE[1]  # sky and orange
_TITLES = {
    "missed": "Missed",
    "false positive": "Nothing there",
    "wrong class": "Wrong class",
    "poor box": "Poor box",
    "double": "Found twice",
}
_GREY = "#666666"
_TILE, _GAP, _TEXT, _HEAD = 300, 16, 78, 62  # pixels: crop, space between, text under, heading
_CONTEXT = 2.2  # side of the crop over the longer side of what it shows
_SMALLEST = 64  # pixels of the image that a crop shows at least

_Box = tuple[float, float, float, float]


def draw_mistakes(
    dataset: Dataset, detections: Sequence[Detections], mistakes: Sequence[Mistake], columns: int = 5
) -> Image.Image:
    """A tile for each mistake, row by row: a square crop, what is there dashed in blue, what was detected in orange.

    The boxes that the mistake is about are thick; other objects of the crop are thin. Under it stand kind, classes,
    score and image. An image that cannot be decoded leaves a grey tile.
    """
    columns = max(3, min(columns, len(mistakes)))
    rows = -(-len(mistakes) // columns)
    width = columns * (_TILE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _HEAD + max(1, rows) * (_TILE + _TEXT)), "white")
    _heading(ImageDraw.Draw(sheet), width)
    if not mistakes:
        ImageDraw.Draw(sheet).text((width / 2, _HEAD + _TILE / 2), "No mistakes", _GREY, font(22), anchor="mm")
    for i, mistake in enumerate(mistakes):
        corner = (_GAP + i % columns * (_TILE + _GAP), _HEAD + i // columns * (_TILE + _TEXT))
        sheet.paste(_tile(dataset, detections[mistake.image], mistake), corner)
    return sheet


def _heading(draw: ImageDraw.ImageDraw, width: int) -> None:
    draw.text((_GAP, 30), "The worst mistakes", INK, font(24, bold=True), anchor="lm")
    x = float(width - _GAP)
    for text, colour, dashed in (("detected", FOUND, False), ("what is there", TRUTH, True)):
        x -= draw.textlength(text, font(15))
        draw.text((x, 30), text, INK, font(15), anchor="lm")
        x -= 38
        _rectangle(draw, (x, 22, x + 28, 38), colour, 3, dashed)
        x -= 22


def _tile(dataset: Dataset, found: Detections, mistake: Mistake) -> Image.Image:
    tile = Image.new("RGB", (_TILE, _TILE + _TEXT), "white")
    draw = ImageDraw.Draw(tile)
    truth = dataset.annotations(mistake.image)
    focus = []
    if mistake.object is not None:
        focus.append(truth.boxes_xyxy[mistake.object])
    if mistake.detection is not None:
        focus.append(found.boxes_xyxy[mistake.detection])
    try:
        image = dataset.image(mistake.image)
    except InputError:
        draw.rectangle((0, 0, _TILE, _TILE), "#E4E4E4")
        draw.text((_TILE / 2, _TILE / 2), "cannot be decoded", _GREY, font(15), anchor="mm")
    else:
        window = _window(np.stack(focus).astype(np.float64), dataset.size_hw(mistake.image))
        picture = _crop(image, window)
        pen = ImageDraw.Draw(picture)
        for o, box in enumerate(truth.boxes_xyxy):
            if o != mistake.object:
                _rectangle(pen, _inside(box, window), TRUTH, 2, dashed=True)
        if mistake.detection is not None:
            _rectangle(pen, _inside(found.boxes_xyxy[mistake.detection], window), FOUND, 3, dashed=False)
        if mistake.object is not None:
            _rectangle(pen, _inside(truth.boxes_xyxy[mistake.object], window), TRUTH, 3, dashed=True)
        tile.paste(picture, (0, 0))
    draw.text((0, _TILE + 5), _TITLES[mistake.kind], INK, font(15, bold=True))
    draw.text((0, _TILE + 25), _fit(_what(dataset, found, mistake), 14, _TILE), INK, font(14))
    draw.text((0, _TILE + 44), _fit(str(dataset.names[mistake.image]), 12, _TILE), _GREY, font(12))
    return tile


def _what(dataset: Dataset, found: Detections, mistake: Mistake) -> str:
    names, truth = dataset.class_names, dataset.annotations(mistake.image)
    there = None if mistake.object is None else names[truth.class_ids[mistake.object]]
    if mistake.detection is None:
        return str(there)
    seen = names[found.class_ids[mistake.detection]]
    score = f"{found.scores[mistake.detection]:.2f}"
    return f"{seen} {score}" if there in (None, seen) else f"{there}, seen as {seen} {score}"


def _window(boxes: npt.NDArray[np.float64], size_hw: tuple[int, int]) -> _Box:
    """The square of the image that a crop shows: about the boxes, inside the image as far as that has room."""
    height, width = size_hw
    (x1, y1), (x2, y2) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    side = max(_SMALLEST, _CONTEXT * max(x2 - x1, y2 - y1))
    side = min(side, max(height, width, x2 - x1, y2 - y1))
    left = _shift((x1 + x2) / 2, side, width)
    top = _shift((y1 + y2) / 2, side, height)
    return left, top, left + side, top + side


def _shift(centre: float, side: float, length: int) -> float:
    """Where a window of ``side`` begins: inside 0…length, or in the middle of it where it is longer."""
    return (length - side) / 2 if side >= length else min(max(centre - side / 2, 0), length - side)


def _crop(image: npt.NDArray[np.uint8], window: _Box) -> Image.Image:
    """The window as a tile, grey where it leaves the image."""
    left, top, right, bottom = window
    scale = _TILE / (right - left)
    height, width = image.shape[:2]
    x1, y1, x2, y2 = max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)
    picture = Image.new("RGB", (_TILE, _TILE), "#E4E4E4")
    size = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    part = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box=(x1, y1, x2, y2))
    picture.paste(part, (round((x1 - left) * scale), round((y1 - top) * scale)))
    return picture


def _inside(box: npt.NDArray[np.float32], window: _Box) -> _Box:
    scale = _TILE / (window[2] - window[0])
    x1, y1, x2, y2 = (float(v - window[i % 2]) * scale for i, v in enumerate(box))
    return x1, y1, x2, y2


def _rectangle(draw: ImageDraw.ImageDraw, box: _Box, colour: str, width: int, dashed: bool) -> None:
    """An outline, a thick one on black, which stands out from any picture and shows between dashes."""
    x1, y1, x2, y2 = (round(value) for value in box)
    if width > 2:
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=width + 2)
    if not dashed:
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)
        return
    dash, step = 7 + 2 * width, 9 + 3 * width
    for start in range(x1, x2, step):
        end = min(start + dash, x2)
        draw.rectangle((start, y1, end, y1 + width - 1), colour)
        draw.rectangle((start, y2 - width + 1, end, y2), colour)
    for start in range(y1, y2, step):
        end = min(start + dash, y2)
        draw.rectangle((x1, start, x1 + width - 1, end), colour)
        draw.rectangle((x2 - width + 1, start, x2, end), colour)


def _fit(text: str, size: int, width: float) -> str:
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
