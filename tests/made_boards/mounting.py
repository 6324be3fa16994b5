"""What is mounted on a board: its parts, right but for known faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from made_boards.board import CLASSES, SIZES, Board

Fault = Literal["", "missing", "displaced", "wrong label", "rotated", "extra"]


@dataclass(frozen=True)
class FaultShares:
    """Shares of parts with a fault; ``extra`` are as many more parts, relative to the nominal number.

    Attributes:
        missing: not mounted.
        displaced: mounted 1.2 to 2.2 mm away from its place.
        wrong_label: a part of another class is mounted.
        rotated: mounted turned by 90°; never electrolytics, which look the same.
        extra: parts that no list has.
    """

    missing: float = 0.03
    displaced: float = 0.03
    wrong_label: float = 0.03
    rotated: float = 0.0
    extra: float = 0.02


NO_FAULTS = FaultShares(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Mounted:
    """A part on the board.

    Attributes:
        reference: of the nominal part whose place it has, "" for an extra one.
        label: its true class.
        xy: its true centre in mm, y up.
        rotation: its true rotation in degrees, counter-clockwise.
        fault: "" or what is wrong.
        module: that it belongs to, −1 for an extra one.
    """

    reference: str
    label: str
    xy: tuple[float, float]
    rotation: float
    fault: Fault
    module: int


@dataclass(frozen=True)
class Assembly:
    """A mounted board.

    Attributes:
        board: its design.
        mounted: parts on it, in the design's order, extra ones last.
        faults: reference → its fault, "" for a right one; of all nominal parts.
    """

    board: Board
    mounted: tuple[Mounted, ...]
    faults: dict[str, Fault]

    @property
    def right(self) -> bool:
        """Whether nothing is wrong, missing or extra."""
        return not any(self.faults.values()) and all(part.fault == "" for part in self.mounted)

    def edges(self) -> list[tuple[int, int]]:
        """Pairs of mounted parts (i < j) that belong to the same module."""
        modules = [part.module for part in self.mounted]
        return [
            (i, j)
            for i in range(len(modules))
            for j in range(i + 1, len(modules))
            if modules[i] == modules[j] and modules[i] >= 0
        ]


def mount(board: Board, seed: int, shares: FaultShares = NO_FAULTS, scatter: float = 0.05) -> Assembly:
    """Mounts a board.

    Args:
        board: the design.
        seed: of the faults.
        shares: of faults; each is drawn independently for each part, a part has at most one.
        scatter: standard deviation in mm of the place of a right part, in each direction.
    """
    rng = np.random.default_rng([seed, 3])
    limits = np.cumsum([shares.missing, shares.displaced, shares.wrong_label, shares.rotated])
    kinds: tuple[Fault, ...] = ("missing", "displaced", "wrong label", "rotated")
    mounted: list[Mounted] = []
    faults: dict[str, Fault] = {}
    for part in board.parts:
        drawn = int(np.searchsorted(limits, rng.random(), side="right"))
        fault: Fault = kinds[drawn] if drawn < len(kinds) else ""
        if fault == "rotated" and part.label == "electrolytic":
            fault = ""
        faults[part.reference] = fault
        if fault == "missing":
            continue
        xy = np.array(part.xy) + scatter * rng.standard_normal(2)
        label, rotation = part.label, part.rotation
        if fault == "displaced":
            direction = rng.uniform(0, 2 * np.pi)
            xy += rng.uniform(1.2, 2.2) * np.array([np.cos(direction), np.sin(direction)])
        elif fault == "wrong label":
            # As large or smaller, as it must fit on the pads.
            area = SIZES[label][0] * SIZES[label][1]
            others = [c for c in CLASSES if c != label and SIZES[c][0] * SIZES[c][1] <= 1.3 * area]
            label = others[rng.integers(len(others))]
        elif fault == "rotated":
            rotation = (rotation + 90) % 360
        mounted.append(Mounted(part.reference, label, (float(xy[0]), float(xy[1])), rotation, fault, part.module))
    mounted += _extra(board, mounted, rng, int(rng.binomial(len(board.parts), shares.extra)))
    return Assembly(board, tuple(mounted), faults)


def _extra(board: Board, mounted: list[Mounted], rng: np.random.Generator, count: int) -> list[Mounted]:
    """Small parts in free places, at least 3.6 mm from nominal places and from all others."""
    taken = [part.xy for part in board.parts] + [part.xy for part in mounted]
    small = [c for c in CLASSES if max(SIZES[c]) <= 4.5]
    added: list[Mounted] = []
    for _ in range(200 * count):
        if len(added) == count:
            break
        xy = rng.uniform((3.0, 3.0), np.array(board.size) - 3)
        if min(np.hypot(xy[0] - x, xy[1] - y) for x, y in taken) < 3.6:
            continue
        taken.append((float(xy[0]), float(xy[1])))
        label, rotation = small[rng.integers(len(small))], 90.0 * int(rng.integers(4))
        added.append(Mounted("", label, taken[-1], rotation, "extra", -1))
    return added
