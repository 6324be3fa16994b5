"""Poses: the map from nominal places to pixels, its fit by least squares, and what noise makes of it.

With x a nominal place (y down), u = H x the undistorted pixel (H a similarity, an affine map or a homography), c the
image's centre and r = |u − c| over half the image's diagonal, the pixel is ``c + (1 + k1 r²)(u − c)``: the first
coefficient of Brown's radial distortion. Fits are Gauss–Newton in normalised coordinates (Hartley and Zisserman,
*Multiple View Geometry*, section 4.4), so that all parameters are of the order of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
PoseKind = Literal["similarity", "affine", "homography"]
KINDS: tuple[PoseKind, ...] = get_args(PoseKind)
PARAMETERS: dict[PoseKind, int] = {"similarity": 4, "affine": 6, "homography": 8}
_MOST_STEPS = 25
_MOST_DISTORTION = 0.5  # |k1|; beyond it the map is no longer invertible inside the image


@dataclass(frozen=True, eq=False)
class Frame:
    """What normalises coordinates: places to (x − middle) / spread, pixels to (y − centre) / half.

    Attributes:
        middle: (2,) of the nominal places.
        spread: of the nominal places, the root mean square of their distances from the middle.
        centre: (2,) of the image in pixels.
        half: half the image's diagonal in pixels.
    """

    middle: Floats
    spread: float
    centre: Floats
    half: float

    @classmethod
    def of(cls, places: Floats, size_hw: tuple[int, int]) -> Frame:
        """The frame of (N, 2) places and an image of that size."""
        middle = places.mean(0)
        spread = float(np.sqrt(((places - middle) ** 2).sum(1).mean())) or 1.0
        return cls(middle, spread, np.array([size_hw[1], size_hw[0]]) / 2, float(np.hypot(*size_hw)) / 2)


@dataclass(frozen=True, eq=False)
class Pose:
    """A map from nominal places to pixels.

    Attributes:
        kind: of the map before distortion.
        matrix: (3, 3), normalised places to normalised, undistorted pixels; the last element is 1.
        k1: radial distortion, 0 for none.
        frame: what normalises both sides.
        fitted_k1: whether ``k1`` is one of the fitted parameters.
        information: (P, P) sum over the fitted parts of Jᵀ J, J the derivatives of pixels by the P parameters; the
            parameters' covariance is its inverse times the variance of a pixel coordinate.
    """

    kind: PoseKind
    matrix: Floats
    k1: float
    frame: Frame
    fitted_k1: bool = False
    information: Floats | None = None

    @property
    def parameters(self) -> int:
        """Number of fitted parameters."""
        return PARAMETERS[self.kind] + self.fitted_k1

    @property
    def mirrored(self) -> bool:
        """Whether the map changes handedness."""
        return bool(np.linalg.det(self.matrix[:2, :2]) < 0)

    def project(self, places: Floats) -> Floats:
        """(…, 2) nominal places → (…, 2) pixels."""
        undistorted = _homography(self.matrix, (places - self.frame.middle) / self.frame.spread)
        square = (undistorted**2).sum(-1, keepdims=True)
        pixels: Floats = self.frame.centre + self.frame.half * undistorted * (1 + self.k1 * square)
        return pixels

    def back(self, pixels: Floats) -> Floats:
        """(…, 2) pixels → (…, 2) nominal places: the inverse of :meth:`project`."""
        distorted = (pixels - self.frame.centre) / self.frame.half
        distance = np.hypot(distorted[..., 0], distorted[..., 1])
        radius = distance.copy()
        if self.k1:
            for _ in range(10):  # Newton's method on r + k1 r³ = distance
                square = self.k1 * radius**2
                radius -= (radius * (1 + square) - distance) / np.maximum(1 + 3 * square, 0.1)
        undistorted = distorted / (1 + self.k1 * radius**2)[..., None]
        inverse: Floats = np.asarray(np.linalg.inv(self.matrix), np.float64)
        return _homography(inverse, undistorted) * self.frame.spread + self.frame.middle

    def local(self, places: Floats) -> Floats:
        """(N, 2, 2) derivatives of pixels by nominal places."""
        x = (places - self.frame.middle) / self.frame.spread
        homogeneous = np.c_[x, np.ones(len(x))] @ self.matrix.T
        w = homogeneous[:, 2, None]
        u = homogeneous[:, :2] / w
        linear = (self.matrix[None, :2, :2] - u[:, :, None] * self.matrix[None, None, 2, :2]) / w[:, :, None]
        derivative: Floats = self._distortion(u) @ linear * (self.frame.half / self.frame.spread)
        return derivative

    def by_parameters(self, places: Floats) -> Floats:
        """(N, 2, P) derivatives of pixels by the parameters, in pixels."""
        x = (places - self.frame.middle) / self.frame.spread
        extended = np.c_[x, np.ones(len(x))]
        homogeneous = extended @ self.matrix.T
        w = homogeneous[:, 2, None]
        u = homogeneous[:, :2] / w
        # Of the eight free elements of H: those of a row move only its own coordinate, the last row's move both.
        derivative = np.zeros((len(x), 2, 8))
        derivative[:, 0, 0:3] = extended / w
        derivative[:, 1, 3:6] = extended / w
        derivative[:, :, 6:8] = -u[:, :, None] * (x / w)[:, None, :]
        derivative = self._distortion(u) @ (derivative @ _basis(self.kind, self.mirrored))
        if self.fitted_k1:
            by_k1 = u * (u**2).sum(1, keepdims=True)
            derivative = np.concatenate([derivative, by_k1[:, :, None]], axis=2)
        return derivative * self.frame.half

    def spread_of(self, places: Floats) -> Floats:
        """(N, 2, 2) covariance of projected places in units of the variance of a fitted pixel coordinate.

        Infinite where the pose was not fitted.
        """
        if self.information is None:
            return np.full((len(places), 2, 2), np.inf)
        derivative = self.by_parameters(places)
        return derivative @ np.linalg.pinv(self.information) @ derivative.transpose(0, 2, 1)

    def _distortion(self, u: Floats) -> Floats:
        """(N, 2, 2) derivatives of distorted by undistorted coordinates."""
        square = (u**2).sum(1)[:, None, None]
        derivative: Floats = (1 + self.k1 * square) * np.eye(2) + 2 * self.k1 * u[:, :, None] * u[:, None, :]
        return derivative


def fit_pose(places: Floats, pixels: Floats, start: Pose, kind: PoseKind, *, distortion: bool = False) -> Pose | None:
    """The pose of that kind with the least sum of squared pixel distances.

    Args:
        places: (N, 2) nominal, y down.
        pixels: (N, 2), of the same parts.
        start: of the same handedness and near the solution; of any kind.
        kind: of the result.
        distortion: whether to fit ``k1`` too; otherwise it stays that of ``start``.

    Returns:
        ``None`` if the places do not determine the pose: too few, or on a line.
    """
    pose = Pose(kind, _of_kind(start, kind), start.k1, start.frame, fitted_k1=distortion)
    if 2 * len(places) < pose.parameters:
        return None
    best: Pose | None = None
    least = np.inf
    for _ in range(_MOST_STEPS):
        residuals = (pixels - pose.project(places)).ravel()
        error = float(residuals @ residuals)
        # Steps shrink quadratically near the solution: when the error no longer falls, it has been reached.
        if not error < least * (1 - 1e-10):
            break
        derivative = pose.by_parameters(places).reshape(len(residuals), -1)
        information = derivative.T @ derivative
        # Singular, or nearly so: parts on a line, for instance. The parameters are of the order of one.
        if not np.isfinite(information).all() or np.linalg.cond(information) > 1e13:
            return None
        best, least = Pose(pose.kind, pose.matrix, pose.k1, pose.frame, distortion, information), error
        step: Floats = np.asarray(np.linalg.solve(information, derivative.T @ residuals), np.float64)
        pose = moved(pose, step)
        if abs(pose.k1) > _MOST_DISTORTION:
            return None
    return best


def local_pose(linear: Floats, place: Floats, pixel: Floats, frame: Frame) -> Pose:
    """The affine pose with derivative ``linear`` (2, 2) that maps ``place`` to ``pixel``."""
    matrix = np.eye(3)
    matrix[:2, :2] = linear * frame.spread / frame.half
    matrix[:2, 2] = (pixel - frame.centre) / frame.half - matrix[:2, :2] @ ((place - frame.middle) / frame.spread)
    return Pose("affine", matrix, 0.0, frame)


def _of_kind(pose: Pose, kind: PoseKind) -> Floats:
    """The matrix of a pose of that kind near ``pose``, from which a fit starts."""
    matrix = pose.matrix.copy()
    if kind == "homography":
        return matrix
    matrix[2, :2] = 0
    if kind == "similarity":
        sign = -1.0 if pose.mirrored else 1.0
        c, s = (matrix[0, 0] + sign * matrix[1, 1]) / 2, (matrix[1, 0] - sign * matrix[0, 1]) / 2
        matrix[:2, :2] = [[c, -sign * s], [s, sign * c]]
    return matrix


def moved(pose: Pose, step: Floats) -> Pose:
    """The pose with (P,) added to its parameters, whose derivatives :meth:`Pose.by_parameters` has."""
    basis = _basis(pose.kind, pose.mirrored)
    matrix = pose.matrix.copy()
    matrix.reshape(-1)[:8] += basis @ step[: basis.shape[1]]
    return Pose(pose.kind, matrix, pose.k1 + (float(step[-1]) if pose.fitted_k1 else 0.0), pose.frame, pose.fitted_k1)


def _basis(kind: PoseKind, mirrored: bool) -> Floats:
    """(8, P) how the parameters move the first eight elements of the matrix."""
    if kind != "similarity":
        return np.eye(8)[:, : PARAMETERS[kind]]
    sign = -1.0 if mirrored else 1.0
    # (c, s, tx, ty): the matrix is [[c, −sign s, tx], [s, sign c, ty]].
    basis = np.zeros((8, 4))
    basis[[0, 4], 0] = 1, sign
    basis[[1, 3], 1] = -sign, 1
    basis[2, 2] = basis[5, 3] = 1
    return basis


def _homography(matrix: Floats, x: Floats) -> Floats:
    homogeneous = x @ matrix[:, :2].T + matrix[:, 2]
    # Behind the camera or at infinity there is no pixel; a huge one is outside any image and stays finite.
    w = homogeneous[..., 2:]
    return homogeneous[..., :2] / np.where(np.abs(w) < 1e-9, 1e-9, w)
