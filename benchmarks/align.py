"""Poses and places against made truth: found or not, error beside its Cramér–Rao bound, false acceptance, time.

    python benchmarks/align.py                 # 100 boards a row, 200 unrelated ones
    python benchmarks/align.py --boards 20 --first 5000 --json    # other boards

Boards are made (tests/made_boards): modules of parts, with 30 % of the parts missing, 20 % false detections, 10 %
mislabelled, and 1 pixel of noise on box centres. The bound is that of an estimator which is told the true kind of pose
and which detections are right: with J the derivatives of the pixels of the right detections by the pose's parameters,
the covariance of the pose is σ² (Jᵀ J)⁻¹, and that of a place's pixels J₀ σ² (Jᵀ J)⁻¹ J₀ᵀ; a measured place, to which
the pose is not fitted, adds σ². Errors and bounds are root mean squares of a coordinate, over all boards, in pixels. A
wrong pose is one farther than 20 pixels away, on the median part. Times are of one core (CPU time).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from made_boards import (
    CLASSES,
    ClutterShares,
    FaultShares,
    Observed,
    Scene,
    make_board,
    make_camera,
    mount,
    observe,
)
from made_boards.nominal import as_detections, nominal_of_board
from phidet.cli.tables import or_dash, table
from phidet.detections.alignment.alignment import align_detections
from phidet.detections.alignment.pose import Frame, Pose, fit_pose
from phidet.detections.alignment.results import Alignment
from phidet.detections.alignment.settings import AlignSettings
from phidet.detections.detections import Detections

WRONG = 20.0  # px
Floats = npt.NDArray[np.float64]


class Case(NamedTuple):
    """A row: boards of so many cells in images of that size, under a kind of pose."""

    name: str
    cells: tuple[int, int]
    size_hw: tuple[int, int]
    kind: Any
    k1: float
    settings: AlignSettings


CASES = (
    Case("similarity", (3, 3), (384, 384), "similarity", 0.0, AlignSettings()),
    Case("affine", (3, 3), (384, 384), "affine", 0.0, AlignSettings()),
    Case("homography", (3, 3), (384, 384), "homography", 0.0, AlignSettings()),
    Case("homography, larger", (6, 5), (1000, 1200), "homography", 0.0, AlignSettings()),
    Case("k1 = −0.08", (6, 5), (1000, 1200), "homography", -0.08, AlignSettings(distortion=True)),
    Case("1,000 parts", (16, 17), (2000, 2000), "homography", 0.0, AlignSettings()),
)


class Sums:
    """Squared errors and bounds of a case."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.parts: list[int] = []
        self.seconds: list[float] = []
        self.squares: dict[str, list[Floats]] = {"pose": [], "pose bound": [], "place": [], "place bound": []}

    def rms(self, name: str) -> float | None:
        """Root mean square of a coordinate."""
        values = self.squares[name]
        return float(np.sqrt(np.concatenate([one.ravel() for one in values]).mean())) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--boards", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first board")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = {}
    for case in CASES:
        boards = max(5, args.boards // 5) if case.cells[0] > 8 else args.boards
        results[case.name] = run_case(case, range(args.first, args.first + boards))
    seeds = range(args.first, args.first + 2 * args.boards)
    false = {name: unrelated(seeds, clutter) for name, clutter in (("another board", True), ("at random", False))}
    if args.json:
        print(json.dumps({"cases": {name: _numbers(sums) for name, sums in results.items()}, "false": false}, indent=1))
        return
    rows = [[name, *(or_dash(value, "{}") for value in _shown(_numbers(sums)))] for name, sums in results.items()]
    header = ["boards", "parts", "found", "of", "wrong", "pose px", "bound", "places px", "bound", "CPU ms", "at most"]
    print(table(header, rows))
    for name, counts in false.items():
        print(f"detections {name}: {counts}")


def run_case(case: Case, seeds: Sequence[int]) -> Sums:
    """Aligns a board of its own design for each seed, and sums up errors."""
    sums = Sums()
    for seed in seeds:
        board = make_board(seed, case.cells)
        camera = make_camera(board.size, seed, case.size_hw, case.kind, k1=case.k1)
        scene = Scene(mount(board, seed, FaultShares(0, 0, 0, 0, 0), scatter=0.0), camera)
        observed = observe(scene, seed)
        nominal, found = nominal_of_board(board), as_detections(observed, case.size_hw)
        before = time.process_time()
        result = align_detections(nominal, found, case.settings)
        sums.seconds.append(time.process_time() - before)
        sums.parts.append(len(board.parts))
        if result.pose is None:
            sums.outcomes[result.reason] += 1
            continue
        expected = project(result, board.places)
        errors = expected - camera.project(board.places)
        wrong = np.median(np.linalg.norm(errors, axis=1)) > WRONG
        sums.outcomes["wrong" if wrong else "found"] += 1
        if not wrong:
            sums.squares["pose"].append(errors**2)
            _add_places(sums, result, scene)
            _add_bounds(sums, case, scene, observed)
    return sums


def _add_places(sums: Sums, result: Alignment, scene: Scene) -> None:
    """Errors of measured places, in pixels of the image's scale, for parts that the detector found and named."""
    assert result.pose is not None
    true = {part.reference: part.xy for part in scene.assembly.mounted}
    for part in result.parts:
        if part.verdict == "right" and part.xy is not None:
            error = (np.array(part.xy) - true[part.reference]) * result.pose.scale
            sums.squares["place"].append(error**2)


def _add_bounds(sums: Sums, case: Case, scene: Scene, observed: Observed) -> None:
    """The bound for the true kind of pose, fitted to the detections that are right."""
    board = scene.assembly.board
    labels = np.array([CLASSES.index(label) for label in board.labels])
    sources = observed.sources
    right = (sources >= 0) & (observed.class_ids == labels[sources])
    down = board.places * [1, -1]
    frame = Frame.of(down, case.size_hw)
    pose = true_pose(scene, frame, case)
    derivative = pose.by_parameters(down[sources[right]]).reshape(-1, pose.parameters)
    covariance = np.linalg.inv(derivative.T @ derivative)
    everywhere = pose.by_parameters(down)
    spread = np.einsum("nij,jk,nik->ni", everywhere, covariance, everywhere)
    sums.squares["pose bound"].append(spread)
    # A place that is not fitted to: its own noise, and that of the pose from all others.
    own = pose.by_parameters(down[sources[right]])
    hat = own @ covariance @ own.transpose(0, 2, 1)
    without = np.linalg.inv(np.eye(2) - hat)
    sums.squares["place bound"].append(np.diagonal(without, axis1=1, axis2=2))


def true_pose(scene: Scene, frame: Frame, case: Case) -> Pose:
    """The camera as a pose, for its derivatives: fitted to the true pixels, which it meets exactly."""
    down = scene.assembly.board.places * [1, -1]
    to_places = np.array([[frame.spread, 0, frame.middle[0]], [0, frame.spread, frame.middle[1]], [0, 0, 1.0]])
    from_pixels = np.linalg.inv(
        np.array([[frame.half, 0, frame.centre[0]], [0, frame.half, frame.centre[1]], [0, 0, 1.0]])
    )
    matrix = from_pixels @ scene.camera.matrix @ np.diag([1.0, -1.0, 1.0]) @ to_places
    start = Pose(case.kind, matrix / matrix[2, 2], case.k1, frame)
    fitted = fit_pose(
        down, scene.camera.project(scene.assembly.board.places), start, case.kind, distortion=bool(case.k1)
    )
    assert fitted is not None
    return fitted


def unrelated(seeds: Sequence[int], of_another: bool) -> dict[str, int]:
    """Outcomes where the nominal list is of another design, or detections lie at random."""
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        board, other = make_board(seed), make_board(seed + 5000)
        if of_another:
            camera = make_camera(other.size, seed)
            scene = Scene(mount(other, seed), camera)
            found = as_detections(observe(scene, seed, ClutterShares()), camera.size_hw)
        else:
            found = _random_detections(seed, len(board.parts))
        result = align_detections(nominal_of_board(board), found)
        outcomes["accepted" if result.pose is not None else result.reason] += 1
    return dict(outcomes)


def _random_detections(seed: int, count: int) -> Detections:
    rng = np.random.default_rng([seed, 8])
    centres = rng.uniform(30, 354, (count, 2))
    boxes = np.concatenate([centres - 8, centres + 8], axis=1).astype(np.float32)
    return Detections(boxes, np.ones(count, np.float32), rng.integers(len(CLASSES), size=count), CLASSES, (384, 384))


def project(result: Alignment, places: Floats) -> Floats:
    """Nominal places in pixels by the reported pose, as its documentation says."""
    assert result.pose is not None
    homogeneous = np.c_[places, np.ones(len(places))] @ np.array(result.pose.matrix).T
    centre = np.array([result.image_size_hw[1], result.image_size_hw[0]]) / 2
    offset = homogeneous[:, :2] / homogeneous[:, 2:] - centre
    square = (offset**2).sum(1, keepdims=True) / (centre**2).sum()
    pixels: Floats = centre + offset * (1 + result.pose.k1 * square)
    return pixels


def _numbers(sums: Sums) -> dict[str, float | int | None]:
    return {
        "parts": round(float(np.mean(sums.parts))),
        "found": sums.outcomes["found"],
        "boards": sum(sums.outcomes.values()),
        "wrong": sums.outcomes["wrong"],
        **{name: sums.rms(name) for name in sums.squares},
        "ms": 1000 * float(np.median(sums.seconds)),
        "slowest ms": 1000 * max(sums.seconds),
    }


def _shown(numbers: dict[str, float | int | None]) -> list[str | None]:
    return [
        None if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
        for value in numbers.values()
    ]


if __name__ == "__main__":
    main()
