"""Which detections are the same object in the next frame: a graph network, overlap, distance, and one common motion.

    python benchmarks/frames.py                                        # simulated detections, three sizes of jumps
    python benchmarks/frames.py --data VIDEOS --detector RUN --appearance   # rendered frames, a trained detector

Videos are of boards before a camera that jumps between frames (tests/made_boards/moving.py): parts of a class look
alike, and a jump of more than a part's size puts another one where the first was. The metric is F1 of pairs of
detections that are said to be one object, of those of two successive frames that are of one object. The classical ways:
the assignment of the greatest overlap, as ByteTrack makes it (its prediction of motion cannot know a jump); that of the
least distance between detections of one class; and that of the greatest overlap after the shift of the whole image
which brings most detections to one of their class, which is told that there is a single motion. Each has its threshold
chosen on the training videos.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from relations import Learned, train

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from made_boards import CLASSES, ClutterShares, observe
from made_boards.moving import make_video, visible, write_videos
from made_boards.nominal import as_detections
from phidet.architectures.registry import architecture_of, published_config
from phidet.cli.tables import or_dash, table
from phidet.core.structs import replace
from phidet.data.dataset import Annotations, Dataset
from phidet.data.layouts import open_data
from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections
from phidet.detections.graphs.frames import FRAME, side_by_side
from phidet.detections.graphs.related import GROUP
from phidet.detections.tracking.assignment import assign
from phidet.evaluation.relations import f1, objects_of, pair_counts
from phidet.evaluation.results_file import read_results
from phidet.inference.appearance import APPEARANCE, AppearanceDetector
from phidet.inference.described import open_detector
from phidet.training.frame_pairs import frame_pairs, paired
from phidet.training.relations_data import detect_once, detections_from

SIZE_HW = (384, 384)
JUMPS = (4.0, 15.0, 40.0)  # px
CLUTTER = ClutterShares(missing=0.05, false=0.05, mislabelled=0.03, noise_px=1.0)
TEST_SEED = 500_000
Floats = npt.NDArray[np.float64]
Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
Way = Callable[[Detections, Detections, float], Pairs]


class Frames(NamedTuple):
    """Labelled frames and what a detector found in each."""

    dataset: Dataset
    found: list[Detections]

    def pairs(self) -> Learned:
        """Each frame with the next one."""
        return Learned(*paired(self.dataset, self.found, frame_pairs(self.dataset)))


def simulated(seeds: Sequence[int], frames: int, jump_px: float) -> Frames:
    """Videos with detections of known quality."""
    truths, found, names, places = [], [], [], {}
    for seed in seeds:
        for number, scene in enumerate(make_video(seed, frames, jump_px, SIZE_HW)):
            kept = np.flatnonzero(visible(scene))
            boxes = scene.boxes_xyxy[kept].astype(np.float32)
            labels = np.array([CLASSES.index(scene.labels[k]) for k in kept], np.int64)
            no = np.zeros(len(kept), np.bool_)
            areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
            truths.append(Annotations(boxes, labels, areas, no, no, {GROUP: kept.astype(np.int64)}))
            found.append(as_detections(observe(scene, 1000 * seed + number, CLUTTER), SIZE_HW))
            names.append(f"{seed}-{number}")
            places[names[-1]] = (str(seed), number)
    sizes = np.full((len(names), 2), SIZE_HW, np.int32)
    dataset = Dataset(
        "frames", CLASSES, names=names, sources=[Path(n) for n in names], annotations=truths, sizes_hw=sizes
    )
    dataset.frames = places
    return Frames(dataset, found)


# The classical ways: (frame, next frame, threshold) → rows of both that are one object.


def by_overlap(first: Detections, second: Detections, least: float) -> Pairs:
    """The assignment of the greatest overlap."""
    return assign(pairwise_iou(first.boxes_xyxy, second.boxes_xyxy).astype(np.float64), least)


def by_distance(first: Detections, second: Detections, farthest: float) -> Pairs:
    """The assignment of the least distance between detections of one class."""
    apart = np.linalg.norm(_centres(first)[:, None] - _centres(second)[None], axis=2)
    apart[first.class_ids[:, None] != second.class_ids[None]] = np.inf
    return assign(np.maximum(0.0, farthest - apart), 0.0)


def by_common_shift(first: Detections, second: Detections, least: float) -> Pairs:
    """The assignment of the greatest overlap after the shift that brings most detections to one of their class."""
    if min(len(first), len(second)) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    same = first.class_ids[:, None] == second.class_ids[None]
    shifts = (_centres(second)[None] - _centres(first)[:, None])[same]
    near = (np.abs(shifts[:, None] - shifts[None]) < 6).all(2)  # px
    best = near[near.sum(1).argmax()] if len(shifts) else np.zeros(0, bool)
    shift = np.median(shifts[best], axis=0) if best.any() else np.zeros(2)
    moved = first.boxes_xyxy.astype(np.float64) + np.tile(shift, 2)
    return assign(pairwise_iou(moved, second.boxes_xyxy.astype(np.float64)), least)


WAYS: dict[str, tuple[Way, Floats]] = {
    "overlap (as ByteTrack)": (by_overlap, np.array([0.1, 0.2, 0.3, 0.5])),
    "distance within a class": (by_distance, np.array([10.0, 20, 30, 45, 60, 90, 150])),
    "overlap after a common shift": (by_common_shift, np.array([0.1, 0.2, 0.3, 0.5])),
}


def classical_row(name: str, training: Frames, test: Frames) -> dict[str, float | str | None]:
    way, thresholds = WAYS[name]
    few = training.dataset.subset(range(min(200, len(training.found))), "few")
    some = Frames(few, training.found[: len(few)])
    best = max(thresholds.tolist(), key=lambda one: _classical(way, some, one) or 0)
    return {"way": f"{name}, {best:g}", "f1": _classical(way, test, best)}


def _classical(way: Way, frames: Frames, threshold: float) -> float | None:
    joined = frames.pairs()
    counts = np.zeros(3, np.int64)
    for index, found in enumerate(joined.found):
        frame = np.asarray(found.fields[FRAME])
        rows = np.flatnonzero(frame == 0), np.flatnonzero(frame == 1)
        one, other = way(found[rows[0]], found[rows[1]], threshold)
        said = np.arange(len(found))
        said[rows[1][other]] = rows[0][one]
        counts += pair_counts(said, _true(joined, index, found))
    return f1(counts)


def network_row(
    name: str, config: object, training: Frames, test: Frames, epochs: int
) -> dict[str, float | str | None]:
    """A network trained on the one and measured on the other."""
    changes = {"epochs": epochs, "evaluate_every": epochs}
    joined = test.pairs()
    relate = train(config, (training.pairs(), joined), changes)
    counts = np.zeros(3, np.int64)
    for index, found in enumerate(joined.found):
        related = relate(found)
        groups = related.groups
        assert groups is not None
        counts += pair_counts(groups, _true(joined, index, related.detections))
    return {"way": name, "f1": f1(counts)}


def _true(joined: Learned, index: int, found: Detections) -> npt.NDArray[np.int64]:
    truth = joined.dataset.annotations(index)
    objects = objects_of(side_by_side(found), truth)
    return np.where(objects >= 0, np.asarray(truth.fields[GROUP])[objects], -1)


def _centres(found: Detections) -> Floats:
    boxes = found.boxes_xyxy.astype(np.float64)
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def config_of(layer: str, class_names: tuple[str, ...], fields: dict[str, int]) -> object:
    config = published_config(f"relations-{layer}")
    config = replace(config, {"class_names": class_names, "answers": ("label", "score", "together")})
    return architecture_of(config).with_fields(config, fields)


def simulated_rows(args: argparse.Namespace) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for jump in args.jumps:
        training = simulated(range(args.train), args.frames, jump)
        test = simulated(range(TEST_SEED, TEST_SEED + args.test), args.frames, jump)
        own = [classical_row(name, training, test) for name in WAYS]
        for layer in args.layers:
            config = config_of(layer, CLASSES, {FRAME: 1})
            own.append(network_row(f"network, {layer}", config, training, test, args.epochs))
        rows += [{"jump px": jump, **row} for row in own]
        print(json.dumps(rows[-len(own) :]), file=sys.stderr, flush=True)
    return rows


def rendered_rows(args: argparse.Namespace) -> list[dict[str, object]]:
    """A trained detector on rendered frames; with and without the appearance of its maps."""
    if not args.data.is_dir():
        splits = {"train": range(args.train), "val": range(TEST_SEED, TEST_SEED + args.test)}
        write_videos(args.data, splits, args.frames, args.jumps[0])
    detector = AppearanceDetector(open_detector(args.detector), args.detector)
    parts = []
    for split in ("train", "val"):
        dataset = open_data(args.data).read(split, detector.class_names)
        kept = args.data / f"found-{split}.json"
        if not kept.is_file():
            detect_once(detector, dataset, kept, 0.2)
        parts.append(Frames(dataset, detections_from(read_results(kept), dataset)))
    rows: list[dict[str, object]] = [dict(classical_row(name, *parts)) for name in WAYS]
    for name, fields in (("network", {FRAME: 1}), ("network, appearance", {FRAME: 1, APPEARANCE: detector.width})):
        config = config_of("attention", detector.class_names, fields)
        rows.append(dict(network_row(name, config, parts[0], parts[1], args.epochs)))
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=["attention"])
    parser.add_argument("--jumps", nargs="+", type=float, default=list(JUMPS), help="px between frames")
    parser.add_argument("--train", type=int, default=100, help="videos to train on")
    parser.add_argument("--test", type=int, default=30, help="videos to measure on")
    parser.add_argument("--frames", type=int, default=8, help="of a video")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--data", type=Path, help="rendered videos, made where there are none")
    parser.add_argument("--detector", help="run folder of the detector of rendered videos")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = simulated_rows(args) if args.data is None else rendered_rows(args)
    columns = list(rows[0])
    print(table(columns, [[_text(row.get(column)) for column in columns] for row in rows]))


def _text(value: object) -> str:
    return value if isinstance(value, str) else or_dash(value, "{:.3f}")


if __name__ == "__main__":
    main()
