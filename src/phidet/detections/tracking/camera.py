"""How the camera moves between two frames: shift, turn and zoom, by phase correlation of blocks.

Kuglin and Hines, *The Phase Correlation Image Alignment Method* (1975): the cross-power spectrum of two images that
differ by a shift is a plane wave, and its inverse transform a peak at the shift. One shift of the whole frame comes
first, so that large movements stay inside the blocks; then each block has a shift of its own, and the similarity that
most blocks agree on is the camera's. Blocks on moving objects disagree and are left out.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float64]
_LONGEST = 320  # pixels of the reduced frame; finer detail moves by fractions of its pixels
_BLOCK = 64  # pixels of the reduced frame
_SMALLEST = 16  # pixels of the reduced frame, below which nothing is told
_FLAT = 2.0  # grey levels; a block that varies less shows no movement
_ROUNDS = 4
_AGREEING = 0.75  # pixels of the reduced frame
_FEWEST = 4  # blocks that must agree on a turn or a zoom


class CameraState(msgspec.Struct, forbid_unknown_fields=True):
    """The last frame, reduced: what the next one is compared with."""

    factor: int
    size_hw: tuple[int, int]
    grey: bytes


class CameraMotion:
    """Compares each frame with the one before it."""

    def __init__(self) -> None:
        self._factor = 1
        self._before: Floats | None = None

    def update(self, image: npt.NDArray[np.uint8]) -> Floats:
        """(2, 3) float64: takes pixels (x, y, 1) of the frame before to those of this one.

        The identity for the first frame, for one of another size, and where nothing can be told.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        factor = max(1, -(-max(image.shape[:2]) // _LONGEST))
        grey = np.asarray(Image.fromarray(image).convert("L").reduce(factor), np.float64)
        before, self._before = self._before, grey
        same = before is not None and before.shape == grey.shape and factor == self._factor
        self._factor = factor
        if before is None or not same or min(grey.shape) < _SMALLEST:
            return np.eye(2, 3)
        affine = _similarity(before, grey)
        affine[:, 2] *= factor
        return affine

    def state(self) -> CameraState | None:
        """For :meth:`from_state`."""
        if self._before is None:
            return None
        height, width = self._before.shape
        return CameraState(self._factor, (height, width), self._before.astype(np.uint8).tobytes())

    @classmethod
    def from_state(cls, state: CameraState) -> CameraMotion:
        """As it was when ``state`` was taken."""
        camera = cls()
        camera._factor = state.factor
        camera._before = np.frombuffer(state.grey, np.uint8).reshape(state.size_hw).astype(np.float64)
        return camera


def _similarity(before: Floats, after: Floats) -> Floats:
    """The movement of most blocks, in pixels of the reduced frames."""
    # The whole frame at a quarter: there a turn or a zoom moves the borders by a pixel or two, which leaves a peak.
    small = [_quarter(frame)[None] for frame in (before, after)]
    coarse = (4 * _shifts(*small)[0][0]).round()
    centres, shifts = _block_shifts(before, after, coarse.astype(int))
    if not len(shifts):
        return np.column_stack((np.eye(2), coarse))
    # Shift, turn and zoom: x' = a x − b y + c, y' = b x + a y + d, by least squares of the blocks that agree.
    x, y = centres.T
    ones, zeros = np.ones_like(x), np.zeros_like(x)
    equations = np.stack((np.stack((x, -y, ones, zeros), 1), np.stack((y, x, zeros, ones), 1)), 1)
    targets = centres + shifts
    middle = np.median(shifts, axis=0)
    a, b, c, d = 1.0, 0.0, *middle
    # The median is a first guess that is right in the middle of the frame; a zoom moves its borders further.
    tolerance = max(_AGREEING, 2 * float(np.median(np.abs(shifts - middle))))
    for _ in range(_ROUNDS):
        left = np.linalg.norm(equations @ np.array([a, b, c, d]) - targets, axis=1)
        agreeing = left <= tolerance
        tolerance = _AGREEING
        if agreeing.sum() < _FEWEST:
            break
        a, b, c, d = np.linalg.lstsq(equations[agreeing].reshape(-1, 4), targets[agreeing].reshape(-1), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


def _quarter(frame: Floats) -> Floats:
    """Means of 4 × 4 pixels."""
    height, width = (side // 4 for side in frame.shape)
    quarter: Floats = frame[: 4 * height, : 4 * width].reshape(height, 4, width, 4).mean(axis=(1, 3))
    return quarter


def _block_shifts(before: Floats, after: Floats, coarse: npt.NDArray[np.int_]) -> tuple[Floats, Floats]:
    """Centres (N, 2) of blocks that show a movement, and their shifts (N, 2), as x and y."""
    height, width = before.shape
    side = min(_BLOCK, height, width)
    ys, xs = (np.linspace(0, n - side, max(1, 2 * n // side - 1)).astype(int).tolist() for n in (height, width))
    # Where the coarse shift would lead out of the frame there is nothing to compare with.
    starts = [
        (x, y) for y in ys for x in xs if 0 <= y + coarse[1] <= height - side and 0 <= x + coarse[0] <= width - side
    ]
    if not starts:
        return np.zeros((0, 2)), np.zeros((0, 2))
    blocks = np.stack([before[y : y + side, x : x + side] for x, y in starts])
    others = np.stack([after[y + coarse[1] :, x + coarse[0] :][:side, :side] for x, y in starts])
    seen = np.minimum(blocks.std(axis=(1, 2)), others.std(axis=(1, 2))) >= _FLAT
    if not seen.any():
        return np.zeros((0, 2)), np.zeros((0, 2))
    shifts, peaks = _shifts(blocks[seen], others[seen])
    clear = peaks >= np.median(peaks) / 2
    centres = np.array(starts, np.float64)[seen] + (side - 1) / 2
    return centres[clear], shifts[clear] + coarse


def _shifts(before: Floats, after: Floats) -> tuple[Floats, Floats]:
    """Shifts (N, 2), as x and y, of each image (N, H, W) against another, and the heights of their peaks."""
    count, height, width = before.shape
    # The window fades the borders out, which would otherwise count as an edge that never moves.
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    first, second = (np.fft.rfft2((a - a.mean(axis=(1, 2), keepdims=True)) * window) for a in (before, after))
    cross = np.conj(first) * second
    surface = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9), s=(height, width))
    best = surface.reshape(count, -1).argmax(axis=1)
    y, x = np.divmod(best, width)
    n = np.arange(count)
    peaks = surface[n, y, x]
    # Parabolas through the neighbours give fractions of a pixel.
    dx = _vertex(surface[n, y, x - 1], peaks, surface[n, y, (x + 1) % width])
    dy = _vertex(surface[n, y - 1, x], peaks, surface[n, (y + 1) % height, x])
    shifts = np.stack((x + dx - width * (x > width // 2), y + dy - height * (y > height // 2)), axis=1)
    return shifts, peaks


def _vertex(left: Floats, middle: Floats, right: Floats) -> Floats:
    """Where the parabola through three values one apart is highest, −0.5…0.5 from the middle one."""
    bend = left - 2 * middle + right
    vertex: Floats = np.where(bend < -1e-12, 0.5 * (left - right) / np.where(bend < -1e-12, bend, 1.0), 0.0)
    return np.clip(vertex, -0.5, 0.5)
