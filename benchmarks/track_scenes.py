"""Trackers on made scenes: phidet, ByteTrack and OC-SORT of ``trackers``.

    python benchmarks/track_scenes.py             needs SciPy, TrackEval and trackers

Boxes walk, stop, dance, drive, crowd, pass behind pillars, and are seen by cameras that pan, shake or are slow. What is
covered is found less often, with lower scores and worse boxes; there are false boxes, too. All trackers get the same
detections and run with the settings that they have by default, but for the frame rate, which they are told.

Two of phidet's settings were chosen on scenes of the first kinds, with other seeds, numbers and frame rates, and on
TUD's videos; ``HELD_OUT`` has kinds that were written afterwards, and on which nothing was changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phidet import Detections, Tracker
from phidet.detections.tracking.external import ExternalTracker

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from tracking_data import Score, Truth, score

Floats = npt.NDArray[np.float64]
SIZE_HW = (720, 1280)
_PILLARS = np.array([[300, 0, 380, 720], [820, 0, 940, 720]], np.float64)
Path2D = Callable[[np.random.Generator, int, Floats, Floats], Floats]
"""(generator, number of objects, (T,) seconds, (N,) sides) → (T, N, 2) where objects stand."""


class Scene(NamedTuple):
    """How a scene is made: the ways of objects, how many, frames a second, for how long, and what is special."""

    path: Path2D
    objects: int = 12
    rate: float = 25.0
    seconds: float = 16.0
    pillars: bool = False
    pan: float = 0.0  # pixels a second, the camera's fastest
    shake: float = 0.0  # pixels, from frame to frame


def straight(rng: np.random.Generator, count: int, time: Floats, side: Floats) -> Floats:
    """Each goes its way."""
    speed = rng.normal(0, 1, (count, 2)) * (1.0, 0.3) * side[:, None]
    middle = rng.uniform(0.1, 0.9, (count, 2)) * SIZE_HW[::-1]
    feet: Floats = middle + speed * (time[:, None, None] - rng.uniform(0, time[-1], (count, 1)))
    return feet


def stop_and_go(rng: np.random.Generator, count: int, time: Floats, side: Floats) -> Floats:
    """They walk, stand, turn and walk on."""
    steps = np.diff(time, prepend=0.0)
    turn = (rng.random((len(time), count)) < steps[:, None] / 2.0).cumsum(axis=0)  # every two seconds
    ways = rng.normal(0, 1.2, (turn.max() + 1, count, 2)) * (1.0, 0.4) * (rng.random((turn.max() + 1, count, 1)) < 0.6)
    speed = ways[turn, np.arange(count)] * side[:, None]
    feet: Floats = rng.uniform(0.2, 0.8, (count, 2)) * SIZE_HW[::-1] + (speed * steps[:, None, None]).cumsum(axis=0)
    return feet


def dance(rng: np.random.Generator, count: int, time: Floats, side: Floats) -> Floats:
    """Back and forth in a group, past each other."""
    phase, often = rng.uniform(0, 2 * np.pi, (3, count, 2)), rng.uniform(0.1, 0.6, (3, count, 2))
    far = rng.uniform(0.3, 1.0, (3, count, 2)) * (1.0, 0.25) * side[:, None]
    swings = (far[:, None] * np.sin(2 * np.pi * often[:, None] * time[:, None, None] + phase[:, None])).sum(axis=0)
    feet: Floats = rng.uniform(0.3, 0.7, (count, 2)) * SIZE_HW[::-1] + swings
    return feet


def streams(rng: np.random.Generator, count: int, time: Floats, side: Floats) -> Floats:
    """Two crowds through each other."""
    way = np.where(np.arange(count) % 2, 1.0, -1.0)[:, None]
    speed = way * rng.uniform(0.5, 1.3, (count, 1)) * side[:, None] * (1.0, 0.0)
    start = rng.uniform((0.0, 0.35), (1.0, 0.95), (count, 2)) * SIZE_HW[::-1]
    feet: Floats = start + speed * (time[:, None, None] - time[-1] / 2)
    return feet


def vehicles(rng: np.random.Generator, count: int, time: Floats, side: Floats) -> Floats:
    """Fast, in lanes, faster when they have overtaken."""
    lane = np.arange(count) % 4
    speed = np.where(lane % 2, 1.0, -1.0) * rng.uniform(2, 4, count) * side
    since = time[:, None] - rng.uniform(0, time[-1], count)
    x = 640 + speed * (since + 0.1 * np.sin(since))
    return np.stack((x, np.broadcast_to(300 + 110 * lane, x.shape)), axis=2).astype(np.float64)


def circles(rng: np.random.Generator, count: int, time: Floats, side: Floats) -> Floats:
    """Around a place, at several distances and speeds."""
    radius = rng.uniform(120, 300, count)
    speed = np.where(np.arange(count) % 3, 1.0, -1.0) * rng.uniform(1, 2.5, count) * side / radius
    angle = rng.uniform(0, 2 * np.pi, count) + speed * time[:, None]
    return np.stack((640 + 1.6 * radius * np.cos(angle), 400 + radius * np.sin(angle)), axis=2)


def bounces(rng: np.random.Generator, count: int, time: Floats, side: Floats) -> Floats:
    """Straight to a wall and back at once."""
    where = rng.random((count, 2)) + rng.normal(0, 1.5, (count, 2)) * side[:, None] / 900 * time[:, None, None]
    feet: Floats = np.abs((where % 2) - 1) * (1100, 500) + (90, 180)
    return feet


def swarm(rng: np.random.Generator, count: int, time: Floats, side: Floats) -> Floats:
    """Carried by one stream with eddies; neighbours stay neighbours."""
    feet = np.empty((len(time), count, 2))
    feet[0] = rng.uniform(0.15, 0.85, (count, 2)) * SIZE_HW[::-1]
    for i in range(1, len(time)):
        x, y = feet[i - 1].T / 180
        flow = np.stack((np.cos(y + 0.3 * time[i]), np.sin(x - 0.2 * time[i])), axis=1)
        feet[i] = feet[i - 1] + 110 * flow * (time[i] - time[i - 1])
    return feet


def queue(rng: np.random.Generator, count: int, time: Floats, side: Floats) -> Floats:
    """They stand in line and move up from time to time."""
    moved = np.floor(time / 3 + 0.1) + np.clip((time / 3 + 0.1) % 1 * 4, 0, 1)
    place = (np.arange(count) * 55.0)[None, :] - 55 * moved[:, None]
    sway = 4 * np.sin(2 * np.pi * 0.3 * time[:, None] + rng.uniform(0, 6, count))
    return np.stack((1250 - (place + 55 * moved[-1] / 2) + sway, np.broadcast_to(500 + 12 * np.sin(
        np.arange(count)), sway.shape)), axis=2)  # fmt: skip


SCENES = {
    "walkers": Scene(straight),
    "walkers, 50 frames a second": Scene(straight, rate=50.0, seconds=10.0),
    "walkers, 5 frames a second": Scene(straight, rate=5.0, seconds=40.0),
    "walkers, 2 frames a second": Scene(straight, rate=2.0, seconds=60.0),
    "behind pillars": Scene(straight, pillars=True),
    "stop and go": Scene(stop_and_go),
    "dancers": Scene(dance, objects=9),
    "dancers, 8 frames a second": Scene(dance, objects=9, rate=8.0, seconds=30.0),
    "crowd of 40": Scene(streams, objects=40),
    "crowd of 80": Scene(streams, objects=80, seconds=10.0),
    "vehicles": Scene(vehicles, objects=16),
    "vehicles, 10 frames a second": Scene(vehicles, objects=16, rate=10.0),
    "camera pans": Scene(straight, pan=300.0),
    "camera shakes": Scene(straight, shake=6.0),
}
HELD_OUT = {
    "circles": Scene(circles, objects=14),
    "circles, 6 frames a second": Scene(circles, objects=14, rate=6.0, seconds=30.0),
    "bounces": Scene(bounces, objects=14),
    "bounces, 10 frames a second": Scene(bounces, objects=14, rate=10.0),
    "swarm of 30": Scene(swarm, objects=30, rate=20.0),
    "queue": Scene(queue, objects=18, rate=20.0),
    "queue, 3 frames a second": Scene(queue, objects=18, rate=3.0, seconds=40.0),
    "held in the hand": Scene(straight, pan=120.0, shake=4.0, rate=30.0, seconds=12.0),
}
"""Kinds that were added when the settings had been chosen."""


class Made(NamedTuple):
    """The truth of a scene, and what a detector found."""

    truth: Truth
    found: list[Detections]


def make(scene: Scene, seed: int) -> Made:
    """A scene, the same for the same seed."""
    rng = np.random.default_rng((20261126, seed))
    time = np.arange(round(scene.seconds * scene.rate)) / scene.rate
    height = rng.uniform(70, 170, scene.objects)
    shape = np.stack((height * rng.uniform(0.35, 0.5, scene.objects), height), axis=1)
    if scene.path is vehicles:
        shape = shape[:, ::-1]
    feet = scene.path(rng, scene.objects, time, shape.mean(axis=1))
    # Nearer ones are lower in the image, and larger.
    size = shape * (0.7 + 0.6 * np.clip(feet[..., 1:] / SIZE_HW[0], 0, 1))
    often, phase = rng.uniform(0.15, 0.3, 2), rng.uniform(0, 6, 2)
    pan = scene.pan * np.cos(2 * np.pi * often * time[:, None] + phase).cumsum(axis=0) / scene.rate
    feet = feet + (pan + rng.normal(0, scene.shake, pan.shape))[:, None]
    boxes = np.concatenate((feet - size * (0.5, 1.0), feet + size * (0.5, 0.0)), axis=2)
    truth, found = Truth([], [], SIZE_HW), []
    for all_boxes in boxes:
        seen = np.clip(all_boxes, 0, np.array(SIZE_HW[::-1] * 2))
        inside = _area(seen) >= 0.5 * _area(all_boxes)
        visible = _visible(seen[inside], _PILLARS if scene.pillars else None)
        there = visible >= 0.1
        truth.ids.append(np.flatnonzero(inside)[there])
        truth.boxes_xyxy.append(seen[inside][there].astype(np.float32))
        found.append(_detect(seen[inside][there], visible[there], rng))
    return Made(truth, found)


def _area(boxes: Floats) -> Floats:
    area: Floats = (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)
    return area


def _visible(boxes: Floats, pillars: Floats | None) -> Floats:
    """The share of each box that no nearer one, and no pillar, covers; by 12 × 12 points of each."""
    steps = (np.arange(12) + 0.5) / 12
    x, y = np.meshgrid(steps, steps)
    points = boxes[:, None, :2] + np.stack((x.ravel(), y.ravel()), 1) * (boxes[:, None, 2:] - boxes[:, None, :2])
    before = boxes if pillars is None else np.concatenate((boxes, pillars))
    nearer = before[None, :, 3] > boxes[:, None, 3]
    if pillars is not None:
        nearer[:, len(boxes) :] = True
    inside = ((points[:, None] >= before[None, :, None, :2]) & (points[:, None] < before[None, :, None, 2:])).all(-1)
    shown: Floats = 1 - (inside & nearer[..., None]).any(axis=1).mean(axis=1)
    return shown


def _detect(boxes: Floats, visible: Floats, rng: np.random.Generator) -> Detections:
    """What a detector of middling quality says of them."""
    kept = rng.random(len(boxes)) < 0.96 * np.clip((visible - 0.15) / 0.35, 0, 1)
    sides = (boxes[:, 2:] - boxes[:, :2]).mean(axis=1, keepdims=True)
    noise = rng.normal(0, 1, boxes.shape) * sides * (0.02 + 0.06 * (1 - visible[:, None]))
    scores = np.clip(0.25 + 0.6 * visible + rng.normal(0, 0.12, len(boxes)), 0.05, 0.99)
    count = rng.poisson(0.4)
    corner = rng.random((count, 2)) * SIZE_HW[::-1]
    wrong = np.concatenate((corner, corner + rng.uniform((30, 60), (80, 170), (count, 2))), axis=1)
    found = np.concatenate(((boxes + noise)[kept], wrong))
    found = np.concatenate((np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])), axis=1)
    all_scores = np.concatenate((scores[kept], rng.uniform(0.1, 0.65, count)))
    return Detections(
        found.astype(np.float32), all_scores.astype(np.float32), np.zeros(len(found), np.int64), ("person",), SIZE_HW
    )


def trackers(rate: float) -> dict[str, Any]:
    """One of each kind."""
    theirs = import_module("trackers")
    return {
        "phidet": Tracker(),
        "ByteTrack": ExternalTracker(theirs.ByteTrackTracker(frame_rate=rate)),
        "OC-SORT": ExternalTracker(theirs.OCSORTTracker(frame_rate=rate)),
    }


def follow(tracker: Any, made: Made, rate: float) -> Score:
    """The tracker's metrics."""
    tracked = [tracker.update(found, i / rate) for i, found in enumerate(made.found)]
    return score(made.truth, [np.asarray(t.fields["track_id"]) for t in tracked], [t.boxes_xyxy for t in tracked])


