"""Cameras: how millimetres on a board become pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["similarity", "affine", "homography"]


@dataclass(frozen=True, eq=False)
class Camera:
    """A homography from the board's plane (mm, y up) to undistorted pixels (y down), then radial distortion.

    With u the undistorted pixel, c the image's centre and r = |u − c| over half the image's diagonal, the pixel is
    ``c + (1 + k1 r²)(u − c)``.

    Attributes:
        matrix: (3, 3), of the homography.
        k1: of the distortion, 0 for none.
        size_hw: of the image.
    """

    matrix: npt.NDArray[np.float64]
    k1: float
    size_hw: tuple[int, int]

    def project(self, xy_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(…, 2) places in mm → (…, 2) pixels."""
        homogeneous = xy_mm @ self.matrix[:, :2].T + self.matrix[:, 2]
        offset = (homogeneous[..., :2] / homogeneous[..., 2:]) - self._centre
        pixels: npt.NDArray[np.float64] = offset * (1 + self.k1 * (offset**2).sum(-1, keepdims=True) / self._half**2)
        return pixels + self._centre

    def back(self, pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(…, 2) pixels → (…, 2) places in mm: the inverse of :meth:`project`, to 1e-9 for |k1| ≤ 0.2."""
        offset = (pixels - self._centre) / self._half
        distance = np.hypot(offset[..., 0], offset[..., 1])
        radius = distance.copy()
        for _ in range(6):  # Newton's method on r + k1 r³ = distance
            square = self.k1 * radius * radius
            radius -= (radius * (1 + square) - distance) / (1 + 3 * square)
        undistorted = self._centre + self._half * offset / (1 + self.k1 * radius * radius)[..., None]
        inverse = np.linalg.inv(self.matrix)
        homogeneous = undistorted @ inverse[:, :2].T + inverse[:, 2]
        places: npt.NDArray[np.float64] = homogeneous[..., :2] / homogeneous[..., 2:]
        return places

    @property
    def _centre(self) -> npt.NDArray[np.float64]:
        return np.array([self.size_hw[1], self.size_hw[0]]) / 2

    @property
    def _half(self) -> float:
        return float(np.hypot(*self.size_hw)) / 2


def make_camera(
    board_size: tuple[float, float],
    seed: int,
    size_hw: tuple[int, int] = (384, 384),
    kind: Kind = "homography",
    *,
    turn: float = 180.0,
    k1: float = 0.0,
    mirrored: bool = False,
) -> Camera:
    """A camera that sees the whole board.

    Args:
        board_size: width and height in mm.
        seed: of the pose.
        size_hw: of the image.
        kind: how much the pose may distort: affine stretches and shears up to 8 %, homography also tilts, which makes
            the far side up to 12 % smaller.
        turn: the board is turned by up to so many degrees either way.
        k1: radial distortion.
        mirrored: seen from the other side.
    """
    rng = np.random.default_rng([seed, 2])
    angle = np.radians(rng.uniform(-turn, turn))
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.diag([-1.0 if mirrored else 1.0, -1.0, 1.0])  # y up to y down
    matrix[:2] = np.array([[c, s], [-s, c]]) @ matrix[:2]
    if kind != "similarity":
        matrix[:2] = (np.eye(2) + rng.uniform(-0.08, 0.08, (2, 2))) @ matrix[:2]
    half = float(np.hypot(*board_size)) / 2
    if kind == "homography":
        matrix = np.array([[1, 0, 0], [0, 1, 0], [*(rng.uniform(-0.06, 0.06, 2) / half), 1]]) @ matrix
    # The board's middle to the origin before; its outline into 78 to 94 % of the image after.
    width, height = board_size
    matrix = matrix @ np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1.0]])
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1.0]]) @ matrix.T
    corners = corners[:, :2] / corners[:, 2:]
    low, high = corners.min(0), corners.max(0)
    image_wh = np.array([size_hw[1], size_hw[0]], np.float64)
    scale = float(rng.uniform(0.78, 0.94) * (image_wh / (high - low)).min() / (1 + max(0.0, k1)))
    free = (image_wh - scale * (high - low)) / 2
    shift = image_wh / 2 - scale * (low + high) / 2 + rng.uniform(-0.8, 0.8, 2) * free
    return Camera(np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]]) @ matrix, k1, size_hw)
