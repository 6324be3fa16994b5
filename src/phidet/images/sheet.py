"""Images with boxes and class names as tiles of a sheet, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from phidet.images.style import INK, PALETTE, font

PAPER, FAINT, ALARM = "#FFFFFF", "#8A8A8A", "#D55E00"
TILE_W, TILE_H, GAP, STRIP = 400, 300, 16, 44  # pixels; a tile, the space between tiles, the text under one

_Rect = tuple[float, float, float, float]


class Tile(NamedTuple):
    """A picture of a sheet.

    Attributes:
        title, subtitle: under it.
        image: (H, W, 3), ``None`` where there is none to show.
        boxes_xyxy: (N, 4) in pixels of the image.
        labels: of the boxes; an empty one is not written.
        colours: of the boxes, numbers in the palette.
        marks_xyxy: boxes that are wrong, perhaps without area or outside.
        alarm: whether the title stands out.
    """

    title: str
    subtitle: str
    image: npt.NDArray[np.uint8] | None = None
    boxes_xyxy: npt.NDArray[np.float32] = np.zeros((0, 4), np.float32)
    labels: Sequence[str] = ()
    colours: Sequence[int] = ()
    marks_xyxy: Sequence[tuple[float, ...]] = ()
    alarm: bool = False


def draw_sheet(
    heading: str, tiles: Sequence[Tile], columns: int = 4, legend: Sequence[tuple[str, int]] = ()
) -> Image.Image:
    """Tiles row by row under a heading, with a legend of (name, colour) beside it."""
    rows = -(-len(tiles) // columns)
    width = columns * (TILE_W + GAP) + GAP
    sheet = Image.new("RGB", (width, 64 + rows * (TILE_H + STRIP + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    heading = shorten(heading, font(24, bold=True), width - 2 * GAP)
    draw.text((GAP, 16), heading, INK, font(24, bold=True))
    x = GAP + draw.textlength(heading, font(24, bold=True)) + 40
    for name, colour in legend:
        end = x + 24 + draw.textlength(name, font(16)) + 24
        if end > width:
            break
        draw.rounded_rectangle((x, 24, x + 16, 40), 3, PALETTE[colour % len(PALETTE)])
        draw.text((x + 24, 32), name, INK, font(16), anchor="lm")
        x = end
    for i, tile in enumerate(tiles):
        left = GAP + i % columns * (TILE_W + GAP)
        top = 64 + i // columns * (TILE_H + STRIP + GAP)
        sheet.paste(draw_tile(tile), (left, top))
    return sheet


def draw_tile(tile: Tile) -> Image.Image:
    """One tile with its text, (TILE_H + STRIP, TILE_W)."""
    picture = Image.new("RGB", (TILE_W, TILE_H + STRIP), PAPER)
    draw = ImageDraw.Draw(picture)
    bottom = TILE_H
    if tile.image is None:
        draw.rectangle((0, 0, TILE_W - 1, TILE_H - 1), "#EFEFEF")
        draw.line((TILE_W / 2 - 40, TILE_H / 2 - 40, TILE_W / 2 + 40, TILE_H / 2 + 40), FAINT, 6)
        draw.line((TILE_W / 2 - 40, TILE_H / 2 + 40, TILE_W / 2 + 40, TILE_H / 2 - 40), FAINT, 6)
    else:
        height, width = tile.image.shape[:2]
        scale = min(TILE_W / width, TILE_H / height, 4.0)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        bottom = size[1]
        fitted = Image.fromarray(tile.image).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        _draw_boxes(fitted, tile, scale)
        picture.paste(fitted, ((TILE_W - size[0]) // 2, TILE_H - bottom))
    title = shorten(tile.title, font(15, bold=True), TILE_W)
    draw.text((0, TILE_H + 5), title, ALARM if tile.alarm else INK, font(15, bold=True))
    draw.text((0, TILE_H + 24), shorten(tile.subtitle, font(13), TILE_W), "#555555", font(13))
    return picture


def shorten(text: str, with_font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, without its middle where it is too wide."""
    if with_font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and with_font.getlength(_without_middle(text, keep)) > width:
        keep -= 1
    return _without_middle(text, keep)


def _without_middle(text: str, keep: int) -> str:
    return text[: keep - keep // 2] + "…" + text[len(text) - keep // 2 :]


def _draw_boxes(picture: Image.Image, tile: Tile, scale: float) -> None:
    draw = ImageDraw.Draw(picture, "RGBA")
    boxes = [tuple(float(side) * scale for side in box) for box in tile.boxes_xyxy]
    order = sorted(range(len(boxes)), key=lambda i: -_area(boxes[i]))  # small ones on top
    for i in order:
        x1, y1, x2, y2 = boxes[i]
        colour = PALETTE[tile.colours[i] % len(PALETTE)]
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0, 110))
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=2)
    taken: list[_Rect] = []
    for i in order:
        rect = _place(draw.textlength(tile.labels[i], font(12)) + 8, i, boxes, picture.size, taken)
        if tile.labels[i] and rect is not None:
            taken.append(rect)
            _write_label(draw, tile.labels[i], rect, PALETTE[tile.colours[i] % len(PALETTE)])
    for mark in tile.marks_xyxy:
        _draw_mark(draw, [value * scale for value in mark], picture.size)


def _place(
    width: float, own: int, boxes: Sequence[tuple[float, ...]], size: tuple[int, int], taken: Sequence[_Rect]
) -> _Rect | None:
    """Where box ``own`` is named: by its corners, where no name stands yet and least is hidden of any box."""
    height = 17
    x1, y1, x2, y2 = boxes[own]
    best, least = None, float("inf")
    for x, y in [(x, y) for y in (y1 - height - 1, y2 + 1, y1, y2 - height) for x in (x1, x2 - width)]:
        x = min(max(x, 0), size[0] - width)
        rect = x, y, x + width, y + height
        if x < 0 or y < 0 or y + height > size[1] or any(_overlap(rect, other) > 0 for other in taken):
            continue
        hidden = sum(_overlap(rect, box) / max(_area(box), 1.0) for box in boxes)
        if hidden < least:
            best, least = rect, hidden
    return best


def _write_label(draw: ImageDraw.ImageDraw, text: str, rect: _Rect, colour: str) -> None:
    draw.rounded_rectangle(rect, 3, colour)
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    draw.text((rect[0] + 4, (rect[1] + rect[3]) / 2), text, "white" if dark else "black", font(12), anchor="lm")


def _draw_mark(draw: ImageDraw.ImageDraw, box: list[float], size: tuple[int, int]) -> None:
    """A ring about a box, or about the point of the image nearest to it."""
    x1, x2 = (min(max(x, 0.0), size[0] - 1.0) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), size[1] - 1.0) for y in (box[1], box[3]))
    (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
    ring = x1 - 12, y1 - 12, x2 + 12, y2 + 12
    draw.rounded_rectangle((ring[0] - 1, ring[1] - 1, ring[2] + 1, ring[3] + 1), 12, outline="white", width=5)
    draw.rounded_rectangle(ring, 12, outline=ALARM, width=3)


def _area(box: tuple[float, ...]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
