"""A detector trained on made boards: faults found and false alarms of ``phidet align``, on boards that it never saw.

    python benchmarks/boards.py make DATA                                 # 300 boards to train on, 100 to measure on
    phidet train DATA -m DATA/start.safetensors --epochs 40 -o RUN
    phidet train DATA --task relations --detector RUN -o RELATIONS && phidet export RELATIONS
    python benchmarks/boards.py measure DATA -m RUN --relations RELATIONS

Each board is a design of its own, three quarters of them with faults. ``measure`` gives what the detector finds on the
images of the validation split to the aligner with their nominal lists: from a score on, from a score on with less
certain ones that only confirm, and as a graph network corrects it, from 0.5 on. Found is the share of faults of a kind
with their verdict; seen is the share with any verdict but right; false alarms are right parts with another verdict,
and extra ones that are not there, for a thousand parts. Boards: the share whose verdict as a whole, right or not, is
true. The first row is the detector alone, without places: a class with other counts than the list's is a fault of the
board.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from made_boards import CLASSES, FaultShares, write_data_set
from phidet.cli.tables import or_dash, table
from phidet.detections.alignment.results import Alignment
from phidet.detections.alignment.settings import AlignSettings
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.images.decode import read_image
from phidet.inference.align import Aligner
from phidet.inference.detector import Detector
from phidet.inference.relations import Relations

SHARES = FaultShares(missing=0.04, displaced=0.04, wrong_label=0.04, rotated=0.03, extra=0.03)
TRAIN, VAL = range(300), range(1000, 1100)
KINDS = ("missing", "displaced", "wrong label", "rotated", "extra")
SMALL_ANCHORS = 2.0  # of the stride, half the usual: parts are 15 to 30 pixels long


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    measure = commands.add_parser("measure")
    for one in (make, measure):
        one.add_argument("data", type=Path)
    measure.add_argument("-m", "--model", required=True)
    measure.add_argument("--scores", type=float, nargs="+", default=[0.2, 0.3], help="of the detector")
    measure.add_argument("--confirm", type=float, default=0.1, help="lowest score that confirms a part in its place")
    measure.add_argument("--relations", nargs="*", default=[], help="exported graph networks")
    measure.add_argument("--tolerance", type=float, default=0.8, help="mm; parts are displaced by 1.2 to 2.2")
    measure.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.command == "make":
        make_data(args.data)
        return
    rows = run(args)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print("faults: " + ", ".join(f"{number} {kind}" for kind, number in rows[-1]["numbers"].items()))
    columns = [name for name in rows[-1] if name not in ("numbers", "seen", *KINDS)]
    shown = [[*map(_text, (row.get(name) for name in columns)), *(_share(row, kind) for kind in KINDS)] for row in rows]
    print(table([*columns, *(f"{kind}: found, seen" for kind in KINDS)], shown))


def _text(value: object) -> str:
    return value if isinstance(value, str) else or_dash(value, "{:.3g}")


def _share(row: dict[str, Any], kind: str) -> str:
    return f"{row[kind]:.2f} {row['seen'][kind]:.2f}" if kind in row else "–"


def make_data(folder: Path) -> None:
    """The data set, and Lite0 with small anchors on an ImageNet backbone to start from."""
    from phidet.weights.create import create_model  # noqa: PLC0415 - needs PyTorch
    from phidet.weights.native import save_model  # noqa: PLC0415

    write_data_set(folder, {"train": TRAIN, "val": VAL}, SHARES)
    config = create_model("efficientdet-lite0", class_names=CLASSES, image_size=384).config
    anchors = msgspec.structs.replace(config.anchors, scale=SMALL_ANCHORS)
    model = create_model(msgspec.structs.replace(config, anchors=anchors), pretrained="backbone")
    save_model(model, folder / "start.safetensors")


class Way(NamedTuple):
    """What the aligner is given: detections from ``score`` on, those from ``confirm`` on only confirm."""

    name: str
    score: float
    confirm: float
    relations: Relations | None = None

    def settings(self, tolerance: float) -> AlignSettings:
        return AlignSettings(tolerance=tolerance, score=self.score)

    def seen(self, found: Detections) -> Detections:
        """What it is given of the detector's detections, of any score."""
        return (found if self.relations is None else self.relations(found)).filter(self.confirm)


