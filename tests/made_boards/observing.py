"""Detections without pixels: what a detector of known quality would find in a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from made_boards.board import CLASSES
from made_boards.scene import Scene


@dataclass(frozen=True)
class ClutterShares:
    """Quality of a detector.

    Attributes:
        missing: share of parts that are not found.
        false: false detections, relative to the number of mounted parts.
        mislabelled: share of found parts with another class.
        noise_px: standard deviation of a box's centre in each direction.
    """

    missing: float = 0.3
    false: float = 0.2
    mislabelled: float = 0.1
    noise_px: float = 1.0


@dataclass(frozen=True, eq=False)
class Observed:
    """Detections, in random order.

    Attributes:
        boxes_xyxy: (D, 4) pixels.
        scores: (D,) 0…1.
        class_ids: (D,) of :data:`CLASSES`.
        sources: (D,) number of the mounted part, −1 for a false detection.
    """

    boxes_xyxy: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    class_ids: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]


def observe(scene: Scene, seed: int, shares: ClutterShares | None = None) -> Observed:
    """Detections of a scene: parts whose centre lies in the image, and false ones uniformly on the board."""
    shares = ClutterShares() if shares is None else shares
    rng = np.random.default_rng([seed, 5])
    height, width = scene.camera.size_hw
    centres = scene.places_px
    visible = ((centres >= 0) & (centres < [width, height])).all(1)
    sources = np.flatnonzero(visible & (rng.random(len(centres)) >= shares.missing))
    class_ids = np.array([CLASSES.index(label) for label in scene.labels], np.int64)[sources]
    wrong = rng.random(len(sources)) < shares.mislabelled
    class_ids[wrong] = (class_ids[wrong] + rng.integers(1, len(CLASSES), int(wrong.sum()))) % len(CLASSES)
    sizes = scene.boxes_xyxy[:, 2:] - scene.boxes_xyxy[:, :2]
    false = round(shares.false * len(centres))
    # False detections lie where parts lie: on the board, not beside it.
    places = scene.camera.project(rng.uniform((0, 0), scene.assembly.board.size, (false, 2)))
    found = np.concatenate([centres[sources] + shares.noise_px * rng.standard_normal((len(sources), 2)), places])
    halves = np.concatenate([sizes[sources], sizes[rng.integers(len(sizes), size=false)]]) / 2
    order = rng.permutation(len(found))
    return Observed(
        np.concatenate([found - halves, found + halves], axis=1)[order],
        rng.uniform(0.3, 1, len(found)),
        np.concatenate([class_ids, rng.integers(len(CLASSES), size=false)])[order],
        np.concatenate([sources, np.full(false, -1)])[order],
    )
