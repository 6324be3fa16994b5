"""Places finer than boxes: centroids of what stands out, or comparison with the image of a right assembly."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates, spline_filter

from phidet.detections.alignment.nominal import Nominal
from phidet.detections.alignment.pose import Floats, Pose
from phidet.detections.alignment.verdicts import Measured

Image = npt.NDArray[np.uint8]
_ROOM = 0.25  # of a box's sides, that are looked at around it
_MOST_STEPS = 20
_SMALL_STEP = 0.002  # px
_LEAST_LIKENESS = 0.5  # correlation below which a comparison is not believed
_FARTHEST = 0.5  # of a box's shorter side, that a place may move; beyond it something else was found


def centroid_refiner(image: Image) -> partial[Floats]:
    """Refines by the centroid of |intensity − background| in each box; the background is the median around the box.

    Independent of the box's own errors, as long as it holds the whole part and little else.

    Args:
        image: (H, W, 3) uint8 RGB, that was detected on.
    """
    return partial(_centroids, grey_of(image))


def template_refiner(image: Image, template: Image) -> partial[Floats]:
    """Refines by comparing each part with the image of a right assembly, seen through the pose.

    The shift between both is that of least squares, brightness and contrast being free (Lucas and Kanade 1981; Baker
    and Matthews 2004, section 5.3, for gain and bias).

    Args:
        image: (H, W, 3) uint8 RGB, that was detected on.
        template: (H, W, 3) uint8 RGB, whose pixels the nominal places are.
    """
    return partial(_templates, spline_filter(grey_of(image), order=3), spline_filter(grey_of(template), order=3))


def _centroids(grey: Floats, nominal: Nominal, measured: Measured) -> Floats:
    refined = measured.centres.copy()
    height, width = grey.shape
    for j in measured.theirs.tolist():
        x1, y1, x2, y2 = measured.boxes[j]
        room = _ROOM * np.array([x2 - x1, y2 - y1])
        left, top = max(0, int(x1 - room[0])), max(0, int(y1 - room[1]))
        right, bottom = min(width, int(np.ceil(x2 + room[0]))), min(height, int(np.ceil(y2 + room[1])))
        window = grey[top:bottom, left:right]
        columns, rows = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
        inside = (columns > x1) & (columns < x2) & (rows > y1) & (rows < y2)
        if inside.all() or not inside.any():
            continue
        around = window[~inside]
        background = float(np.median(around))
        # What is not clearly different is noise, which would pull the centroid to the middle of the box.
        noise = 3 * 1.4826 * float(np.median(np.abs(around - background)))
        weights = np.where(inside, np.maximum(np.abs(window - background) - noise, 0), 0)
        total = float(weights.sum())
        if total <= 0:
            continue
        place = np.array([float((weights * columns).sum()), float((weights * rows).sum())]) / total
        if np.abs(place - measured.centres[j]).max() <= _FARTHEST * min(x2 - x1, y2 - y1):
            refined[j] = place
    return refined


def _templates(image: Floats, template: Floats, nominal: Nominal, measured: Measured) -> Floats:
    assert nominal.sizes is not None  # the list is of an image
    refined = measured.centres.copy()
    for i, j in zip(measured.ours.tolist(), measured.theirs.tolist(), strict=True):
        expected = measured.expected[i]
        start = measured.centres[j] - expected
        shift = _shift(image, template, measured.located.pose, nominal.places[i], nominal.sizes[i], start)
        if shift is not None:
            refined[j] = expected + shift
    return refined


def _shift(image: Floats, template: Floats, pose: Pose, place: Floats, size: Floats, start: Floats) -> Floats | None:
    """How far the part lies from where the pose puts it, in pixels; ``None`` if it does not look like the template."""
    half = (0.5 + _ROOM) * size
    columns = np.arange(np.floor(place[0] - half[0]), np.ceil(place[0] + half[0])) + 0.5
    rows = np.arange(np.floor(place[1] - half[1]), np.ceil(place[1] + half[1])) + 0.5
    grid = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
    wanted = spline_values(template, grid)
    target = pose.project(grid)
    shift = start.copy()
    for _ in range(_MOST_STEPS):
        seen, gradient = spline_values(image, target + shift), _gradient(image, target + shift)
        # seen + gradient · step = gain · wanted + bias, solved for step, gain and bias at once.
        design = np.c_[gradient, -wanted, np.ones(len(wanted))]
        if np.linalg.matrix_rank(design) < 4:
            return None
        step = np.linalg.lstsq(design, -seen, rcond=None)[0][:2]
        shift = shift + np.clip(step, -1, 1)
        if np.abs(shift - start).max() > _FARTHEST * min(size) * _local_scale(pose, place):
            return None
        if np.abs(step).max() < _SMALL_STEP:
            break
    likeness = np.corrcoef(spline_values(image, target + shift), wanted)[0, 1]
    return shift if likeness >= _LEAST_LIKENESS else None


def _local_scale(pose: Pose, place: Floats) -> float:
    return float(np.sqrt(abs(np.linalg.det(pose.local(place[None])[0]))))


def spline_values(coefficients: Floats, pixels: Floats) -> Floats:
    """Cubic spline of an image at (N, 2) pixels; the middle of the first pixel is at 0.5."""
    values: Floats = map_coordinates(coefficients, pixels.T[::-1] - 0.5, order=3, prefilter=False, mode="nearest")
    return values


def _gradient(coefficients: Floats, pixels: Floats) -> Floats:
    """(N, 2) derivatives by x and y: central differences over half a pixel, which suit a cubic spline."""
    step = 0.25
    return np.stack(
        [
            (spline_values(coefficients, pixels + offset) - spline_values(coefficients, pixels - offset)) / (2 * step)
            for offset in (np.array([step, 0]), np.array([0, step]))
        ],
        1,
    )


def grey_of(image: Image) -> Floats:
    """Luma of Rec. 601, 0…255."""
    luma: Floats = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return luma
