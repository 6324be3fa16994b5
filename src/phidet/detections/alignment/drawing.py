"""Draws an alignment on its image: a frame for each part in its verdict's colour, and deviations as enlarged arrows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from phidet.detections.alignment.results import Alignment, PartResult, Verdict
from phidet.detections.draw import draw_boxes, draw_frame, line_width

# Numbers of detections.draw's palette, which colour-blind people can tell apart: green only for right parts.
_COLOURS: dict[Verdict, int] = {
    "right": 2,
    "displaced": 0,
    "rotated": 3,
    "wrong label": 4,
    "missing": 5,
    "extra": 1,
    "outside": 6,
}
_RIGHT = (0, 158, 115)
_ARROW = (255, 255, 255)
_ARROW_LENGTH = 0.04  # of the image's diagonal, for the 90th percentile of the deviations


def draw_alignment(image: npt.NDArray[np.uint8], alignment: Alignment) -> Image.Image:
    """A copy of (H, W, 3) uint8 RGB with every part's frame; the faults have labels, "R12 displaced".

    Deviations of right and displaced parts are lines from the expected place, all enlarged by the same factor, which a
    note in the corner tells. An image without a pose is returned as it is.
    """
    drawn = Image.fromarray(image)
    if alignment.pose is None:
        return drawn
    pen = ImageDraw.Draw(drawn, "RGBA")
    width = line_width(drawn.size)
    for part in alignment.parts:
        if part.verdict == "right" and part.box_xyxy is not None:
            draw_frame(pen, part.box_xyxy, _RIGHT, max(1, width // 2))
    faults = [part for part in alignment.parts if part.verdict not in ("right", "outside")]
    boxes = np.array([_box(part, alignment) for part in faults], np.float32).reshape(-1, 4)
    texts = [f"{part.reference or part.found_label} {part.verdict}" for part in faults]
    drawn = draw_boxes(drawn, boxes, [_COLOURS[part.verdict] for part in faults], texts)
    _draw_deviations(drawn, alignment, width)
    return drawn


def _draw_deviations(drawn: Image.Image, alignment: Alignment, width: int) -> None:
    moved = [
        (np.array(part.expected_px), np.array(part.xy_px) - part.expected_px)
        for part in alignment.parts
        if part.xy_px is not None and part.expected_px is not None and part.verdict in ("right", "displaced")
    ]
    if not moved:
        return
    lengths = [float(np.hypot(*offset)) for _, offset in moved]
    factor = _ARROW_LENGTH * float(np.hypot(*drawn.size)) / max(float(np.percentile(lengths, 90)), 1e-9)
    # One digit, so that the note is easy to calculate with; never smaller than life.
    digit = 10 ** np.floor(np.log10(max(factor, 1.0)))
    factor = max(1.0, float(np.floor(factor / digit) * digit))
    pen = ImageDraw.Draw(drawn, "RGBA")
    for start, offset in moved:
        end = start + factor * offset
        for colour, wide in (((0, 0, 0, 160), max(1, width // 2) + 2), (_ARROW, max(1, width // 2))):
            pen.line([tuple(start.tolist()), tuple(end.tolist())], colour, wide)
        r = max(1.0, width * 0.8)
        pen.ellipse([*(end - r).tolist(), *(end + r).tolist()], _ARROW, (0, 0, 0, 160))
    pen.text((4, drawn.height - 14), f"deviations × {factor:g}", _ARROW, stroke_width=1, stroke_fill=(0, 0, 0))


def _box(part: PartResult, alignment: Alignment) -> tuple[float, float, float, float]:
    """Of the detection; around the expected place, as large as the median part, where there is none."""
    if part.box_xyxy is not None:
        return part.box_xyxy
    boxes = np.array([one.box_xyxy for one in alignment.parts if one.box_xyxy is not None]).reshape(-1, 4)
    half = float(np.median(boxes[:, 2:] - boxes[:, :2])) / 2 if len(boxes) else 8.0
    x, y = part.expected_px or part.xy_px or (0.0, 0.0)
    return x - half, y - half, x + half, y + half
