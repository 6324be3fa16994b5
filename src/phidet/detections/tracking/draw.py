"""Draws tracks: boxes in the colours of their ids, the ways that objects came, lines and zones with their counts."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from phidet.detections.detections import Detections
from phidet.detections.draw import colour, draw_boxes, font_for, font_size, line_width
from phidet.detections.fields import TRACK_ID
from phidet.detections.tracking.counting import Counter, anchors_of
from phidet.detections.tracking.places import Place

_TRAIL_S = 1.5
_PLACE_COLOUR = (255, 255, 255)


class TrackDrawer:
    """Draws one frame after the other.

    Attributes:
        counter: whose places and totals are drawn, of the video that is being read; ``None`` for none.
    """

    def __init__(self) -> None:
        self.counter: Counter | None = None
        self._trails: dict[int, deque[tuple[float, float, float]]] = {}

    def draw(self, image: npt.NDArray[np.uint8], tracked: Detections, time_s: float) -> Image.Image:
        """A copy of the frame, (H, W, 3) uint8 RGB, with its tracks and those places."""
        ids = np.asarray(tracked.fields[TRACK_ID])
        self._remember(ids, tracked, time_s)
        shown = Image.fromarray(image)
        pen = ImageDraw.Draw(shown, "RGBA")
        width = line_width(shown.size)
        # Below the boxes, and so before them.
        for track_id, trail in self._trails.items():
            if len(trail) > 1:
                pen.line([(x, y) for _, x, y in trail], fill=(*colour(track_id), 200), width=width, joint="curve")
        # Coloured by id, not by class: what matters is which one of many it is.
        labels = [f"{label} {track_id}" for label, track_id in zip(tracked.labels, ids.tolist(), strict=True)]
        shown = draw_boxes(shown, tracked.boxes_xyxy, ids, labels)
        if self.counter is not None:
            draw_places(shown, self.counter)
        return shown

    def _remember(self, ids: npt.NDArray[np.int64], tracked: Detections, time_s: float) -> None:
        for track_id, (x, y) in zip(ids.tolist(), anchors_of(tracked, "bottom").tolist(), strict=True):
            self._trails.setdefault(track_id, deque()).append((time_s, x, y))
        for track_id, trail in list(self._trails.items()):
            while trail and not time_s - _TRAIL_S <= trail[0][0] <= time_s:
                trail.popleft()  # too old, or of the video before
            if not trail:
                del self._trails[track_id]


def draw_places(image: Image.Image, counter: Counter) -> None:
    """Draws lines and zones on the image, each with its name and numbers."""
    pen = ImageDraw.Draw(image, "RGBA")
    size = font_size(image.size)
    width, pad = line_width(image.size), max(2, size // 4)
    for place in counter.settings.places:
        points = [(x, y) for x, y in place.in_pixels((image.height, image.width)).tolist()]
        outline = points if place.is_line else [*points, points[0]]
        if not place.is_line:
            pen.polygon(points, fill=(*_PLACE_COLOUR, 36))
        # Light on dark: one of the two is seen on any ground.
        pen.line(outline, fill=(0, 0, 0, 170), width=width + 2)
        pen.line(outline, fill=_PLACE_COLOUR, width=width)
        font, text = font_for(describe(place, counter), size)
        left, top, right, bottom = pen.textbbox((0, 0), text, font)
        wide, high = right - left + 2 * pad, bottom - top + 2 * pad
        # Beside the middle of a line, in the middle of a zone, and always inside the image.
        x = sum(x for x, _ in points) / len(points) - wide / 2
        y = sum(y for _, y in points) / len(points) - (high + width if place.is_line else high / 2)
        x, y = min(max(x, 0), max(0, image.width - wide)), min(max(y, 0), max(0, image.height - high))
        pen.rounded_rectangle((x, y, x + wide, y + high), pad, (0, 0, 0, 190))
        pen.text((x + pad - left, y + pad - top), text, _PLACE_COLOUR, font)


def describe(place: Place, counter: Counter) -> str:
    """``door: 3 in, 2 out`` of a line, ``queue: 4 inside`` of a zone; all classes together."""
    totals = counter.totals[place.name].values()
    if place.is_line:
        return f"{place.name}: {sum(t.in_ for t in totals)} in, {sum(t.out for t in totals)} out"
    return f"{place.name}: {sum(t.inside for t in totals)} inside"
