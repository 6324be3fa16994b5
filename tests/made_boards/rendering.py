"""Draws scenes: components in the board's plane, warped into the image, then light, blur and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from made_boards.board import SIZES, turned
from made_boards.mounting import Assembly, Mounted
from made_boards.scene import Scene

_PER_MM = 12  # pixels of the board's plane
_BORDER = 3.0  # mm around the board that are drawn in its plane
Colour = tuple[int, int, int]
_PIN: Colour = (196, 196, 190)
_TIN: Colour = (176, 178, 176)


def render(scene: Scene, seed: int, *, blur: float | None = None, noise: float | None = None) -> npt.NDArray[np.uint8]:
    """The scene as (H, W, 3) uint8 RGB.

    Args:
        scene: what is seen.
        seed: of colours, light, blur and noise.
        blur: standard deviation in pixels, 0.3 to 0.9 unless given.
        noise: standard deviation of the pixels' noise, 2 to 7 unless given.
    """
    rng = np.random.default_rng([seed, 6])
    plane = np.asarray(_draw_plane(scene.assembly, rng), np.float32)
    height, width = scene.camera.size_hw
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    places = scene.camera.back(np.stack([columns, rows], -1))
    board_height = scene.assembly.board.size[1]
    x = (places[..., 0] + _BORDER) * _PER_MM - 0.5
    y = (board_height + _BORDER - places[..., 1]) * _PER_MM - 0.5
    seen = _sample(plane, x, y, rng.uniform(30, 130) + rng.uniform(-12, 12, 3))
    # Light: a slope over the image, its colour, and one soft shadow.
    slope = 1 + rng.uniform(-0.25, 0.25) * (columns / width - 0.5) + rng.uniform(-0.25, 0.25) * (rows / height - 0.5)
    shadow = 1 - rng.uniform(0, 0.3) / (1 + np.exp((columns * rng.uniform(-1, 1) + rows - height / 2) / 25))
    seen = seen * (rng.uniform(0.75, 1.2) * slope * shadow)[..., None] * rng.uniform(0.93, 1.07, 3)
    sigma = rng.uniform(0.3, 0.9) if blur is None else blur
    image = Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(sigma))
    grain = (rng.uniform(2, 7) if noise is None else noise) * rng.standard_normal((height, width, 3), np.float32)
    pixels: npt.NDArray[np.uint8] = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    return pixels


def _sample(
    plane: npt.NDArray[np.float32],
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    around: npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """Bilinear samples of ``plane``, in which a pixel of the image is about two pixels wide; ``around`` outside it."""
    height, width = plane.shape[:2]
    left = np.clip(x.astype(np.int32), 0, width - 2)
    top = np.clip(y.astype(np.int32), 0, height - 2)
    fx = np.clip(x - left, 0, 1).astype(np.float32)[..., None]
    fy = np.clip(y - top, 0, 1).astype(np.float32)[..., None]
    flat, corner = plane.reshape(-1, 3), top * width + left
    upper = flat.take(corner, 0) * (1 - fx) + flat.take(corner + 1, 0) * fx
    lower = flat.take(corner + width, 0) * (1 - fx) + flat.take(corner + width + 1, 0) * fx
    inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height))[..., None]
    samples: npt.NDArray[np.float32] = np.where(inside, upper * (1 - fy) + lower * fy, around.astype(np.float32))
    return samples


def _draw_plane(assembly: Assembly, rng: np.random.Generator) -> Image.Image:
    """The board as seen straight from above, y down, with a border of the background's colour."""
    width, height = assembly.board.size
    size = (round((width + 2 * _BORDER) * _PER_MM), round((height + 2 * _BORDER) * _PER_MM))
    image = Image.new("RGB", size, tuple((rng.integers(30, 130) + rng.integers(-12, 13, 3)).tolist()))
    pen = _Pen(ImageDraw.Draw(image), height)
    mask = np.array([[20, 96, 52], [24, 60, 110], [110, 30, 34], [30, 34, 36], [14, 110, 84]])[rng.integers(5)]
    r, g, b = (int(v) for v in np.clip(mask + rng.integers(-12, 13, 3), 0, 255))
    board: Colour = (r, g, b)
    pen.polygon([(0, 0), (width, 0), (width, height), (0, height)], board)
    track = [min(255, int(v * 1.35) + 12) for v in board]
    _draw_tracks(pen, assembly, (track[0], track[1], track[2]), rng)
    for part in assembly.board.parts:
        # Pads are there whether or not the part is.
        length, _ = SIZES[part.label]
        for end in (-0.42 * length, 0.42 * length):
            pen.rectangle(part.xy, part.rotation, (end - 0.5, -0.6, end + 0.5, 0.6), (190, 170, 110))
    for mounted in assembly.mounted:
        _draw_part(pen, mounted, rng)
    return image.filter(ImageFilter.BoxBlur(0.6))


def _draw_tracks(pen: _Pen, assembly: Assembly, colour: Colour, rng: np.random.Generator) -> None:
    """Copper between the parts of the design, at right angles, and a few long lines across."""
    places = [part.xy for part in assembly.board.parts]
    for a, b in pairwise(places):
        pen.line([a, (b[0], a[1]), b], 0.3, colour)
    width, height = assembly.board.size
    for _ in range(6):
        x, y = rng.uniform((0, 0), (width, height))
        pen.line([(x, 1), (x, y), (width - 1, y)], 0.4, colour)


