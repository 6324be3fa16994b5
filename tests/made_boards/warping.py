"""Known warps of images: what registration is measured against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import affine_transform, gaussian_filter


@dataclass(frozen=True, eq=False)
class Warp:
    """A similarity of pixels, ``linear @ x + shift``; the middle of the first pixel is at (0.5, 0.5)."""

    linear: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]

    def __call__(self, pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(…, 2) → (…, 2)."""
        moved: npt.NDArray[np.float64] = pixels @ self.linear.T + self.shift
        return moved

    def boxes(self, boxes_xyxy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(N, 4) boxes of the same size, scaled, around the moved centres."""
        centres = self((boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2)
        halves = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / 2 * np.sqrt(np.linalg.det(self.linear))
        return np.concatenate([centres - halves, centres + halves], axis=1)

    def image(self, grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The moved image, (H, W) → (H, W, 3): linear interpolation, its border continued."""
        inverse = np.linalg.inv(self.linear)
        # In rows and columns, from the middle of pixels.
        offset = (inverse @ (0.5 - self.shift) - 0.5)[::-1]
        smooth = gaussian_filter(grey.astype(np.float64), 0.5)
        moved = affine_transform(smooth, inverse[::-1, ::-1], offset=offset, order=1, mode="nearest")
        return np.repeat(np.clip(moved + 0.5, 0, 255).astype(np.uint8)[..., None], 3, 2)


def make_warp(seed: int, size_hw: tuple[int, int], *, turn: float = 15, shift: float = 30) -> Warp:
    """A turn by up to ``turn`` degrees about the middle, a scale of 0.85 to 1.1, a shift by up to ``shift`` pixels."""
    rng = np.random.default_rng([seed, 9])
    angle, scale = np.radians(rng.uniform(-turn, turn)), rng.uniform(0.85, 1.1)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([size_hw[1], size_hw[0]]) / 2
    return Warp(linear, middle + rng.uniform(-shift, shift, 2) - linear @ middle)