def main() -> None:
    """Prints a line of Markdown for each scene: HOTA, MOTA and IDF1 of each tracker, means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    for title, scenes in (("kinds that were known", SCENES), ("held out", HELD_OUT)):
        print(f"\n{title}: HOTA, MOTA, IDF1, switches, each of phidet / ByteTrack / OC-SORT")
        compare(scenes, args.seeds)


def compare(scenes: dict[str, Scene], seeds: int) -> None:
    """Prints a line for each scene, their mean, and how often phidet is below."""
    every = []
    for name, scene in scenes.items():
        runs = []
        for seed in range(seeds):
            made = make(scene, seed)
            runs.append([follow(tracker, made, scene.rate) for tracker in trackers(scene.rate).values()])
        every.append(np.array(runs))
        _row(name, every[-1])
    _row("mean", np.concatenate(every))
    ours, theirs = np.concatenate(every)[:, :1, :3], np.concatenate(every)[:, 1:, :3]
    below = (ours < theirs).mean(axis=0)
    print("share of runs in which phidet is below (HOTA, MOTA, IDF1): ByteTrack", below[0].round(2), "OC-SORT",
          below[1].round(2))  # fmt: skip


def _row(name: str, runs: Floats) -> None:
    hota, mota, idf1, switches = runs.mean(axis=0).T
    cells = [" / ".join(f"{value:.1f}" for value in metric) for metric in (hota, mota, idf1)]
    print(f"| {name} | {' | '.join(cells)} | {' / '.join(f'{value:.0f}' for value in switches)} |", flush=True)


if __name__ == "__main__":
    main()
