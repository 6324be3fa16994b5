"""The pose of an image from the image of a right assembly itself, where a model finds too few parts to tell it.

Corners take the place of parts: they are found in both images, and the pose as from any parts, although corners are
missing or false. It is then refined with all edges, by least squares of the grey values; what differs between the
images, such as a defect, gets little weight.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, maximum_filter, spline_filter

from phidet.detections.alignment.locate import Located, LocateSettings, NotLocated, locate
from phidet.detections.alignment.pose import Floats, Pose, moved
from phidet.detections.alignment.refine import grey_of, spline_values
from phidet.detections.alignment.search import Points, SearchSettings
from phidet.detections.alignment.settings import AlignSettings

Image = npt.NDArray[np.uint8]
# Standard deviations in pixels, of the derivative's filter and of a corner's surroundings: the usual first, then finer
# and coarser corners, for images whose texture is of another size.
_SCALES = ((3.0, 4.0), (2.0, 2.7), (4.5, 6.0))
_LEAST_CORNER = 1e-4  # of the squared contrast: the smaller eigenvalue of the structure tensor at a corner
_MOST_CORNERS = 600
_LEAST_CORNERS = 8
_LEAST_SHARE = 0.25  # of the corners in view that must be met: many lie on texture that the other image lacks
_EDGE_POINTS = 20_000
_SMOOTHING = 1.5  # px; both images, so that the first steps already see the edge
_MOST_STEPS = 15
_TUKEY = 4.685  # of the robust standard deviation: 95 % efficient for normal residuals


def register_image(template: Image, image: Image, settings: AlignSettings) -> Located | NotLocated:
    """The pose that maps pixels of ``template`` to those of ``image``, both (H, W, 3) uint8 RGB.

    ``ours`` and ``theirs`` of the result are corners, ``sigma`` the standard deviation of their distances.
    """
    greys = grey_of(template), grey_of(image)
    answers: list[NotLocated] = []
    for scale in _SCALES:
        located = _by_corners(*greys, scale, settings)
        if isinstance(located, Located):
            refined = refine_pose(located.pose, *greys)
            # Edges make the pose more certain than the corners did; by how much is left open, and theirs is told.
            return replace(located, pose=replace(refined, information=located.pose.information))
        answers.append(located)
    # That a pose is ambiguous says more than that other corners show none.
    return next((one for one in answers if one.reason == "ambiguous"), answers[0])


def _by_corners(
    template: Floats, image: Floats, scale: tuple[float, float], settings: AlignSettings
) -> Located | NotLocated:
    """The pose that brings corners to corners, of grey images."""
    ours, our_kinds = _corners(template, *scale)
    theirs, their_kinds = _corners(image, *scale)
    size_hw = image.shape[0], image.shape[1]
    if min(len(ours), len(theirs)) < _LEAST_CORNERS:
        text = f"{len(ours)} corners in the image of a right assembly and {len(theirs)} in this one: too few"
        return NotLocated("few", text)
    searched = SearchSettings.of(settings, ours, size_hw)
    points = Points.of(ours, our_kinds), Points.of(theirs, their_kinds)
    share = min(_LEAST_SHARE, settings.least_share)
    located = locate(*points, 2, searched, LocateSettings(share, 0.05, size_hw))
    if isinstance(located, NotLocated):
        text = located.text.replace("the parts", "the corners").replace("nominal parts", "corners")
        return NotLocated(located.reason, text.replace("parts", "corners"))
    return located


def refine_pose(pose: Pose, template: Floats, image: Floats) -> Pose:
    """The pose with the least robust sum of squared differences of grey values, along the edges of ``template``.

    Gauss–Newton on the pose's parameters, brightness and contrast being free, with Tukey's weights (Beaton and Tukey
    1974): "forward additive" in Baker and Matthews (2004), section 3.

    Args:
        pose: within a few pixels of the truth.
        template: (H, W) grey.
        image: (H, W) grey.
    """
    places = _edges(template)
    wanted = spline_values(spline_filter(gaussian_filter(template, _SMOOTHING)), places)
    # The image's scale may differ, so the same blur in places is another one in its pixels.
    scale = float(np.median(np.sqrt(np.abs(np.linalg.det(pose.local(places))))))
    smooth = gaussian_filter(image, _SMOOTHING * scale)
    values, by_x, by_y = (
        spline_filter(one) for one in (smooth, np.gradient(smooth, axis=1), np.gradient(smooth, axis=0))
    )
    for _ in range(_MOST_STEPS):
        pixels = pose.project(places)
        seen = spline_values(values, pixels)
        gradient = np.stack([spline_values(by_x, pixels), spline_values(by_y, pixels)], 1)
        derivative = np.einsum("ni,nip->np", gradient, pose.by_parameters(places))
        # seen + derivative · step = gain · wanted + bias
        design = np.c_[derivative, -wanted, -np.ones(len(wanted))]
        weights = _weights(wanted, seen)
        normal = design.T @ (weights[:, None] * design)
        if np.linalg.cond(normal / np.sqrt(np.outer(np.diag(normal), np.diag(normal)))) > 1e12:
            break
        step = np.linalg.solve(normal, -design.T @ (weights * seen))[: pose.parameters]
        pose = moved(pose, np.asarray(step, np.float64))
        if np.abs(step).max() < 1e-6:  # of half the image's diagonal
            break
    return pose


def _corners(grey: Floats, fine: float, window: float) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(N, 2) pixels of corners to a fraction of a pixel, and (N,) whether their surroundings are rather bright.

    Strong ones of the structure tensor's smaller eigenvalue (Shi and Tomasi 1994), moved to the point that all edges
    around it run through (Förstner and Gülch 1987).
    """
    x = gaussian_filter(grey, fine, order=(0, 1))
    y = gaussian_filter(grey, fine, order=(1, 0))
    xx, xy, yy = (gaussian_filter(product, window) for product in (x * x, x * y, y * y))
    strength = (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy)
    low, high = np.percentile(grey, [2, 98])
    peaks = (strength == maximum_filter(strength, 11)) & (strength > _LEAST_CORNER * (high - low) ** 2)
    room = int(3 * window)
    peaks[:room] = peaks[-room:] = False
    peaks[:, :room] = peaks[:, -room:] = False
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-strength[rows, columns], kind="stable")[:_MOST_CORNERS]
    rows, columns = rows[order], columns[order]
    # Σ w ∇∇ᵀ (corner − pixel) = 0 over the surroundings, in filtered images: Σ w ∇∇ᵀ and Σ w ∇∇ᵀ pixel.
    heights, widths = np.mgrid[: grey.shape[0], : grey.shape[1]] + 0.5
    along = [
        gaussian_filter(one, window)[rows, columns]
        for one in (
            x * x * widths + x * y * heights,
            x * y * widths + y * y * heights,
        )
    ]
    tensor = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)[rows, columns]
    corners = np.linalg.solve(tensor, np.stack(along, -1)[:, :, None])[:, :, 0]
    near = np.abs(corners - np.stack([columns, rows], 1) - 0.5).max(1, initial=0) < window
    bright = gaussian_filter(grey, 2 * window)[rows, columns] > (low + high) / 2
    return corners[near], bright[near].astype(np.int64)


def _edges(template: Floats) -> Floats:
    """(N, 2) pixels with the strongest gradients, away from the border, at most :data:`_EDGE_POINTS`."""
    size = (
        gaussian_filter(template, _SMOOTHING, order=(0, 1)) ** 2
        + gaussian_filter(template, _SMOOTHING, order=(1, 0)) ** 2
    )
    room = int(4 * _SMOOTHING)
    size[:room] = size[-room:] = 0
    size[:, :room] = size[:, -room:] = 0
    count = min(_EDGE_POINTS, int((size > 0).sum()))
    chosen = np.sort(np.argpartition(-size, max(0, count - 1), axis=None)[:count])
    rows, columns = np.unravel_index(chosen, size.shape)
    return np.stack([columns, rows], 1).astype(np.float64) + 0.5


def _weights(wanted: Floats, seen: Floats) -> Floats:
    """Tukey's weights of grey values around the line that maps ``wanted`` to ``seen``."""
    gain, bias = np.polyfit(wanted, seen, 1)
    residuals = seen - gain * wanted - bias
    scale = 1.4826 * float(np.median(np.abs(residuals))) + 1e-3
    weights: Floats = np.maximum(0, 1 - (residuals / (_TUKEY * scale)) ** 2) ** 2
    return weights