def ways_of(args: argparse.Namespace) -> list[Way]:
    """Those that are measured."""
    ways = [Way(f"detector, {score:g}", score, score) for score in args.scores]
    last = args.scores[-1]
    ways.append(Way(f"detector, {last:g}, confirmed from {args.confirm:g}", last, args.confirm))
    for path in args.relations:
        relations = Relations(path)
        ways.append(Way(f"network {path}", 0.5, 0.5, relations))
        ways.append(Way(f"network {path}, confirmed from {args.confirm:g}", 0.5, args.confirm, relations))
    return ways


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Detects once on every validation image, aligns it in every way, and counts."""
    truths = json.loads((args.data / "truth" / "val.json").read_text())
    detector = Detector(args.model)
    ways = ways_of(args)
    least = min([0.05, *(way.relations.settings().least_score for way in ways if way.relations)])
    settings = PostprocessSettings(score=least)
    images = [read_image(args.data / "val" / truth["image"]) for truth in truths]
    found = [detector.detect([image], settings)[0] for image in images]
    lists = [args.data / "nominal" / f"{truth['board']}.csv" for truth in truths]
    truly = np.array([truth["right"] for truth in truths])
    counted = [
        (Counter(one.filter(args.scores[0]).labels) == Counter(Aligner(path, detector).nominal.labels))
        for one, path in zip(found, lists, strict=True)
    ]
    rows: list[dict[str, Any]] = [{"way": "counts of classes", "boards": float(np.mean(counted == truly))}]
    for way in ways:
        results = [
            Aligner(path, detector, way.settings(args.tolerance)).align(image, way.seen(one))
            for path, image, one in zip(lists, images, found, strict=True)
        ]
        rows.append({"way": way.name, **_row(truths, results)})
    return rows


def _row(truths: list[dict[str, Any]], results: list[Alignment]) -> dict[str, Any]:
    """Metrics of a way."""
    counts: Counter[tuple[str, str]] = Counter()
    squares: list[float] = []
    for truth, result in zip(truths, results, strict=True):
        if result.pose is not None:
            count_verdicts(result, truth, counts, squares)
    right = sum(n for (fault, _), n in counts.items() if fault == "")
    numbers = {kind: sum(n for (fault, _), n in counts.items() if fault == kind) for kind in KINDS}
    return {
        "boards": float(np.mean([one.right == truth["right"] for one, truth in zip(results, truths, strict=True)])),
        "without a pose": sum(result.pose is None for result in results),
        "false alarms for 1,000": 1000 * (right - counts["", "right"] + counts["none", "extra"]) / right,
        "places, mm": float(np.sqrt(np.mean(squares))),
        **{kind: counts[kind, kind] / max(1, number) for kind, number in numbers.items()},
        "seen": {kind: 1 - counts[kind, "right"] / max(1, number) for kind, number in numbers.items()},
        "numbers": numbers,
    }


def count_verdicts(
    result: Alignment, truth: dict[str, Any], counts: Counter[tuple[str, str]], squares: list[float]
) -> None:
    """Adds (fault, verdict) of every part; an extra verdict far from any extra part has the fault "none"."""
    extras = [np.array(part["xy_mm"]) for part in truth["parts"] if part["fault"] == "extra"]
    true = {part["reference"]: part["xy_mm"] for part in truth["parts"]}
    for part in result.parts:
        if part.reference:
            counts[truth["faults"][part.reference], part.verdict] += 1
            if part.verdict in ("right", "displaced") and part.xy is not None and part.reference in true:
                squares.extend(((np.array(part.xy) - true[part.reference]) ** 2).tolist())
            continue
        distances = [float(np.hypot(*(place - part.xy))) for place in extras]
        if distances and min(distances) < 1.5:
            extras.pop(int(np.argmin(distances)))
            counts["extra", "extra"] += 1
        else:
            counts["none", "extra"] += 1
    counts["extra", "right"] += len(extras)  # not seen


if __name__ == "__main__":
    main()
