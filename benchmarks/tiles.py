"""Small persons found by sliced inference, against looking at the image as a whole, on mosaics of real images.

    python benchmarks/tiles.py --data ../shared/data/coco-person                    # the bundled model
    python benchmarks/tiles.py --data ../shared/data/coco-person -m my.onnx --json

A mosaic sets val images side by side, so that a person who is large in an image is small in the mosaic. Each is
looked at as a whole and with ``--tile``; an object is found if a detection of at least ``--score`` overlaps it with
IoU ≥ 0.5, each detection finding one object. Recall says little without the false detections, so they are counted too;
and AP50, which weighs both at all scores. Crowds are left out, as COCO does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.cli.tables import table
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Annotations, Dataset
from phidet.data.layouts import open_data
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.evaluation.matching import countable, match_image
from phidet.evaluation.voc_metrics import evaluate_voc
from phidet.inference.detector import Detector
from phidet.inference.tiles import detect_tiled

SIDES = ((0.0, 16.0), (16.0, 32.0), (32.0, 96.0), (96.0, 1e9))  # √area in pixels of the input, as a whole
LOWEST = 0.05  # score down to which detections count for AP50


class Mosaic(NamedTuple):
    """Images set side by side."""

    image: npt.NDArray[np.uint8]
    objects: list[RawObject]


def mosaic(dataset: Dataset, indices: list[int], columns: int) -> Mosaic:
    """The images in rows of ``columns``, in cells as large as the largest of them."""
    height, width = np.array([dataset.size_hw(i) for i in indices]).max(axis=0)
    rows = -(-len(indices) // columns)
    image = np.full((rows * height, columns * width, 3), 114, np.uint8)
    objects = []
    for place, index in enumerate(indices):
        top, left = place // columns * height, place % columns * width
        pixels = dataset.image(index)
        image[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        truth = dataset.annotations(index)
        for box, class_id, area, crowd in zip(
            truth.boxes_xyxy.astype(float), truth.class_ids, truth.areas, truth.crowd, strict=True
        ):
            x1, y1, x2, y2 = (box + np.array([left, top, left, top])).tolist()
            objects.append(RawObject("", (x1, y1, x2, y2), dataset.class_names[class_id], float(area), bool(crowd)))
    return Mosaic(image, objects)


def found_by_side(found: Detections, truth: Annotations, shrink: float) -> tuple[list[int], int]:
    """How many objects of each size were found, and how many detections found nothing."""
    matches = match_image(found, truth)
    sides = np.sqrt(truth.areas.astype(np.float64)) * shrink
    hit = np.zeros(len(sides), np.bool_)
    hit[matches.objects[matches.objects >= 0]] = True
    return [int((hit & (sides >= low) & (sides < high)).sum()) for low, high in SIDES], int(matches.false.sum())


def main() -> int:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-m", "--model", default="person")
    parser.add_argument("--score", type=float, default=0.3)
    parser.add_argument("--tile", type=int, help="pixels (as large as the pictures)")
    parser.add_argument("--columns", type=int, default=3, help="pictures in a row and rows in a mosaic (3)")
    parser.add_argument("--mosaics", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    dataset = open_data(args.data).read("val")
    detector = Detector(args.model)
    each = args.columns**2
    truth = Collector("mosaics", Path(), dataset.class_names)
    ways = ("whole", "tiles")
    results: dict[str, list[Detections]] = {way: [] for way in ways}
    seconds = dict.fromkeys(ways, 0.0)
    shrinks = []
    settings = PostprocessSettings(score=LOWEST, max_detections=500)
    for n in range(min(args.mosaics, len(dataset) // each)):
        image, objects = mosaic(dataset, list(range(n * each, (n + 1) * each)), args.columns)
        truth.add(f"{n}", Path(f"{n}"), image.shape[:2], objects)
        tile = args.tile or max(image.shape[:2]) // args.columns
        shrinks.append(min(s / i for s, i in zip(detector.config.image_size_hw, image.shape[:2], strict=True)))
        start = time.perf_counter()
        results["whole"].append(detector.detect([image], settings)[0])
        middle = time.perf_counter()
        results["tiles"].append(detect_tiled(detector, image, tile, settings))
        seconds["whole"] += middle - start
        seconds["tiles"] += time.perf_counter() - middle
    mosaics = truth.dataset()
    total = np.zeros(len(SIDES), np.int64)
    hits = {way: np.zeros(len(SIDES), np.int64) for way in ways}
    false = dict.fromkeys(ways, 0)
    for i, shrink in enumerate(shrinks):
        annotations = mosaics.annotations(i)
        sides = np.sqrt(annotations.areas.astype(np.float64)) * shrink
        total += [((sides >= a) & (sides < b) & countable(annotations)).sum() for a, b in SIDES]
        for way in ways:
            counts, wrong = found_by_side(results[way][i].filter(args.score), annotations, shrink)
            hits[way] += counts
            false[way] += wrong
    measured = {
        way: {
            "found": hits[way].tolist(),
            "false": false[way],
            "ap50": evaluate_voc(mosaics, results[way]).ap50,
            "seconds": seconds[way] / len(shrinks),
        }
        for way in ways
    }
    if args.json:
        json.dump({"mosaics": len(shrinks), "sides": SIDES, "objects": total.tolist(), **measured}, sys.stdout)
        return 0
    names = [f"{a:.0f}–{b:.0f} px" if b < 1e9 else f"over {a:.0f} px" for a, b in SIDES]
    rows = [
        [way, *(f"{h} of {t}" for h, t in zip(hits[way], total, strict=True)), str(false[way]),
         f"{measured[way]['ap50'] or 0:.3f}", f"{measured[way]['seconds']:.2f} s"]
        for way in ways
    ]  # fmt: skip
    print(f"{len(shrinks)} mosaics; sizes in the network's input where the whole mosaic fits into it")
    print(table(["persons found", *names, "false", "AP50", "each"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
