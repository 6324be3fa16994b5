"""Designs of boards: modules of parts on a grid of cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CELL = 15.5  # mm
MARGIN = 2.0  # mm

SIZES: dict[str, tuple[float, float]] = {
    "capacitor": (3.0, 1.8),
    "connector": (8.0, 3.4),
    "crystal": (5.0, 2.6),
    "diode": (3.6, 1.7),
    "electrolytic": (4.2, 4.2),
    "ic": (6.4, 5.0),
    "resistor": (3.4, 1.7),
    "transistor": (3.0, 2.8),
}
"""Class → length along its own x axis and width, in mm."""
CLASSES = tuple(SIZES)

_PREFIXES = {
    "capacitor": "C",
    "connector": "J",
    "crystal": "Y",
    "diode": "D",
    "electrolytic": "C",
    "ic": "U",
    "resistor": "R",
    "transistor": "Q",
}
_VALUES = {
    "capacitor": "100n",
    "connector": "Conn_01x04",
    "crystal": "16MHz",
    "diode": "1N4148",
    "electrolytic": "47u",
    "ic": "LM358",
    "resistor": "10k",
    "transistor": "BC847",
}
_PACKAGES = {
    "capacitor": "C_0805",
    "connector": "PinHeader_1x04",
    "crystal": "Crystal_5032",
    "diode": "D_MELF",
    "electrolytic": "CP_Elec_4x5.4",
    "ic": "SOIC-8",
    "resistor": "R_0805",
    "transistor": "SOT-23",
}

MODULES: dict[str, tuple[tuple[str, float, float, float], ...]] = {
    "amplifier": (
        ("ic", 0, 0, 0),
        ("capacitor", -5.2, 0, 90),
        ("capacitor", 5.2, 0, 90),
        ("resistor", -2.2, 4.6, 0),
        ("resistor", 2.2, 4.6, 0),
    ),
    "clock": (("ic", -1.5, -1, 0), ("crystal", -1.5, 4.2, 0), ("capacitor", 4.2, 4.2, 90), ("capacitor", 4.2, -1, 90)),
    "supply": (
        ("transistor", 0, 0, 0),
        ("electrolytic", -4.6, 0, 0),
        ("electrolytic", 4.6, 0, 0),
        ("diode", 0, 4.2, 0),
        ("capacitor", 0, -3.8, 0),
    ),
    "port": (("connector", 0, 3, 0), ("resistor", -2.6, -1.2, 90), ("resistor", 2.6, -1.2, 90), ("diode", 0, -4.6, 0)),
    "driver": (("transistor", -2, 0, 90), ("resistor", -2, 4, 0), ("diode", 3, 0, 90)),
    "filter": (
        ("resistor", -3, 2.6, 0),
        ("capacitor", 2.2, 2.6, 90),
        ("resistor", 2.2, -2.4, 0),
        ("capacitor", -3, -2.4, 90),
    ),
}
"""Kind of module → its parts: class, place in the module in mm, rotation in degrees. Every module has all its parts."""
_KINDS = tuple(MODULES)


@dataclass(frozen=True)
class Part:
    """A nominal part.

    Attributes:
        reference: "R12".
        label: its class, one of :data:`CLASSES`.
        xy: centre in mm, y up, from the board's lower left corner.
        rotation: degrees, counter-clockwise.
        module: number of the module that it is part of.
        value: "10k".
        package: "R_0805".
    """

    reference: str
    label: str
    xy: tuple[float, float]
    rotation: float
    module: int
    value: str
    package: str


@dataclass(frozen=True)
class Board:
    """A design.

    Attributes:
        name: of the design.
        size: width and height in mm.
        parts: nominal.
        modules: kind of each module, by its number.
    """

    name: str
    size: tuple[float, float]
    parts: tuple[Part, ...]
    modules: tuple[str, ...]

    @property
    def places(self) -> npt.NDArray[np.float64]:
        """(N, 2) centres in mm, y up."""
        return np.array([part.xy for part in self.parts], np.float64).reshape(-1, 2)

    @property
    def labels(self) -> list[str]:
        """Class of each part."""
        return [part.label for part in self.parts]


def make_board(seed: int, cells: tuple[int, int] = (3, 3), filled: float = 0.85) -> Board:
    """A design of its own for each seed.

    Args:
        seed: of the design.
        cells: columns and rows of modules; a module has 4.2 parts in the mean.
        filled: share of cells that have a module; the others are empty, so that designs differ in outline as well.
    """
    rng = np.random.default_rng([seed, 1])
    parts: list[Part] = []
    modules: list[str] = []
    numbers: dict[str, int] = {}
    columns, rows = cells
    for cell in range(columns * rows):
        if rng.random() > filled:
            continue
        kind = _KINDS[rng.integers(len(_KINDS))]
        turn = 90 * int(rng.integers(4))
        centre = CELL * (np.array([cell % columns, cell // columns]) + 0.5) + MARGIN + rng.uniform(-0.9, 0.9, 2)
        for label, x, y, rotation in MODULES[kind]:
            # Hand-placed parts: no two modules of a kind are quite alike.
            offset = turned(np.array([x, y]) + rng.uniform(-0.35, 0.35, 2), turn)
            prefix = _PREFIXES[label]
            numbers[prefix] = numbers.get(prefix, 0) + 1
            parts.append(
                Part(
                    f"{prefix}{numbers[prefix]}",
                    label,
                    (round(float(centre[0] + offset[0]), 3), round(float(centre[1] + offset[1]), 3)),
                    float((rotation + turn) % 360),
                    len(modules),
                    _VALUES[label],
                    _PACKAGES[label],
                )
            )
        modules.append(kind)
    size = (columns * CELL + 2 * MARGIN, rows * CELL + 2 * MARGIN)
    return Board(f"board-{seed:05d}", size, tuple(parts), tuple(modules))


def turned(xy: npt.NDArray[np.float64], degrees: float) -> npt.NDArray[np.float64]:
    """(…, 2) points turned counter-clockwise about the origin, y up."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotated: npt.NDArray[np.float64] = xy @ np.array([[c, s], [-s, c]])
    return rotated
