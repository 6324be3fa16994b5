"""Scenes with known tracks: TUD's from motmetrics, made ones, and detections with seeded mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from phidet.detections.detections import Detections

RATE = 25.0  # frames a second of TUD's videos
LEVELS = {"low": (0.02, 0.05, 0.2), "middle": (0.05, 0.15, 0.6), "high": (0.08, 0.3, 1.5)}
"""Level → standard deviation of the noise in sides, share of misses, false boxes a frame."""


class Truth(NamedTuple):
    """Ids and boxes of each frame."""

    ids: list[npt.NDArray[np.int64]]
    boxes_xyxy: list[npt.NDArray[np.float32]]
    size_hw: tuple[int, int]


def motmetrics_data() -> Path:
    """The folder with TUD's sequences in the installed motmetrics."""
    spec = find_spec("motmetrics")
    if spec is None or spec.origin is None:
        pytest.skip("motmetrics is not installed")
    return Path(spec.origin).parent / "data"


def tud(name: str) -> Truth:
    """``TUD-Campus`` or ``TUD-Stadtmitte``."""
    rows = np.loadtxt(motmetrics_data() / name / "gt.txt", delimiter=",")
    return truth_of(rows, (480, 640))


def truth_of(rows: npt.NDArray[np.float64], size_hw: tuple[int, int]) -> Truth:
    """From MOTChallenge's columns: frame (from 1), id, left, top, width, height."""
    boxes = np.column_stack((rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6])).astype(np.float32)
    frames = range(1, int(rows[:, 0].max()) + 1)
    parts = [rows[:, 0] == frame for frame in frames]
    return Truth([rows[part, 1].astype(np.int64) for part in parts], [boxes[part] for part in parts], size_hw)


def perfect(truth: Truth) -> list[Detections]:
    """Each frame's true boxes, with a score of 1."""
    return [_detections(boxes, np.ones(len(boxes)), truth.size_hw) for boxes in truth.boxes_xyxy]


def noisy(truth: Truth, level: tuple[float, float, float], seed: int) -> list[Detections]:
    """Detections with noise, misses and false boxes; false ones have lower scores on the whole."""
    noise, misses, false = level
    rng = np.random.default_rng(seed)
    found = []
    for boxes in truth.boxes_xyxy:
        sides = (boxes[:, 2:] - boxes[:, :2]).mean(axis=1, keepdims=True)
        kept = rng.random(len(boxes)) >= misses
        seen = (boxes + rng.normal(0, 1, boxes.shape) * noise * sides)[kept]
        count = rng.poisson(false)
        corner = rng.random((count, 2)) * truth.size_hw[::-1]
        # As large as an object, somewhere.
        side = (boxes[:, 2:] - boxes[:, :2])[rng.integers(0, len(boxes), count)] if len(boxes) else np.ones((count, 2))
        wrong = np.concatenate((corner - side / 2, corner + side / 2), axis=1)
        scores = np.concatenate((rng.uniform(0.35, 1, len(seen)), rng.uniform(0.1, 0.75, count)))
        found.append(_detections(np.concatenate((seen, wrong)), scores, truth.size_hw))
    return found


def _detections(boxes: npt.NDArray[Any], scores: npt.NDArray[Any], size_hw: tuple[int, int]) -> Detections:
    ordered = np.concatenate((np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])), axis=1)
    return Detections(ordered, scores, np.zeros(len(boxes), np.int64), ("person",), size_hw)


class Score(NamedTuple):
    """TrackEval's metrics in per cent, and the number of switches."""

    hota: float
    mota: float
    idf1: float
    switches: int


def score(truth: Truth, ids: Sequence[npt.NDArray[np.int64]], boxes: Sequence[npt.NDArray[Any]]) -> Score:
    """Of tracks, by TrackEval."""
    pytest.importorskip("trackeval")
    from phidet.evaluation.tracks.metrics import measure_tracks  # noqa: PLC0415 - needs trackeval

    measured = measure_tracks(truth.ids, truth.boxes_xyxy, ids, boxes)
    return Score(100 * measured.hota, 100 * measured.mota, 100 * measured.idf1, measured.switches)
