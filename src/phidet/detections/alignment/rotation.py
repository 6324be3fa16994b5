"""Rotations of parts from their boxes, as far as boxes tell: a long part's box turns with it.

The box around a rectangle of sides a ≥ b turned by φ has the width a |cos φ| + b |sin φ| and the height
a |sin φ| + b |cos φ|. Parts of one label are alike, so a and b come from all of them (or from the nominal list), and φ
of each from its own box: up to its sign and half turns, which boxes do not show; of the angles that the box allows,
the nearest to the nominal one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phidet.detections.alignment.pose import Floats

_LEAST_PARTS = 3  # of a label, to learn its size from
_LEAST_RATIO = 1.3  # of the sides of parts whose rotation is measured
_GRID = np.arange(0.0, 91.0)


def box_rotations(
    angles: Floats, sizes: Floats, labels: Sequence[str], nominal: Floats | None
) -> tuple[Floats, Floats]:
    """How far each part is turned from where it should be.

    Args:
        angles: (N,) degrees, where the parts' long sides should point in the image, clockwise; NaN where unknown.
        sizes: (N, 2) width and height of the boxes, scaled to one common scale.
        labels: N, of parts with their own label; "" for a detection that must not teach its label's size.
        nominal: (N, 2) known lengths and widths on that scale, NaN where unknown.

    Returns:
        (N,) degrees 0…90 away from the nominal rotation, and (N,) the ratio of the box's misfit at the nominal rotation
        to that of boxes of its label; both NaN where boxes do not tell.
    """
    turned, misfit = np.full(len(angles), np.nan), np.full(len(angles), np.nan)
    for label in dict.fromkeys(label for label in labels if label):
        members = np.array([i for i, one in enumerate(labels) if one == label and np.isfinite(angles[i])], np.int64)
        if len(members) < _LEAST_PARTS:
            continue
        sides = _sides(angles[members], sizes[members])[None] if nominal is None else nominal[members]
        if not np.isfinite(sides).all() or sides.min() <= 0 or np.median(sides.max(1) / sides.min(1)) < _LEAST_RATIO:
            continue
        errors = np.linalg.norm(sizes[members] - _box(angles[members], sides), axis=1)
        misfit[members] = errors / max(1.4826 * float(np.median(errors)), 0.04 * float(sides.sum(1).mean()))
        # Of all rotations away from the nominal one, either way, the one that fits best; of equal ones the smallest.
        either = [
            np.linalg.norm(
                sizes[members][:, None] - _box(angles[members][:, None] + sign * _GRID, sides[:, None]), axis=2
            )
            for sign in (-1, 1)
        ]
        turned[members] = _GRID[np.argmin(np.minimum(*either), axis=1)]
    return turned, misfit


def _sides(angles: Floats, sizes: Floats) -> Floats:
    """(2,) length and width of parts of one kind: least squares, twice, without those that fit badly."""
    kept = np.ones(len(angles), bool)
    c, s = np.abs(np.cos(np.radians(angles))), np.abs(np.sin(np.radians(angles)))
    design = np.stack([np.stack([c, s], 1), np.stack([s, c], 1)], 1)  # (N, 2, 2)
    sides = np.full(2, np.nan)
    for _ in range(3):
        matrix = design[kept].reshape(-1, 2)
        # Boxes of parts at 45° all look the same: length and width cannot be told apart.
        if np.linalg.cond(matrix) > 8:
            return np.full(2, np.nan)
        sides = np.linalg.lstsq(matrix, sizes[kept].ravel(), rcond=None)[0]
        errors = np.linalg.norm(sizes - design @ sides, axis=1)
        kept = errors <= 3 * max(float(np.median(errors)), 0.02 * float(np.abs(sides).sum()))
    return sides


def _box(angles: Floats, sides: Floats) -> Floats:
    """(…, 2) width and height of the boxes around rectangles of sides (…, 2)."""
    c, s = np.abs(np.cos(np.radians(angles))), np.abs(np.sin(np.radians(angles)))
    return np.stack([sides[..., 0] * c + sides[..., 1] * s, sides[..., 0] * s + sides[..., 1] * c], -1)
