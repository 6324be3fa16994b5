"""A detector trained on made boards: faults found and false alarms of ``phidet align``, on boards that it never saw.

    python benchmarks/boards.py make DATA                                 # 300 boards to train on, 100 to measure on
    phidet train DATA -m DATA/start.safetensors --epochs 40 -o RUN
    python benchmarks/boards.py measure DATA -m RUN --score 0.25

Each board is a design of its own, three quarters of them with faults. ``measure`` gives the detector's images of the
validation split to the aligner with their nominal lists. Found is the share of faults of a kind with their verdict;
seen is the share with any verdict but right; false alarms are right parts with another verdict, and extra ones that
are not there, for a thousand parts. Boards: the share whose verdict as a whole, right or not, is true. The first row
is the detector alone, without places: a class with other counts than the list's is a fault of the board.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from made_boards import CLASSES, FaultShares, write_data_set
from phidet.cli.tables import table
from phidet.detections.alignment.results import Alignment
from phidet.detections.alignment.settings import AlignSettings
from phidet.detections.settings import PostprocessSettings
from phidet.images.decode import read_image
from phidet.inference.align import Aligner
from phidet.inference.detector import Detector

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
    measure.add_argument("--score", type=float, default=0.25)
    measure.add_argument("--confirm", type=float, help="lowest score that confirms a part in its place (--score)")
    measure.add_argument("--tolerance", type=float, default=0.8, help="mm; parts are displaced by 1.2 to 2.2")
    measure.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.command == "make":
        make_data(args.data)
        return
    numbers = run(args)
    if args.json:
        print(json.dumps(numbers, indent=1))
    else:
        rows = [[kind, *(f"{numbers[kind][key]:.3g}" for key in ("number", "found", "seen"))] for kind in KINDS]
        print(table(["fault", "number", "found", "seen"], rows))
        print("\n".join(f"{name}: {value:.3g}" for name, value in numbers.items() if not isinstance(value, dict)))


def make_data(folder: Path) -> None:
    """The data set, and Lite0 with small anchors on an ImageNet backbone to start from."""
    from phidet.weights.create import create_model  # noqa: PLC0415 - needs PyTorch
    from phidet.weights.native import save_model  # noqa: PLC0415

    write_data_set(folder, {"train": TRAIN, "val": VAL}, SHARES)
    config = create_model("efficientdet-lite0", class_names=CLASSES, image_size=384).config
    anchors = msgspec.structs.replace(config.anchors, scale=SMALL_ANCHORS)
    model = create_model(msgspec.structs.replace(config, anchors=anchors), pretrained="backbone")
    save_model(model, folder / "start.safetensors")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Aligns every validation image, and counts."""
    truths = json.loads((args.data / "truth" / "val.json").read_text())
    detector = Detector(args.model)
    counts: Counter[tuple[str, str]] = Counter()
    whole: Counter[str] = Counter()
    squares: list[float] = []
    for truth in truths:
        aligner = Aligner(
            args.data / "nominal" / f"{truth['board']}.csv",
            detector,
            AlignSettings(tolerance=args.tolerance, score=args.score),
            PostprocessSettings(score=args.score if args.confirm is None else args.confirm),
        )
        pixels = read_image(args.data / "val" / truth["image"])
        found = detector.detect([pixels], aligner.postprocess)[0]
        result = aligner.align(pixels, found)
        listed = Counter(aligner.nominal.labels)
        whole["by counts"] += (Counter(found.filter(args.score).labels) == listed) == truth["right"]
        whole["no pose"] += result.pose is None
        whole["by places"] += result.right == truth["right"]
        if result.pose is not None:
            count_verdicts(result, truth, counts, squares)
    right = sum(n for (fault, _), n in counts.items() if fault == "")
    return {
        **{kind: shares(kind, counts) for kind in KINDS},
        "boards": len(truths),
        "boards without a pose": whole["no pose"],
        "verdict of the board true, by counts of classes": whole["by counts"] / len(truths),
        "verdict of the board true, by places": whole["by places"] / len(truths),
        "right parts": right,
        "false alarms for 1,000 parts": 1000 * (right - counts["", "right"] + counts["none", "extra"]) / right,
        "error of measured places, mm": float(np.sqrt(np.mean(squares))),
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


def shares(kind: str, counts: Counter[tuple[str, str]]) -> dict[str, float]:
    number = sum(n for (fault, _), n in counts.items() if fault == kind)
    seen = number - counts[kind, "right"]
    return {"number": number, "found": counts[kind, kind] / max(1, number), "seen": seen / max(1, number)}


if __name__ == "__main__":
    main()
