"""Outlines of masks: polygons along the borders of their pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phidet.detections.masks import Masks

Ring = npt.NDArray[np.int64]
"""(P, 2) x and y of a closed polygon's corners, the last one joined to the first."""


def outlines(masks: Masks) -> list[list[Ring]]:
    """Of each mask its outlines: one around each part, clockwise, and one around each hole, the other way round.

    Corners lie between pixels, at whole numbers; filled by COCO's rule, the even-odd of all rings is the mask again.
    Parts that touch at a corner only are parts of their own.
    """
    return [_rings(crop, x, y) for (x, y, _, _), crop in masks.crops()]


def single_outlines(masks: Masks) -> list[npt.NDArray[np.float64]]:
    """Of each mask one polygon, as YOLO's labels have it; (0, 2) for an empty mask; (P, 2) float64.

    The rings of several parts and of holes are joined by lines there and back again, which enclose nothing: filled by
    COCO's rule, the polygon is the mask again.
    """
    return [bridged(rings) for rings in outlines(masks)]


def bridged(rings: Sequence[npt.NDArray[np.float64]] | Sequence[Ring]) -> npt.NDArray[np.float64]:
    """One polygon from several, joined where each comes nearest to those before it."""
    if not len(rings):
        return np.zeros((0, 2))
    # From the longest on, which is mostly the outer one, so that the lines between them are short.
    joined, *rest = (np.asarray(ring, np.float64) for ring in sorted(rings, key=len, reverse=True))
    for ring in rest:
        distance = ((joined[:, None] - ring[None]) ** 2).sum(-1)
        at, start = np.unravel_index(int(distance.argmin()), distance.shape)
        around = np.roll(ring, -int(start), axis=0)
        # To the ring, around it, and back to where the first one was left.
        joined = np.concatenate([joined[: at + 1], around, around[:1], joined[at:]])
    return joined


def _rings(inside: npt.NDArray[np.bool_], left: int, top: int) -> list[Ring]:
    """The outlines of the True pixels of a piece of the image at (left, top)."""
    height, width = inside.shape
    padded = np.zeros((height + 2, width + 2), np.bool_)
    padded[1:-1, 1:-1] = inside
    # Every side between a pixel inside and one outside is an edge, directed so that the inside lies to its right.
    # Directions 0 to 3: right, down, left, up; an edge is known by the corner where it begins and its direction.
    above, below = padded[:-1, 1:-1], padded[1:, 1:-1]
    before, behind = padded[1:-1, :-1], padded[1:-1, 1:]
    edges: dict[tuple[int, int], list[int]] = {}
    steps = ((1, 0), (0, 1), (-1, 0), (0, -1))
    sides = (
        (below & ~above, (0, 0)),
        (before & ~behind, (0, 0)),
        (above & ~below, (1, 0)),
        (behind & ~before, (0, 1)),
    )
    for direction, (there, (dx, dy)) in enumerate(sides):
        ys, xs = np.nonzero(there)
        for x, y in zip((xs + dx).tolist(), (ys + dy).tolist(), strict=True):
            edges.setdefault((x, y), []).append(direction)
    rings = []
    while edges:
        start = next(iter(edges))
        corners: list[tuple[int, int]] = []
        place, last = start, -1
        while True:
            choices = edges[place]
            # Where two parts touch at a corner, a turn to the right stays with the part.
            direction = choices[0] if len(choices) == 1 or last < 0 else (last + 1) % 4
            choices.remove(direction)
            if not choices:
                del edges[place]
            if direction != last:
                corners.append(place)
            place, last = (place[0] + steps[direction][0], place[1] + steps[direction][1]), direction
            if place == start and (place not in edges or (last + 1) % 4 not in edges[place]):
                break
        rings.append(np.array(corners, np.int64) + np.array([left, top]))
    return rings
