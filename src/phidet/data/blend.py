"""Puts a piece of one image into another without a seam."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
_SOLID = 0.8  # of the way from the middle to the border; beyond, the piece fades out


def blend(image: npt.NDArray[np.uint8], piece: npt.NDArray[np.uint8], left: int, top: int) -> None:
    """Puts ``piece`` into ``image``, in place.

    The colours of the piece are shifted by a harmonic function that makes its border equal to what is there (gradient
    domain composition, P. Pérez et al., 2003, with the membrane solved exactly on a rectangle); towards border and
    corners it fades into the image.

    Args:
        image: (H, W, 3) uint8.
        piece: (h, w, 3) uint8, which lies inside the image.
        left, top: where its upper left corner comes, pixels.
    """
    height, width = piece.shape[:2]
    ground = image[top : top + height, left : left + width].astype(np.float64)
    shift = membrane(_smooth_ring(ground - piece))
    # At the border the colours agree after the shift; fading hides that the texture does not.
    share = fade(height, width)[:, :, None]
    mixed = share * (piece + shift) + (1 - share) * ground
    image[top : top + height, left : left + width] = np.round(mixed).clip(0, 255).astype(np.uint8)


def border_difference(ground: npt.NDArray[np.uint8], piece: npt.NDArray[np.uint8]) -> float:
    """How much a piece's border differs from the ground after its mean colour was made equal, in grey levels."""
    ring = np.ones(piece.shape[:2], bool)
    ring[1:-1, 1:-1] = False
    difference = ground[ring].astype(np.float64) - piece[ring]
    return float(np.abs(difference - difference.mean(0)).mean())


@cache
def fade(height: int, width: int) -> FloatArray:
    """(height, width) shares of the piece: 1 inside, 0 at the border and in the corners, by |x|⁴ + |y|⁴."""
    y, x = (np.abs(np.linspace(-1, 1, n)) for n in (height, width))
    radius = (x[None, :] ** 4 + y[:, None] ** 4) ** 0.25
    share: FloatArray = ((1 - radius) / (1 - _SOLID)).clip(0, 1)
    return share


def membrane(values: FloatArray) -> FloatArray:
    """The harmonic function on a rectangle with the border of ``values``, (H, W, C); H, W ≥ 3."""
    height, width = values.shape[0] - 2, values.shape[1] - 2
    # Laplace's equation at interior points, with the border moved to the right side.
    source = np.zeros((height, width, values.shape[2]))
    source[0] += values[0, 1:-1]
    source[-1] += values[-1, 1:-1]
    source[:, 0] += values[1:-1, 0]
    source[:, -1] += values[1:-1, -1]
    # Sines diagonalise it (the discrete sine transform, as matrices: pieces are small).
    rows, columns = _sines(height), _sines(width)
    spectrum = np.einsum("ij,jkc,kl->ilc", rows, source, columns, optimize=True)  # not all indices in one loop
    scale = _eigenvalues(height)[:, None] + _eigenvalues(width)[None, :]
    result = values.copy()
    result[1:-1, 1:-1] = np.einsum("ij,jkc,kl->ilc", rows, spectrum / scale[:, :, None], columns, optimize=True)
    return result


@cache
def _sines(n: int) -> FloatArray:
    """Orthonormal, symmetric, its own inverse."""
    k = np.arange(1, n + 1)
    sines: FloatArray = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(k, k) / (n + 1))
    return sines


def _eigenvalues(n: int) -> FloatArray:
    values: FloatArray = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    return values


def _smooth_ring(values: FloatArray) -> FloatArray:
    """``values`` with its border averaged along itself, so that no single pixel draws a streak across the piece."""
    height, width = values.shape[:2]
    # Around the border: along the top, down, back along the bottom, up.
    down, across = np.arange(height - 1), np.arange(width - 1)
    rows = np.concatenate([0 * across, down, np.full(width - 1, height - 1), height - 1 - down])
    columns = np.concatenate([across, np.full(height - 1, width - 1), width - 1 - across, 0 * down])
    # The ring is closed, so that both ends are averaged with each other.
    ring = values[rows, columns]
    reach = max(1, len(ring) // 16)
    padded = np.concatenate([ring[-reach:], ring, ring[:reach]])
    sums = np.cumsum(np.concatenate([np.zeros((1, values.shape[2])), padded]), 0)
    smooth = values.copy()
    smooth[rows, columns] = (sums[2 * reach + 1 :] - sums[: -2 * reach - 1]) / (2 * reach + 1)
    return smooth
