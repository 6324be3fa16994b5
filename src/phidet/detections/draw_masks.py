"""Draws masks on an image: filled with their class's colour, and with edges that keep touching objects apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.detections.draw import colour, line_width
from phidet.detections.masks import Masks

_FILL = 0.4  # opacity of the colour inside a mask
_SHARE = 16  # how many lines fit the side of a usual object, at least
_CASING = 0.75  # of the dark line at its border, which separates objects of one colour


def draw_masks(
    image: Image.Image, masks: Masks, class_ids: Sequence[int] | npt.NDArray[np.int64], width: int | None = None
) -> Image.Image:
    """A copy of the image with every mask filled and outlined; of overlapping ones the first is on top.

    An outline is a line of the full colour inside the mask and a dark one at its very border, so that two objects that
    touch are two also where they have one colour.

    Args:
        image: RGB, of the masks' size.
        masks: N.
        class_ids: (N,), which select the colours.
        width: of outlines, in pixels; unless given that of frames, less where most masks are small.
    """
    boxes = masks.boxes_xyxy.astype(np.int64)
    drawn = image.copy()
    if not boxes.any():
        return drawn
    # One image of the topmost mask of every pixel: edges are then found once, not object by object.
    # With a pixel around all masks, as they end where a neighbour differs.
    (x1, y1), (x2, y2) = np.maximum(boxes[boxes.any(1)].min(0)[:2] - 1, 0), boxes.max(0)[2:] + 1
    # Turned, as masks lie in memory column by column; 16 bits are enough for all but odd cases.
    owner = masks.to_ids(dtype=np.uint16 if len(masks) < 2**16 else np.int32)[y1:y2, x1:x2].T
    sides = np.sqrt(np.maximum(masks.areas[boxes.any(1)], 1))
    width = width or max(1, min(line_width(image.size), round(float(np.median(sides)) / _SHARE)))
    edge = max(1, width // 3)
    border = _border(owner)
    # One byte for each pixel says how it is drawn: a class's colour for the inside, for the line and for the dark edge.
    rgb, kind = np.unique([colour(int(c)) for c in class_ids], axis=0, return_inverse=True)
    look = np.concatenate([[0], 1 + kind.reshape(-1)]).astype(np.uint8)[owner]
    look[_grown(border, edge + width - 1) & (owner > 0)] += len(rgb)
    look[_grown(border, edge - 1) & (owner > 0)] += len(rgb)
    colours = np.concatenate([[(0, 0, 0)], rgb, rgb, rgb * (1 - _CASING)]).astype(np.uint8)
    opacity = np.repeat(np.array([0, _FILL, 1, 1]) * 255, [1, *[len(rgb)] * 3]).astype(np.uint8)
    look = np.ascontiguousarray(look.T)
    painted = Image.fromarray(look)
    painted.putpalette(colours.tobytes())
    drawn.paste(painted.convert("RGB"), (int(x1), int(y1)), Image.fromarray(opacity[look]))
    return drawn


def _border(owner: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """The pixels of masks that have a neighbour, beside or above, of another mask or of none."""
    border = np.zeros(owner.shape, np.bool_)
    for rows, values in ((border, owner), (border.T, owner.T)):
        differs = values[1:] != values[:-1]
        rows[1:] |= differs
        rows[:-1] |= differs
    border &= owner > 0
    return border


def _grown(pixels: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """Pixels at most ``reach`` rows and columns away from the given ones."""
    grown = pixels.copy()
    for rows in (grown, grown.T):
        done = 0
        while done < reach:
            # What has grown by n has no gaps below 2n + 1, so that the steps may grow threefold.
            step = min(2 * done + 1, reach - done)
            before = rows.copy(order="K")
            rows[step:] |= before[:-step]
            rows[:-step] |= before[step:]
            done += step
    return grown
