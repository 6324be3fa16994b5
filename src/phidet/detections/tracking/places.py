"""Lines and zones in an image, in pixels or in shares of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import ConfigError, InputError

Floats = npt.NDArray[np.float64]
Points = tuple[tuple[float, float], ...]
_TINY = 3  # pixels


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line to cross (two points) or a zone to be in (three points or more).

    Attributes:
        name: of the place, as results call it.
        points: (x, y) each; shares of the image's width and height where all are 0…1, else pixels.

    Raises:
        ConfigError: no name, one point, a number that is not finite, all points on one spot or of a zone on one line,
            or sides of a zone that cross.
    """

    name: str
    points: Points

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise ConfigError(f"a line or zone needs a printable name, got {self.name!r}")
        if len(self.points) < 2:
            raise ConfigError(f"{self.name}: expected two points for a line and more for a zone, got {self.points}")
        if not all(math.isfinite(v) for point in self.points for v in point):
            raise ConfigError(f"{self.name}: expected finite numbers, got {self.points}")
        # Two different points make a line, three a zone; more than those may come twice, as where it is closed.
        if len(set(self.points)) < len(self.points[:3]):
            raise ConfigError(f"{self.name}: its points lie on one spot, {self.points}")
        if not self.is_line and _on_one_line(self.points):
            raise ConfigError(f"{self.name}: its points lie on one line, {self.points}: a zone has an area")
        if not self.is_line and _sides_cross(self.points):
            raise ConfigError(f"{self.name}: its sides cross: give the corners in their order around the zone")

    @property
    def is_line(self) -> bool:
        """Whether it is a line rather than a zone."""
        return len(self.points) == 2

    def in_pixels(self, size_hw: tuple[int, int]) -> Floats:
        """(P, 2) float64, in an image of ``size_hw``."""
        # All of them within 0…1 are shares: as pixels they would lie in the image's first one.
        points = np.array(self.points, np.float64)
        return points * size_hw[::-1] if ((points >= 0) & (points <= 1)).all() else points

    def doubt(self, size_hw: tuple[int, int]) -> str | None:
        """Why it is probably not what was meant in an image of ``size_hw``; ``None`` without doubt."""
        points = self.in_pixels(size_hw)
        low, high, (height, width) = points.min(axis=0), points.max(axis=0), size_hw
        if (high < 0).any() or low[0] > width or low[1] > height:
            return f"{self.name} lies outside of the image, {width}×{height} pixels: nothing is counted there"
        if (high - low).max() < _TINY:
            return f"{self.name} is smaller than {_TINY} pixels: only numbers that are all 0…1 are shares of the image"
        return None


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Positive where the way from a over b to c turns to the right, in an image with y down; 0 on a straight line."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _on_one_line(points: Points) -> bool:
    first = points[0]
    second = next(point for point in points if point != first)
    return all(_turn(first, second, point) == 0 for point in points)


def _sides_cross(points: Points) -> bool:
    """Whether two sides of a polygon meet between their ends."""
    sides = list(zip(points, points[1:] + points[:1], strict=True))
    for (a, b), (c, d) in combinations(sides, 2):
        # Each side has an end on either side of the other; those that share an end have a turn of 0.
        if _turn(a, b, c) * _turn(a, b, d) < 0 and _turn(c, d, a) * _turn(c, d, b) < 0:
            return True
    return False


def parse_place(text: str) -> Place:
    """``NAME=x1,y1,x2,y2``, a line, or with more points a zone.

    Raises:
        ConfigError: it is of another form.
    """
    name, _, numbers = text.partition("=")
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        values = []
    if not name.strip() or len(values) < 4 or len(values) % 2:
        raise ConfigError(f"expected NAME=x1,y1,x2,y2 for a line, with more points for a zone, got {text!r}")
    return Place(name.strip(), tuple(zip(values[::2], values[1::2], strict=True)))


def read_places(path: Path) -> list[Place]:
    """Lines and zones of a JSON file, ``{"door": [[0.1, 0.5], [0.9, 0.5]], …}``, as the live page copies them.

    Raises:
        InputError: it cannot be read, or is of another form.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[tuple[float, float], ...]])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise InputError(f'{path}: expected {{"NAME": [[x, y], [x, y]]}}, {error}') from error
    return [Place(name, points) for name, points in found.items()]


def check_names(places: Sequence[Place]) -> None:
    """Raises ConfigError where two have the same name."""
    names = [place.name for place in places]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"there are two lines or zones named {twice!r}: each needs a name of its own")


def side_of_line(line: Floats, point: Floats) -> float:
    """How far a point is from the straight line through ``line`` (2, 2), in pixels: positive on the right of its
    direction, as one sees it in an image with y down; negative on the left."""
    (x1, y1), (x2, y2) = line.tolist()
    x, y = point.tolist()
    return float(((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)) / math.hypot(x2 - x1, y2 - y1))


def crosses_between_ends(line: Floats, before: Floats, after: Floats) -> bool:
    """Whether the way from one point to the other meets the straight line between the ends of ``line``."""
    a, b = side_of_line(line, before), side_of_line(line, after)
    if a == b:
        return False
    # Signed distances on both sides of the line: they divide the way as it does.
    meeting = before + (after - before) * (a / (a - b))
    direction = line[1] - line[0]
    along = float(np.dot(meeting - line[0], direction) / np.dot(direction, direction))
    return 0 <= along <= 1


def is_inside(polygon: Floats, point: Floats) -> bool:
    """Whether a point lies in a polygon (P, 2): a ray from it to the right meets the border an odd number of times."""
    x, y = point.tolist()
    inside = False
    for (x1, y1), (x2, y2) in zip(polygon.tolist(), np.roll(polygon, -1, axis=0).tolist(), strict=True):
        # Each corner belongs to one of its two sides only: the border counts once.
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            inside = not inside
    return inside


def distance_to_border(polygon: Floats, point: Floats) -> float:
    """From a point to the nearest point of the border, in pixels."""
    starts, ways = polygon, np.roll(polygon, -1, axis=0) - polygon
    lengths = np.maximum((ways**2).sum(axis=1), 1e-12)
    along = np.clip(((point - starts) * ways).sum(axis=1) / lengths, 0, 1)
    return float(np.linalg.norm(starts + along[:, None] * ways - point, axis=1).min())
