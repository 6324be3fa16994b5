"""Boards of deeppcb against their templates, after known shifts, turns and scales: registration, and defects apart.

    python benchmarks/registration.py --data ../shared/data/deeppcb

The tested image is warped by a known similarity and registered to its template (``phidet align TEMPLATE IMAGE
--pose-from image --pose similarity``). A template is not exactly where its image is, by up to a pixel; so the
registration error is the distance between the pose of the warped image and the warp of the pose of the image itself,
root mean square over a grid of 81 points. Defects are given to the aligner as they are labelled, in the warped image;
what counts is where it says they are on the template, against where it says so for the unwarped image.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from made_boards.warping import make_warp
from phidet.detections.alignment.alignment import align_detections
from phidet.detections.alignment.locate import Located
from phidet.detections.alignment.nominal import nominal_of
from phidet.detections.alignment.registration import register_image
from phidet.detections.alignment.settings import AlignSettings
from phidet.detections.detections import Detections

NAMES = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
SETTINGS = AlignSettings(pose="similarity", mirrored="no", pose_from="image")
SIDE = 640
WRONG = 5.0  # px
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--boards", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first board's warp")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    outcomes: Counter[str] = Counter()
    errors: list[float] = []
    moved: list[float] = []
    apart: list[float] = []
    paths = sorted((args.data / "images" / "test").glob("*.jpg"))[: args.boards]
    for seed, path in enumerate(paths, args.first):
        outcome, error, places, shift = run_board(args.data, path, seed)
        outcomes[outcome] += 1
        if outcome == "registered":
            errors.append(error)
            apart += places
            moved += shift
    numbers = {
        **outcomes,
        "registration error px, median": float(np.median(errors)),
        "90 %": float(np.percentile(errors, 90)),
        "largest": max(errors),
        "defects": len(apart),
        "moved in the image by px, median": float(np.median(moved)),
        "moved on the template by px, median": float(np.median(apart)),
        "on the template, 90 %": float(np.percentile(apart, 90)),
    }
    print(json.dumps(numbers, indent=1) if args.json else "\n".join(f"{k:40} {v:.3g}" for k, v in numbers.items()))


def run_board(data: Path, path: Path, seed: int) -> tuple[str, float, list[float], list[float]]:
    """Outcome, registration error, and how far each defect moved on the template and in the image."""
    tested, template = (
        np.asarray(Image.open(path).convert("L")),
        np.asarray(Image.open(template_of(data, path)).convert("L")),
    )
    warp, golden = make_warp(seed, (SIDE, SIDE)), np.repeat(template[..., None], 3, 2)
    here = register_image(golden, np.repeat(tested[..., None], 3, 2), SETTINGS)
    there = register_image(golden, warp.image(tested), SETTINGS)
    if not isinstance(here, Located) or not isinstance(there, Located):
        return "no pose", np.nan, [], []
    grid = np.stack(np.meshgrid(np.linspace(50, 590, 9), np.linspace(50, 590, 9)), -1).reshape(-1, 2)
    error = float(
        np.sqrt((np.linalg.norm(there.pose.project(grid) - warp(here.pose.project(grid)), axis=1) ** 2).mean())
    )
    boxes, classes = labelled(data, path)
    before = places_of(boxes, classes, here)
    after = places_of(warp.boxes(boxes), classes, there)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    shift = np.linalg.norm(warp(centres) - centres, axis=1)
    away = np.linalg.norm(before - after, axis=1)
    return "wrong" if error > WRONG else "registered", error, away.tolist(), shift.tolist()


def places_of(boxes: Floats, classes: npt.NDArray[np.int64], located: Located) -> Floats:
    """(N, 2) where the aligner says that the defects are on the template; the template has none."""
    scores = np.linspace(0.9, 0.5, len(boxes)).astype(np.float32)
    found = Detections(boxes.astype(np.float32), scores, classes, NAMES, (SIDE, SIDE))
    nothing = nominal_of(Detections.empty(NAMES, (SIDE, SIDE)), "template")
    result = align_detections(nothing, found, SETTINGS, located=located)
    assert [part.verdict for part in result.parts] == ["extra"] * len(boxes)
    by_score = sorted(result.parts, key=lambda part: -(part.score or 0))
    return np.array([part.xy for part in by_score])


def template_of(data: Path, path: Path) -> Path:
    return data / "templates" / path.parent.name / path.name


def labelled(data: Path, path: Path) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(N, 4) boxes in pixels and (N,) classes of a board's defects."""
    rows = np.loadtxt(data / "labels" / path.parent.name / f"{path.stem}.txt", ndmin=2)
    centres, sizes = rows[:, 1:3] * SIDE, rows[:, 3:5] * SIDE
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1), rows[:, 0].astype(np.int64)


if __name__ == "__main__":
    main()