class _Pen:
    """Draws in mm, y up."""

    def __init__(self, draw: ImageDraw.ImageDraw, height: float) -> None:
        self._draw, self._height = draw, height

    def polygon(self, points: Sequence[tuple[float, float]] | npt.NDArray[np.float64], fill: Colour) -> None:
        self._draw.polygon(self._pixels(points), fill)

    def line(self, points: Sequence[tuple[float, float]], width: float, fill: Colour) -> None:
        self._draw.line(self._pixels(points), fill, max(1, round(width * _PER_MM)))

    def rectangle(
        self, xy: tuple[float, float], rotation: float, box: tuple[float, float, float, float], fill: Colour
    ) -> None:
        """A rectangle (x1, y1, x2, y2) in a part's own axes."""
        x1, y1, x2, y2 = box
        self.polygon(turned(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), rotation) + xy, fill)

    def disc(
        self, xy: tuple[float, float], rotation: float, centre: tuple[float, float], radius: float, fill: Colour
    ) -> None:
        """A disc around a point in a part's own axes."""
        angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * radius + centre
        self.polygon(turned(points, rotation) + xy, fill)

    def _pixels(self, points: Sequence[tuple[float, float]] | npt.NDArray[np.float64]) -> list[tuple[float, float]]:
        return [
            ((x + _BORDER) * _PER_MM, (self._height + _BORDER - y) * _PER_MM) for x, y in np.asarray(points).tolist()
        ]


@dataclass(frozen=True)
class _Body:
    """Draws one part in its own axes, its colours shifted by ``shade``."""

    pen: _Pen
    part: Mounted
    shade: int

    def box(self, x1: float, y1: float, x2: float, y2: float, fill: Colour) -> None:
        self.pen.rectangle(self.part.xy, self.part.rotation, (x1, y1, x2, y2), self._tone(fill))

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self.pen.disc(self.part.xy, self.part.rotation, (x, y), radius, self._tone(fill))

    def _tone(self, colour: Colour) -> Colour:
        r, g, b = (max(0, min(255, v + self.shade)) for v in colour)
        return r, g, b


def _chip(body: _Body, a: float, b: float, fill: Colour) -> None:
    body.box(-a, -b, a, b, _TIN)
    body.box(-a + 0.6, -b, a - 0.6, b, fill)


def _resistor(body: _Body, a: float, b: float) -> None:
    _chip(body, a, b, (28, 28, 32))
    for x in (-0.5, 0.0, 0.5):
        body.box(x - 0.12, -b * 0.5, x + 0.12, b * 0.5, (225, 225, 220))


def _capacitor(body: _Body, a: float, b: float) -> None:
    _chip(body, a, b, (172, 132, 88))


def _diode(body: _Body, a: float, b: float) -> None:
    _chip(body, a, b, (150, 62, 40))
    body.box(-a + 0.7, -b, -a + 1.15, b, (20, 20, 20))


def _electrolytic(body: _Body, a: float, _: float) -> None:
    body.disc(0, 0, a, (150, 152, 158))
    body.disc(0, 0, a * 0.8, (200, 202, 206))
    body.box(-a * 0.75, -a * 0.28, -a * 0.4, a * 0.28, (24, 24, 40))


def _transistor(body: _Body, a: float, b: float) -> None:
    for x, y in ((-0.95, -b), (0.95, -b), (0.0, b - 0.6)):
        body.box(x - 0.25, y, x + 0.25, y + 0.6, _PIN)
    body.box(-a, -b + 0.55, a, b - 0.55, (34, 34, 36))


def _ic(body: _Body, a: float, b: float) -> None:
    for x in np.linspace(-a + 0.8, a - 0.8, 4).tolist():
        body.box(x - 0.25, -b, x + 0.25, b, _PIN)
    body.box(-a, -b + 0.9, a, b - 0.9, (30, 30, 34))
    body.disc(-a + 0.8, -b + 1.6, 0.35, (120, 120, 120))
    body.box(-a * 0.4, -0.25, a * 0.6, 0.25, (150, 150, 150))


def _crystal(body: _Body, a: float, b: float) -> None:
    body.box(-a, -b, a, b, (140, 142, 146))
    body.box(-a + 0.35, -b + 0.35, a - 0.35, b - 0.35, (206, 208, 212))
    body.box(-a * 0.5, -0.2, a * 0.5, 0.2, (90, 92, 96))


def _connector(body: _Body, a: float, b: float) -> None:
    body.box(-a, -b, a, b, (222, 218, 200))
    for x in np.linspace(-a + 1, a - 1, 4).tolist():
        body.box(x - 0.45, -0.45, x + 0.45, 0.45, (60, 56, 40))
        body.box(x - 0.22, -0.22, x + 0.22, 0.22, (214, 190, 96))


_DRAW = {
    "capacitor": _capacitor,
    "connector": _connector,
    "crystal": _crystal,
    "diode": _diode,
    "electrolytic": _electrolytic,
    "ic": _ic,
    "resistor": _resistor,
    "transistor": _transistor,
}


def _draw_part(pen: _Pen, part: Mounted, rng: np.random.Generator) -> None:
    length, width = SIZES[part.label]
    _DRAW[part.label](_Body(pen, part, int(rng.integers(-14, 15))), length / 2, width / 2)
