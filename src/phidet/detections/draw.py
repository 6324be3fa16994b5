"""Draws boxes and labels on an image, readable at any image size and on light and dark backgrounds."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from statistics import median

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

# M. Okabe and K. Ito's colours, distinguishable for colour-blind people; those with most contrast in photos first.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
_CASING = (0, 0, 0, 150)  # a dark edge on both sides, so that a frame is visible on a background of its own colour
_INK = ((0, 0, 0), (255, 255, 255))
_SMALLEST_FONT, _LARGEST_FONT = 11, 160  # pixels
# For letters that Pillow's own font lacks: fonts of Linux, macOS and Windows, those that are installed most first.
_OTHER_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf", "segoeui.ttf"),
    *("NotoSansCJK-Regular.ttc", "PingFang.ttc", "msyh.ttc", "malgun.ttf", "Hiragino Sans GB.ttc"),
)
_NO_GLYPH = "\U0010ffff"  # a noncharacter, which no font has a glyph for

Box = tuple[float, float, float, float]
Boxes = npt.NDArray[np.float64]


def colour(class_id: int) -> tuple[int, int, int]:
    """RGB of a class: seven hues, then the same ones darker and lighter."""
    rgb = tuple(int(PALETTE[class_id % len(PALETTE)][i : i + 2], 16) for i in (1, 3, 5))
    turn = class_id // len(PALETTE) % 3
    r, g, b = (v if turn == 0 else round(v * 0.6) if turn == 1 else round(255 - (255 - v) * 0.5) for v in rgb)
    return r, g, b


def draw_boxes(
    image: Image.Image,
    boxes_xyxy: npt.NDArray[np.float32],
    class_ids: Sequence[int] | npt.NDArray[np.int64],
    labels: Sequence[str],
    width: int | None = None,
    *,
    overlap: bool = True,
    framed: npt.NDArray[np.bool_] | None = None,
) -> Image.Image:
    """A copy of the image with a framed box and a label for each object; the first ones are drawn on top.

    Frames and labels stay inside the image. A label is placed above its box unless it would hide another label, else
    inside or below; one that is wider than the image is shortened, and one higher than a quarter of it is left out.

    Args:
        image: RGB.
        boxes_xyxy: (N, 4) in pixels of the image, clipped to it.
        class_ids: (N,), which select the colours.
        labels: N texts.
        width: of frames, in pixels; :func:`line_width` unless given.
        overlap: whether a label may hide another one; otherwise it is left out.
        framed: (N,), which boxes get a frame; all unless given.
    """
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn, "RGBA")  # this mode blends transparent colours
    width = width or line_width(image.size)
    limit = np.array([image.width, image.height] * 2)
    boxes = [tuple(box) for box in np.clip(boxes_xyxy.astype(np.float64), 0, limit).tolist()]
    seen = [x2 > x1 and y2 > y1 for x1, y1, x2, y2 in boxes]
    order = [i for i in range(len(boxes)) if seen[i]]
    for i in reversed(order if framed is None else [i for i in order if framed[i]]):
        draw_frame(pen, boxes[i], colour(int(class_ids[i])), width)
    named = [(boxes[i], labels[i], colour(int(class_ids[i]))) for i in order]
    _draw_labels(pen, image.size, named, width, overlap)
    return drawn


def line_width(size_wh: tuple[int, int]) -> int:
    """Width of frames in pixels: 2 at 640×480, 15 at 4,000×3,000."""
    return max(1, round(math.sqrt(size_wh[0] * size_wh[1]) / 230))


def font_size(size_wh: tuple[int, int], boxes: Sequence[Box] = ()) -> int:
    """Size of labels in pixels: 13 at 640×480, 82 at 4,000×3,000; down to half of it if most boxes are small."""
    full = math.sqrt(size_wh[0] * size_wh[1]) / 42
    sides = [math.sqrt((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in boxes]
    fitting = min(full, max(full / 2, median(sides) / 5)) if sides else full
    return min(_LARGEST_FONT, max(_SMALLEST_FONT, round(fitting)))


def draw_frame(
    pen: ImageDraw.ImageDraw, box: Sequence[float], rgb: tuple[int, int, int], width: int, dashed: bool = False
) -> None:
    """Draws an outline inside the box's own pixels, thinner for a small box; ``pen`` must blend (mode RGBA)."""
    x1, y1 = int(box[0]), int(box[1])
    x2, y2 = max(x1, int(np.ceil(box[2])) - 1), max(y1, int(np.ceil(box[3])) - 1)
    width = max(1, min(width, (min(x2 - x1, y2 - y1) + 1) // 6))
    edge = max(1, width // 3)
    # Dark edges only where some of the object remains visible between them.
    if min(x2 - x1, y2 - y1) >= 4 * edge + 2 * width:
        pen.rectangle((x1, y1, x2, y2), outline=_CASING, width=edge)
        inner = edge + width
        pen.rectangle((x1 + inner, y1 + inner, x2 - inner, y2 - inner), outline=_CASING, width=edge)
        x1, y1, x2, y2 = x1 + edge, y1 + edge, x2 - edge, y2 - edge
    if not dashed:
        pen.rectangle((x1, y1, x2, y2), outline=rgb, width=width)
        return
    pen.rectangle((x1, y1, x2, y2), outline=_CASING, width=width)  # shows between the dashes
    # Pillow draws no dashed lines, so each dash is a rectangle.
    dash, step = 7 + 2 * width, 9 + 3 * width
    for x in range(x1, x2, step):
        for y in (y1, y2 - width + 1):
            pen.rectangle((x, y, min(x + dash, x2), y + width - 1), rgb)
    for y in range(y1, y2, step):
        for x in (x1, x2 - width + 1):
            pen.rectangle((x, y, x + width - 1, min(y + dash, y2)), rgb)


def _draw_labels(
    pen: ImageDraw.ImageDraw,
    size_wh: tuple[int, int],
    labels: Sequence[tuple[Box, str, tuple[int, int, int]]],
    width: int,
    overlap: bool,
) -> None:
    size = font_size(size_wh, [box for box, _, _ in labels])
    pad = max(2, size // 4)
    placed = np.empty((len(labels), 4))  # those of the texts so far
    texts: list[tuple[Box, str, ImageFont.FreeTypeFont, tuple[int, int, int]]] = []
    for box, label, rgb in labels:
        # Placed in order of importance, so that the best objects get the best places.
        font, text = _fitting(label, size, size_wh[0] - 2 * pad)
        ascent, descent = font.getmetrics()
        wide, high = math.ceil(font.getlength(text)) + 2 * pad, ascent + descent + pad
        if not text or high > size_wh[1] / 4:
            continue
        before = placed[: len(texts)]
        x, y = _place(box, (wide, high), size_wh, before)
        rect = (x, y, x + wide, y + high)
        if not overlap and _overlaps(rect, before).any():
            continue
        placed[len(texts)] = rect
        texts.append((rect, text, font, rgb))
    for (x1, y1, x2, y2), text, font, rgb in reversed(texts):  # the first ones on top
        pen.rounded_rectangle((x1, y1, x2 - 1, y2 - 1), max(1, pad // 2), rgb, _CASING, max(1, width // 3))
        pen.text((x1 + pad, y1 + pad // 2), text, _ink(rgb), font)


def _place(box: Box, label_wh: tuple[int, int], size_wh: tuple[int, int], placed: Boxes) -> tuple[int, int]:
    """The upper left corner of a label: of six places around the box, the one that hides least."""
    (x1, y1, x2, y2), (wide, high) = box, label_wh
    places = [(x1, y1 - high), (x1, y1), (x2 - wide, y1 - high), (x1, y2), (x1, y2 - high), (x2 - wide, y2)]
    best, least = (0, 0), float("inf")
    for x, y in places:
        left = int(min(max(0, x), size_wh[0] - wide))
        top = int(min(max(0, y), size_wh[1] - high))
        moved = abs(top - y) > 1  # moved back into the image, it covers its own box
        hidden = float(_overlaps((left, top, left + wide, top + high), placed).sum()) + moved
        if hidden < least:
            best, least = (left, top), hidden
        if not least:
            break
    return best


def _overlaps(box: Box, others: Boxes) -> npt.NDArray[np.float64]:
    """(N,) areas that the box has in common with N others."""
    corners = np.maximum(others[:, :2], box[:2])
    sides = np.maximum(np.minimum(others[:, 2:], box[2:]) - corners, 0)
    common: npt.NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return common


def _ink(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out more from ``rgb`` (WCAG 2 relative luminance)."""
    linear = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _INK[luminance < 0.179]  # the luminance of equal contrast to black and white


def _fitting(text: str, size: int, width: float) -> tuple[ImageFont.FreeTypeFont, str]:
    """A font that has the text's letters, and as much of the text as fits ``width`` pixels; "" if not one letter does.

    The last word, the score, is kept as long as possible.
    """
    font, text = font_for(" ".join(text.split()), size)  # a line break would run out of the label
    score = len(text) - text.rfind(" ") if " " in text else 0
    short = shorten(text, lambda part: font.getlength(part) <= width, score)
    return font, short or shorten(text, lambda part: font.getlength(part) <= width)


def shorten(text: str, fits: Callable[[str], bool], end: int = 0) -> str:
    """The text if it fits, else as much of its beginning as fits, "…" and its last ``end`` letters; or nothing."""
    if fits(text):
        return text
    tail = "…" + text[len(text) - end :]
    parts = (text[:length] + tail for length in range(len(text) - end - 1, 0, -1))
    return next((part for part in parts if fits(part)), "")


@cache
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont | None:
    """A system font by its file name, or Pillow's own (``None``); returns ``None`` if it is not installed."""
    if name is None:
        own = ImageFont.load_default(size)
        assert isinstance(own, ImageFont.FreeTypeFont)  # Pillow's wheels have FreeType
        return own
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def font_for(text: str, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """A font and the text as it can show it: unchanged if any font can, else without accents, then with "?"."""
    own = _font(None, size)
    assert own is not None
    if text.isascii():
        return own, text
    for name in (None, *_OTHER_FONTS):
        font = _font(name, size)
        if font is not None and all(_has(name, c) for c in set(text)):
            return font, text
    # NFKD splits a letter into its base and its accents, which are then dropped.
    plain = (
        "".join(p for p in unicodedata.normalize("NFKD", c) if not unicodedata.combining(p)) if not _has(None, c) else c
        for c in text
    )
    return own, "".join(c if _has(None, c) else "?" for c in "".join(plain))


@cache
def _has(name: str | None, letter: str) -> bool:
    """Whether the font has the letter: whether it draws it differently from a letter that no font has."""
    font = _font(name, 24)
    if font is None:
        return False
    if letter.isspace():
        return True
    # Pillow cannot be asked for a font's characters, and a missing one is drawn as a box, without an error.
    shape, lacking = font.getmask(letter), font.getmask(_NO_GLYPH)
    return shape.size != lacking.size or bytes(shape) != bytes(lacking)
