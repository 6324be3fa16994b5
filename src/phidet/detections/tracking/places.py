"""Lines and zones in an image, in pixels or in shares of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import ConfigError, InputError

Floats = npt.NDArray[np.float64]
Points = tuple[tuple[float, float], ...]


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line to cross (two points) or a zone to be in (three points or more).

    Attributes:
        name: of the place, as results call it.
        points: (x, y) each; shares of the image's width and height where all are 0…1, else pixels.

    Raises:
        ConfigError: no name, one point, a number that is not finite, or all points on one spot.
    """

    name: str
    points: Points

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise ConfigError(f"a line or zone needs a printable name, got {self.name!r}")
        if len(self.points) < 2 or not all(math.isfinite(v) for point in self.points for v in point):
            raise ConfigError(f"{self.name}: expected two points for a line and more for a zone, got {self.points}")
        # Two different points make a line, three a zone; more than those may come twice, as where it is closed.
        if len(set(self.points)) < len(self.points[:3]):
            raise ConfigError(f"{self.name}: its points lie on one spot, {self.points}")

    @property
    def is_line(self) -> bool:
        """Whether it is a line rather than a zone."""
        return len(self.points) == 2

    def in_pixels(self, size_hw: tuple[int, int]) -> Floats:
        """(P, 2) float64, in an image of ``size_hw``."""
        # All of them within 0…1 are shares: as pixels they would lie in the image's first one.
        points = np.array(self.points, np.float64)
        return points * size_hw[::-1] if ((points >= 0) & (points <= 1)).all() else points


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
