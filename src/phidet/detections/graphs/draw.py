"""Draws the edges of a graph on its image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from phidet.detections.detections import Detections
from phidet.detections.draw import colour, draw_boxes, line_width
from phidet.images.decode import as_pil_image

_LINE = (255, 255, 255, 230)
_CASING = (0, 0, 0, 170)  # a dark edge on both sides, so that lines show on light backgrounds too


def draw_graph(
    image: Path | str | Image.Image | npt.NDArray[np.uint8],
    detections: Detections,
    ends_xy: npt.NDArray[np.float64],
    clusters: npt.NDArray[np.int64] | None = None,
) -> Image.Image:
    """A copy of ``image`` with lines between nodes, a dot on each node, and with ``clusters`` a frame in its colour.

    Args:
        image: a path, a Pillow image, or (H, W, 3) uint8 RGB.
        detections: the nodes.
        ends_xy: (2, K, 2) both ends of each line, pixels.
        clusters: (N,) numbers of clusters, −1 for none.
    """
    drawn = as_pil_image(image).copy()
    if clusters is not None:
        # Class 2 of the palette is far from grey; nodes without a cluster keep one colour of their own.
        labels = [f"{d.label} {c}" if c >= 0 else d.label for d, c in zip(detections, clusters.tolist(), strict=True)]
        drawn = draw_boxes(drawn, detections.boxes_xyxy, np.where(clusters < 0, 0, clusters + 1), labels)
    width = line_width(drawn.size)
    pen = ImageDraw.Draw(drawn, "RGBA")  # this mode blends transparent colours
    lines = [(*start, *end) for start, end in zip(*ends_xy.tolist(), strict=True)]
    # All casings before all lines: a casing must not cut a line that it crosses.
    for line in lines:
        pen.line(line, _CASING, width + 2)
    for line in lines:
        pen.line(line, _LINE, width)
    for number, (x1, y1, x2, y2) in enumerate(detections.boxes_xyxy.tolist()):
        x, y, r = (x1 + x2) / 2, (y1 + y2) / 2, 1.5 * width
        group = int(detections.class_ids[number]) if clusters is None else max(int(clusters[number]) + 1, 0)
        pen.ellipse((x - r, y - r, x + r, y + r), colour(group), _CASING, max(1, width // 2))
    return drawn
