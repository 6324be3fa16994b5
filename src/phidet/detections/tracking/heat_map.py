"""Where objects spend their time, as an image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from phidet.detections.draw import font_size

Floats = npt.NDArray[np.float64]
_LONGEST = 480  # cells of the longer side
_SPREAD = 0.012  # of the longer side: standard deviation of the smoothing
# Dark blue over red to light yellow, rising in lightness, so that it can be read in grey, too.
_STOPS = ((0.0, (30, 20, 110)), (0.35, (150, 30, 130)), (0.65, (235, 95, 60)), (1.0, (255, 240, 140)))


class HeatMap:
    """Adds up the seconds that anchors spend in each cell of a grid; memory is that of the grid."""

    def __init__(self) -> None:
        self._grid: Floats | None = None
        self._size_hw = (1, 1)

    def add(self, anchors: Floats, seconds: float, size_hw: tuple[int, int]) -> None:
        """(N, 2) points in pixels of a frame of ``size_hw``, which lasts for ``seconds``; those outside count at its
        border. A stream that changes its size keeps its grid."""
        # A cell for a few pixels: finer ones would be smoothed anyway.
        if self._grid is None:
            scale = min(1.0, _LONGEST / max(size_hw))
            self._grid = np.zeros(tuple(max(1, round(side * scale)) for side in size_hw))
            self._size_hw = size_hw
        rows, columns = self._grid.shape
        x = np.clip(anchors[:, 0] / size_hw[1] * columns, 0, columns - 1).astype(int)
        y = np.clip(anchors[:, 1] / size_hw[0] * rows, 0, rows - 1).astype(int)
        np.add.at(self._grid, (y, x), seconds)

    @property
    def total_s(self) -> float:
        """Seconds of all objects together."""
        return 0.0 if self._grid is None else float(self._grid.sum())

    def draw(self, background: npt.NDArray[np.uint8]) -> Image.Image:
        """The map over a frame, (H, W, 3) uint8 RGB, in grey; with a scale in seconds, on which an object that stands
        still for ten is 10 s."""
        height, width = background.shape[:2]
        # Grey, so that all colour is the map's.
        base = Image.fromarray(background).convert("L").convert("RGB")
        if self._grid is None or not self._grid.any():
            return base
        sigma = _SPREAD * max(self._grid.shape)
        smooth = _blurred(self._grid, sigma)
        share = smooth / smooth.max()
        # The square root lifts what is seldom but not nothing; below a hundredth, the image itself is seen.
        level = np.sqrt(share)
        rgb = _colours(level)
        opacity = (np.clip(level * 2.5, 0, 1) * 210 * (share > 0.01)).astype(np.uint8)
        size = (width, height)
        layer = Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC)
        mask = Image.fromarray(opacity).resize(size, Image.Resampling.BICUBIC)
        drawn = Image.composite(layer, base, mask)
        # The peak of one point that was smoothed is 1 / 2πσ² of it; the grid of a tiny frame is not smoothed at all.
        _draw_scale(drawn, float(smooth.max()) * max(1.0, 2 * np.pi * sigma**2))
        return drawn


def _colours(level: Floats) -> npt.NDArray[np.uint8]:
    """(…, 3) RGB of levels 0…1."""
    stops, colours = [stop for stop, _ in _STOPS], np.array([rgb for _, rgb in _STOPS], np.float64)
    return np.stack([np.interp(level, stops, colours[:, c]) for c in range(3)], axis=-1).astype(np.uint8)


def _blurred(grid: Floats, sigma: float) -> Floats:
    """``grid`` smoothed by a Gaussian in both directions; what would leave at the borders is reflected."""
    reach = max(1, int(np.ceil(3 * sigma)))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 0.3)) ** 2)
    weights /= weights.sum()
    smooth = grid
    for axis in (0, 1):
        padded = np.pad(smooth, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="symmetric")
        length = smooth.shape[axis]
        smooth = sum(w * np.take(padded, range(i, i + length), axis=axis) for i, w in enumerate(weights))
    return smooth


def _draw_scale(image: Image.Image, most_s: float) -> None:
    """A bar from nothing to the most, at the lower left."""
    size = font_size(image.size)
    wide, high, pad = max(60, image.width // 5), max(6, size // 2), max(4, size // 3)
    x, y = pad * 2, image.height - 3 * pad - high - size
    pen = ImageDraw.Draw(image, "RGBA")
    pen.rounded_rectangle((x - pad, y - pad, x + wide + pad, y + high + size + 2 * pad), pad, (0, 0, 0, 150))
    for i, rgb in enumerate(_colours(np.arange(wide) / max(1, wide - 1)).tolist()):
        pen.line((x + i, y, x + i, y + high), fill=tuple(rgb))
    text = f"{most_s:.0f} s" if most_s >= 10 else f"{most_s:.1f} s"
    used = ImageFont.load_default(size)
    pen.text((x, y + high + pad // 2), "0", (255, 255, 255), used)
    pen.text((x + wide, y + high + pad // 2), text, (255, 255, 255), used, anchor="ra")
