"""Adaptive discriminator augmentation: what keeps a discriminator from learning few images by heart.

After arXiv 2006.06676 (section 2 and appendix B): real and made images are changed alike before the discriminator sees
them, each change with a probability that rises while the discriminator is too sure of the real ones. Changes do not
leak into what is made as long as the probability stays below about 0.8. Images are resampled bilinearly.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Matrices = npt.NDArray[np.float64]
_INTERVAL = 4  # steps between two changes of the probability


class AdaptiveProbability:
    """The probability of each change, steered by the mean sign of the discriminator's scores of real images.

    Args:
        target: the mean sign to hold; 0.6 in the paper.
        span: images in which the probability may rise from 0 to 1; 500,000 in the paper.
    """

    def __init__(self, target: float, span: float) -> None:
        self.target, self.span = target, span
        self.value = 0.0
        self._signs: list[Tensor] = []
        self._images = 0

    def note(self, sign: Tensor, images: int) -> None:
        """Notes the mean sign of one step's real images; every few steps the probability follows."""
        self._signs.append(sign)
        self._images += images
        if len(self._signs) < _INTERVAL:
            return
        # Surer of real images than wanted: the discriminator begins to know them by heart.
        overfits = sum(float(sign) for sign in self._signs) / len(self._signs) > self.target
        step = self._images / self.span
        self.value = min(max(self.value + (step if overfits else -step), 0.0), 1.0)
        self._signs, self._images = [], 0

    def state(self) -> dict[str, object]:
        """Plain values that :meth:`restore` goes on from."""
        return {"value": self.value, "signs": [float(sign) for sign in self._signs], "images": self._images}

    def restore(self, state: dict[str, object]) -> None:
        """Goes on where ``state`` was taken."""
        self.value, self._images = state["value"], state["images"]  # type: ignore[assignment]
        self._signs = [torch.tensor(sign) for sign in state["signs"]]  # type: ignore[attr-defined]


def change_images(images: Tensor, geometry: Matrices, colour: Matrices) -> Tensor:
    """Images (N, 3, H, W) moved and recoloured.

    Args:
        images: from −1 to 1, H = W.
        geometry: (N, 3, 3), from places in the result to places in the image; both go from −1 to 1.
        colour: (N, 4, 4), of (red, green, blue, 1).
    """
    moves = torch.from_numpy(geometry[:, :2]).to(images)
    grid = F.affine_grid(moves, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    colours = torch.from_numpy(colour[:, :3]).to(images)
    flat = moved.flatten(2)
    recoloured: Tensor = torch.baddbmm(colours[:, :, 3:], colours[:, :, :3], flat).reshape(moved.shape)
    return recoloured


def draw_geometry(count: int, p: float, size: int, rng: np.random.Generator) -> Matrices:
    """(count, 3, 3): flips, quarter turns and whole pixels; then scale, rotation, proportions, and fractions of one."""
    matrices = np.tile(np.eye(3), (count, 1, 1))

    def apply(operation: Matrices, chance: float = p) -> None:
        chosen = rng.random(count) < chance
        matrices[chosen] = (operation @ matrices)[chosen]

    # First what copies pixels, then what interpolates them.
    apply(_scaling(np.where(rng.random(count) < 0.5, -1.0, 1.0), np.ones(count)))
    apply(_rotation(rng.integers(0, 4, count).astype(np.float64) * (math.pi / 2)))
    apply(_translation(np.round(rng.uniform(-0.125, 0.125, (count, 2)) * size) * 2 / size))
    scale = _lognormal(0.2, count, rng)
    apply(_scaling(scale, scale))
    # Two rotations around the change of proportions: together they happen with probability p.
    rotate = 1 - math.sqrt(1 - p)
    apply(_rotation(rng.uniform(-math.pi, math.pi, count)), rotate)
    proportion = _lognormal(0.2, count, rng)
    apply(_scaling(proportion, 1 / proportion))
    apply(_rotation(rng.uniform(-math.pi, math.pi, count)), rotate)
    apply(_translation(rng.normal(0, 0.125, (count, 2)) * 2))
    return matrices


def draw_colour(count: int, p: float, rng: np.random.Generator) -> Matrices:
    """(count, 4, 4): brightness, contrast, inverted luma, hue, saturation."""
    matrices = np.tile(np.eye(4), (count, 1, 1))

    def apply(operation: Matrices) -> None:
        chosen = rng.random(count) < p
        matrices[chosen] = (operation @ matrices)[chosen]

    grey = np.full((3, 3), 1 / 3)  # projects a colour onto the grey axis
    shift = np.tile(np.eye(4), (count, 1, 1))
    shift[:, :3, 3] = rng.normal(0, 0.2, count)[:, None]
    apply(shift)
    apply(_colours(_lognormal(0.5, count, rng)[:, None, None] * np.eye(3)))
    flipped = (rng.random(count) < 0.5)[:, None, None]
    apply(_colours(np.where(flipped, np.eye(3) - 2 * grey, np.eye(3))))
    angle = rng.uniform(-math.pi, math.pi, count)[:, None, None]
    # Rodrigues' formula around the grey axis.
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    apply(_colours(np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * grey))
    apply(_colours(grey + (np.eye(3) - grey) * _lognormal(1.0, count, rng)[:, None, None]))
    return matrices


def _lognormal(octaves: float, count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.exp2(rng.normal(0, octaves, count))


def _scaling(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Matrices:
    matrices = np.tile(np.eye(3), (len(x), 1, 1))
    matrices[:, 0, 0], matrices[:, 1, 1] = x, y
    return matrices


def _rotation(angle: npt.NDArray[np.float64]) -> Matrices:
    matrices = np.tile(np.eye(3), (len(angle), 1, 1))
    matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(angle)
    matrices[:, 0, 1], matrices[:, 1, 0] = -np.sin(angle), np.sin(angle)
    return matrices


def _translation(by: npt.NDArray[np.float64]) -> Matrices:
    matrices = np.tile(np.eye(3), (len(by), 1, 1))
    matrices[:, :2, 2] = by
    return matrices


def _colours(linear: npt.NDArray[np.float64]) -> Matrices:
    matrices = np.tile(np.eye(4), (len(linear), 1, 1))
    matrices[:, :3, :3] = linear
    return matrices
