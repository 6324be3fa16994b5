"""Contact sheets: images with boxes and class names as tiles, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from phidet.core.files import write_atomic_with
from phidet.detections.boxes import area
from phidet.detections.draw import PALETTE, draw_boxes, shorten
from phidet.detections.draw import colour as colour_of
from phidet.images.style import INK, font

PAPER, FAINT, ALARM = "#FFFFFF", "#8A8A8A", "#D55E00"
TILE_W, TILE_H, GAP, STRIP = 400, 300, 16, 44  # pixels; a tile, the space between tiles, the text under one
_NAME_END = 16  # letters kept at the end of a shortened text: a file name differs from others there


class Tile(NamedTuple):
    """One image of a sheet.

    Attributes:
        title, subtitle: texts below it.
        image: (H, W, 3), ``None`` if it cannot be shown.
        boxes_xyxy: (N, 4) in pixels of the image.
        labels: of the boxes; "" for none.
        colours: of the boxes, numbers in the palette.
        marks_xyxy: invalid boxes to ring, perhaps without area or outside the image.
        alarm: whether the title is highlighted.
    """

    title: str
    subtitle: str
    image: npt.NDArray[np.uint8] | None = None
    boxes_xyxy: npt.NDArray[np.float32] = np.zeros((0, 4), np.float32)
    labels: Sequence[str] = ()
    colours: Sequence[int] = ()
    marks_xyxy: Sequence[tuple[float, ...]] = ()
    alarm: bool = False


def class_legend(class_names: Sequence[str]) -> list[tuple[str, int]]:
    """The legend (name, colour) of a sheet; empty if there are more classes than colours."""
    return [(name, i) for i, name in enumerate(class_names)] if len(class_names) <= len(PALETTE) else []


def write_sheet(sheet: Image.Image, path: Path) -> Path:
    """Writes a sheet as PNG, atomically; returns its path."""
    return write_atomic_with(path, partial(sheet.save, format="png"))


def draw_sheet(
    heading: str, tiles: Sequence[Tile], columns: int = 4, legend: Sequence[tuple[str, int]] = ()
) -> Image.Image:
    """Tiles row by row under a heading, with a legend of (name, colour) beside it."""
    rows = -(-len(tiles) // columns)
    width = columns * (TILE_W + GAP) + GAP
    sheet = Image.new("RGB", (width, 64 + rows * (TILE_H + STRIP + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    heading = _fitted(heading, font(24, bold=True), width - 2 * GAP)
    draw.text((GAP, 16), heading, INK, font(24, bold=True))
    x = GAP + draw.textlength(heading, font(24, bold=True)) + 40
    for name, colour in legend:
        # What does not fit is left out: half a name would be no help.
        end = x + 24 + draw.textlength(name, font(16)) + 24
        if end > width:
            break
        draw.rounded_rectangle((x, 24, x + 16, 40), 3, colour_of(colour))
        draw.text((x + 24, 32), name, INK, font(16), anchor="lm")
        x = end
    for i, tile in enumerate(tiles):
        left = GAP + i % columns * (TILE_W + GAP)
        top = 64 + i // columns * (TILE_H + STRIP + GAP)
        sheet.paste(draw_tile(tile), (left, top))
    return sheet


def draw_tile(tile: Tile) -> Image.Image:
    """One tile with its text, (TILE_H + STRIP, TILE_W)."""
    image = Image.new("RGB", (TILE_W, TILE_H + STRIP), PAPER)
    draw = ImageDraw.Draw(image)
    bottom = TILE_H
    if tile.image is None:
        draw.rectangle((0, 0, TILE_W - 1, TILE_H - 1), "#EFEFEF")
        # A cross in place of an image that cannot be read.
        draw.line((TILE_W / 2 - 40, TILE_H / 2 - 40, TILE_W / 2 + 40, TILE_H / 2 + 40), FAINT, 6)
        draw.line((TILE_W / 2 - 40, TILE_H / 2 + 40, TILE_W / 2 + 40, TILE_H / 2 - 40), FAINT, 6)
    else:
        height, width = tile.image.shape[:2]
        # Small images are enlarged, but at most four times: beyond that they only show blocks.
        scale = min(TILE_W / width, TILE_H / height, 4.0)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        bottom = size[1]
        fitted = Image.fromarray(tile.image).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        fitted = _draw_boxes(fitted, tile, scale)
        image.paste(fitted, ((TILE_W - size[0]) // 2, TILE_H - bottom))
    title = _fitted(tile.title, font(15, bold=True), TILE_W)
    draw.text((0, TILE_H + 5), title, ALARM if tile.alarm else INK, font(15, bold=True))
    draw.text((0, TILE_H + 24), _fitted(tile.subtitle, font(13), TILE_W), "#555555", font(13))
    return image


def _fitted(text: str, with_font: ImageFont.FreeTypeFont, width: float) -> str:
    return shorten(text, lambda part: with_font.getlength(part) <= width, end=min(_NAME_END, len(text) // 2))


def _draw_boxes(image: Image.Image, tile: Tile, scale: float) -> Image.Image:
    order = np.argsort(area(tile.boxes_xyxy), kind="stable")  # ascending: the first ones are drawn on top
    colours, labels = ([values[i] for i in order] for values in (tile.colours, tile.labels))
    image = draw_boxes(image, tile.boxes_xyxy[order] * scale, colours, labels, width=2, overlap=False)
    pen = ImageDraw.Draw(image)
    for mark in tile.marks_xyxy:
        _draw_mark(pen, [value * scale for value in mark], image.size)
    return image


def _draw_mark(draw: ImageDraw.ImageDraw, box: list[float], size: tuple[int, int]) -> None:
    """A ring around a box, or around the point of the image nearest to it."""
    x1, x2 = (min(max(x, 0.0), size[0] - 1.0) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), size[1] - 1.0) for y in (box[1], box[3]))
    (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
    ring = x1 - 12, y1 - 12, x2 + 12, y2 + 12
    draw.rounded_rectangle((ring[0] - 1, ring[1] - 1, ring[2] + 1, ring[3] + 1), 12, outline="white", width=5)
    draw.rounded_rectangle(ring, 12, outline=ALARM, width=3)
