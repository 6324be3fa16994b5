"""Graph networks on detections against the detector alone and the classical way, on the same boards or images.

    python benchmarks/relations.py boards                         # a design of its own for each board
    python benchmarks/relations.py product                        # many boards of one design
    python benchmarks/relations.py rendered --data boards --detector runs/boards   # images, and a trained detector
    python benchmarks/relations.py images --data ../shared/data/coco-80 --detector yolox.json --answers score

Boards are made (tests/made_boards) with known faults, and detections simulated from the truth: parts that are missed,
false ones, wrong labels, noise on places. Every way sees the same detections and says which of them it believes:
the detector those from a score on, the list those that ``phidet.align`` gives a part or calls extra, the network
those from 0.5 on. ``parts`` is the F1 of what is believed against the parts that are there, label and place (IoU 0.5)
right; ``groups`` the F1 of pairs said to be of one module, against all pairs of the board. Of all detections alike,
``labels`` is the share of right labels among those of a part, ``ap`` COCO's AP, ``place`` the root mean square error of
a coordinate of a box's centre in pixels. ``verdict`` is the accuracy of "this board is right", ``auc`` the area under
its ROC curve.

The classical way: for labels and places those of the part that ``phidet.align`` finds there, which needs the design's
list; for groups pairs nearer than a threshold, the parts of the minimum spanning tree without edges longer than a
threshold, and k-means, told the number of modules; for verdicts whether ``phidet.align`` calls every part right. All
thresholds are the best ones on the training boards. The network sees no list unless the row says so: what it knows it
learned from boards. Several seeds are shown as mean ± standard deviation; networks that are in ``--work`` already are
not trained again.

``images`` is a labelled data set and a detector, whose detections are made once and kept in ``--work``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from made_boards import CLASSES, ClutterShares, FaultShares, Scene, make_board, make_scene, observe
from made_boards.nominal import as_detections, nominal_of_board
from phidet.architectures.registry import architecture_of, published_config
from phidet.architectures.relations.config import ANSWERS, Layer
from phidet.cli.tables import or_dash, table
from phidet.core.structs import replace
from phidet.data.dataset import Annotations, Dataset
from phidet.data.layouts import open_data
from phidet.detections.alignment.alignment import align_detections
from phidet.detections.alignment.results import VERDICTS, Alignment
from phidet.detections.alignment.settings import AlignSettings
from phidet.detections.boxes import xyxy_to_cxcywh
from phidet.detections.detections import Detections
from phidet.detections.graphs.classical import connected_clusters, kmeans_clusters, minimum_spanning_tree
from phidet.detections.graphs.edges import EdgeRule, symmetric
from phidet.detections.graphs.graph import DetectionGraph, detection_graph
from phidet.detections.graphs.related import GROUP
from phidet.evaluation.coco_metrics import evaluate_coco
from phidet.evaluation.relations import auc, f1, label_accuracy, objects_of, pair_counts
from phidet.evaluation.results_file import read_results
from phidet.inference.described import open_detector
from phidet.training.about import Request
from phidet.training.fit import RunSettings, fit
from phidet.training.recipe import Recipe, recipe_named
from phidet.training.recipe import replace as replace_recipe
from phidet.training.relations_data import detect_once, detections_from
from phidet.training.relations_task import RelationsTask, TorchRelations

SIZE_HW = (384, 384)
TEST_SEED = 1_000_000
POOR = ClutterShares(missing=0.05, false=0.10, mislabelled=0.10, noise_px=1.0)
GOOD = ClutterShares(missing=0.005, false=0.005, mislabelled=0.02, noise_px=0.5)
RENDERED_FAULTS = FaultShares(0.04, 0.04, 0.04, 0.03, 0.03)
LISTED = len(VERDICTS) + len(CLASSES) + 4
"""Numbers that a list says of a detection: verdict, nominal class, where its place is from here, whether there is a
pose, missing parts."""
ALIGNED = AlignSettings(tolerance=0.8, score=0.3)  # mm; parts are displaced by 1.2 to 2.2
_FIELDS: tuple[tuple[str, dict[str, int]], ...] = (("", {}), (" and list", {"nominal": LISTED}))
SEEN = 0.1  # the score from which all ways see the trained detector's detections
SCORES = np.arange(0.1, 0.6, 0.05)
BELIEVED = 0.5
THRESHOLDS = np.linspace(10, 120, 45)  # px


class Boards(NamedTuple):
    """Boards with what a detector found on them."""

    scenes: list[Scene]
    dataset: Dataset
    found: list[Detections]


def make_boards(
    seeds: Sequence[int],
    design: int | None,
    clutter: ClutterShares,
    faults: FaultShares | None = None,
    right_share: float = 0.5,
) -> Boards:
    """A board for each seed, some of them without faults; of one design, or each of its own."""
    scenes, truths, found, right = [], [], [], {}
    for seed in seeds:
        faultless = bool(np.random.default_rng([seed, 7]).random() < right_share)
        board = make_board(seed if design is None else design)
        scene = make_scene(board, seed, FaultShares(0, 0, 0, 0, 0) if faultless else faults, SIZE_HW)
        scenes.append(scene)
        boxes = scene.boxes_xyxy.astype(np.float32)
        no = np.zeros(len(boxes), np.bool_)
        class_ids = np.array([CLASSES.index(label) for label in scene.labels], np.int64)
        groups = np.array([part.module for part in scene.assembly.mounted], np.int64)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        truths.append(Annotations(boxes, class_ids, areas, no, no, {GROUP: groups}))
        found.append(as_detections(observe(scene, seed, clutter), SIZE_HW))
        right[str(seed)] = scene.assembly.right
    dataset = Dataset(
        "boards",
        CLASSES,
        names=list(map(str, seeds)),
        sources=[Path(f"{seed}.png") for seed in seeds],
        annotations=truths,
        sizes_hw=np.full((len(seeds), 2), SIZE_HW, np.int32),
    )
    dataset.right = right
    return Boards(scenes, dataset, found)


class Learned(NamedTuple):
    """Labelled images with the detections in each."""

    dataset: Dataset
    found: list[Detections]


def train(config: Any, data: tuple[Learned, Learned], changes: dict[str, Any], seed: int = 0) -> TorchRelations:
    """A network after the last epoch, trained on the first part of the data and watched on the second."""
    torch.manual_seed(seed)
    architecture = architecture_of(config)
    recipe: Recipe = replace_recipe(recipe_named("auto", len(data[0].dataset), architecture), changes)
    with tempfile.TemporaryDirectory() as folder:
        found = data[0].found, data[1].found
        task = RelationsTask(config, data[0].dataset, data[1].dataset, Request(data=""), found)
        settings = RunSettings(out=Path(folder) / "run", workers=0, accelerator="cpu", seed=seed)
        model = fit(architecture.build(config), task, recipe, settings).eval()
    return TorchRelations(model, torch.device("cpu"))


# What the network says


def network_row(name: str, relate: TorchRelations, boards: Boards) -> dict[str, Any]:
    """Metrics of the network."""
    related = [relate(found) for found in boards.found]
    corrected = [one.detections for one in related]
    believed = [found.filter(BELIEVED) for found in corrected]
    said = np.array([one.right for one in related], np.float64)
    return {
        "way": name,
        **_boxes(boards, corrected, believed),
        "groups": _pairs(boards, believed, [np.asarray(found.fields[GROUP]) for found in believed]),
        **_verdict(boards, said, said > 0.5),
    }


# The classical ways


def best_score(boards: Boards) -> float:
    """The score from which the detector's own detections are best believed."""
    return float(max(SCORES, key=lambda score: _parts(boards, [found.filter(score) for found in boards.found])))


def detector_row(boards: Boards, score: float) -> dict[str, Any]:
    """What the detector itself says, believed from ``score`` on."""
    believed = [found.filter(score) for found in boards.found]
    return {"way": f"detector from {score:.2f}", **_boxes(boards, boards.found, believed)}


def list_row(boards: Boards) -> dict[str, Any]:
    """``phidet.align`` with the design's list."""
    aligned = _aligned(boards)
    corrected = [_by_list(found, one) for found, one in zip(boards.found, aligned, strict=True)]
    wrong = np.array([sum(part.verdict != "right" for part in one.parts) if one.pose else 99 for one in aligned])
    verdict = _verdict(boards, -wrong.astype(np.float64), wrong == 0)
    believed = [
        found[_of_parts(found, before, one)]
        for found, before, one in zip(corrected, boards.found, aligned, strict=True)
    ]
    return {"way": "nominal list (align)", **_boxes(boards, corrected, believed), **verdict}


def _aligned(boards: Boards) -> list[Alignment]:
    return [
        align_detections(nominal_of_board(scene.assembly.board), found, ALIGNED)
        for scene, found in zip(boards.scenes, boards.found, strict=True)
    ]


def _of_parts(found: Detections, before: Detections, aligned: Alignment) -> npt.NDArray[np.bool_]:
    """Which of the detections the aligner says something of."""
    said = [_detection_of(before, part.box_xyxy) for part in aligned.parts if part.box_xyxy is not None]
    return np.isin(np.arange(len(found)), said) if aligned.pose else found.scores >= ALIGNED.score


def with_list(boards: Boards) -> Boards:
    """The detections with a field of what ``phidet.align`` says of each, and of the board as a whole."""
    found = []
    for detections, aligned in zip(boards.found, _aligned(boards), strict=True):
        told = np.zeros((len(detections), LISTED), np.float32)
        told[:, -1] = sum(part.verdict == "missing" for part in aligned.parts) / 4
        told[:, -2] = aligned.pose is not None
        for part in aligned.parts:
            if part.box_xyxy is not None:
                index = _detection_of(detections, part.box_xyxy)
                told[index, VERDICTS.index(part.verdict)] = 1
                if part.label:
                    told[index, len(VERDICTS) + CLASSES.index(part.label)] = 1
                if part.expected_px is not None:
                    told[index, -4:-2] = _from_here(part.expected_px, part.box_xyxy)
        found.append(detections.with_fields({"nominal": told}))
    return boards._replace(found=found)


def _from_here(place: tuple[float, float], box_xyxy: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """In fiftieths of the sides, about the error of a good detector; like a logarithm for far ones."""
    box = np.array(box_xyxy, np.float64)
    place_here: npt.NDArray[np.float64] = (np.array(place) - (box[:2] + box[2:]) / 2) / (box[2:] - box[:2])
    return np.arcsinh(50 * place_here)


def group_rows(train_boards: Boards, boards: Boards, score: float) -> list[dict[str, Any]]:
    """Thresholds that are best on the training boards, and k-means told the number of modules."""
    some = range(min(100, len(train_boards.found)))
    part = train_boards.dataset.subset(some, "part")
    few = _believed(Boards(train_boards.scenes[: len(some)], part, train_boards.found[: len(some)]), score)
    boards = _believed(boards, score)
    rows = []
    for name, grouped in (("pairs nearer than", _near), ("spanning tree cut at", _cut)):
        scores = [grouped(few, threshold) or 0.0 for threshold in THRESHOLDS]
        best = float(THRESHOLDS[int(np.argmax(scores))])
        rows.append({"way": f"{name} {best:.0f} px", "groups": grouped(boards, best)})
    said = [
        kmeans_clusters(detection_graph(found), min(len(scene.assembly.board.modules), len(found)))
        for scene, found in zip(boards.scenes, boards.found, strict=True)
    ]
    return [*rows, {"way": "k-means, number of modules known", "groups": _pairs(boards, boards.found, said)}]


def _believed(boards: Boards, score: float) -> Boards:
    return boards._replace(found=[found.filter(score) for found in boards.found])


def _near(boards: Boards, threshold: float) -> float | None:
    counts = np.zeros(3, np.int64)
    for index, found in enumerate(boards.found):
        graph = detection_graph(found, EdgeRule(kind="distance", distance=threshold))
        true = _true_groups(boards, index, found)
        one, other = graph.pairs
        hits = ((true[one] == true[other]) & (true[one] >= 0)).sum()
        counts += np.array([hits, len(one), _true_pairs(boards, index)], np.int64)
    return f1(counts)


def _cut(boards: Boards, threshold: float) -> float | None:
    said = []
    for found in boards.found:
        graph = detection_graph(found, EdgeRule(kind="delaunay"))
        tree = minimum_spanning_tree(graph)
        lengths = np.hypot(*(graph.centres[tree[0]] - graph.centres[tree[1]]).T)
        said.append(connected_clusters(DetectionGraph(found, symmetric(tree[:, lengths <= threshold], len(found)))))
    return _pairs(boards, boards.found, said)


def _by_list(found: Detections, aligned: Alignment) -> Detections:
    """Detections with the labels of the nominal parts in whose places they are, at these places."""
    labels, boxes = found.class_ids.copy(), found.boxes_xyxy.copy()
    for part in aligned.parts:
        if part.box_xyxy is None or not part.label or part.expected_px is None:
            continue
        index = _detection_of(found, part.box_xyxy)
        labels[index] = CLASSES.index(part.label)
        centre = (boxes[index, :2] + boxes[index, 2:]) / 2
        boxes[index] += np.tile(np.array(part.expected_px, np.float32) - centre, 2)
    return Detections(boxes, found.scores, labels, found.names, found.image_size_hw)


def _detection_of(found: Detections, box_xyxy: tuple[float, float, float, float]) -> int:
    return int(np.abs(found.boxes_xyxy - np.array(box_xyxy)).sum(axis=1).argmin())


# Metrics


def _true_groups(boards: Boards, index: int, found: Detections) -> npt.NDArray[np.int64]:
    truth = boards.dataset.annotations(index)
    objects = objects_of(found, truth)
    groups = np.asarray(truth.fields[GROUP])
    return np.where(objects >= 0, groups[objects], -1)


def _true_pairs(boards: Boards, index: int) -> int:
    """Pairs of a board's parts, found or not, that are of one module."""
    groups = np.asarray(boards.dataset.annotations(index).fields[GROUP])
    sizes = np.bincount(groups[groups >= 0])
    return int((sizes * (sizes - 1) // 2).sum())


def _pairs(boards: Boards, found: Sequence[Detections], said: Sequence[Any]) -> float | None:
    counts = np.zeros(3, np.int64)
    for index, (detections, groups) in enumerate(zip(found, said, strict=True)):
        hits, pairs, _ = pair_counts(groups, _true_groups(boards, index, detections)).tolist()
        counts += np.array([hits, pairs, _true_pairs(boards, index)], np.int64)
    return f1(counts)


def _parts(boards: Boards, believed: Sequence[Detections]) -> float:
    """F1 of labelled parts."""
    counts = np.zeros(3, np.int64)
    for index, found in enumerate(believed):
        truth = boards.dataset.annotations(index)
        objects = objects_of(found, truth)
        hits = (found.class_ids == truth.class_ids[objects]) & (objects >= 0)
        counts += np.array([hits.sum(), len(found), len(truth.class_ids)], np.int64)
    return f1(counts) or 0.0


def _boxes(boards: Boards, found: Sequence[Detections], believed: Sequence[Detections]) -> dict[str, Any]:
    """Parts, labels, AP and places."""
    truths = [boards.dataset.annotations(index) for index in range(len(boards.dataset))]
    errors = []
    for detections, truth, scene in zip(found, truths, boards.scenes, strict=True):
        objects = objects_of(detections, truth)
        centres = xyxy_to_cxcywh(detections.boxes_xyxy[objects >= 0])[:, :2]
        errors.append(centres - scene.places_px[objects[objects >= 0]])
    return {
        "parts": _parts(boards, believed),
        "labels": label_accuracy(found, truths),
        "ap": evaluate_coco(boards.dataset, found).ap,
        "place": float(np.sqrt((np.concatenate(errors) ** 2).mean())),
    }


def _verdict(boards: Boards, scores: npt.NDArray[np.float64], said: npt.NDArray[np.bool_]) -> dict[str, Any]:
    right = np.array([scene.assembly.right for scene in boards.scenes])
    return {"verdict": float((said == right).mean()), "auc": auc(scores, right)}


# Commands


def boards_command(args: argparse.Namespace, design: int | None) -> list[dict[str, Any]]:
    """Everything on made boards."""
    rows = []
    for name, clutter in (("poor detector", POOR), ("good detector", GOOD)):
        if args.only and args.only != name.split()[0]:
            continue
        training = make_boards(range(args.train), design, clutter)
        validation = make_boards(range(TEST_SEED // 2, TEST_SEED // 2 + 60), design, clutter)
        test = make_boards(range(TEST_SEED, TEST_SEED + args.test), design, clutter)
        of_this = [] if args.networks else classical_rows(training, test)
        for layer in args.layers:
            of_this += _networks(f"{args.what}-{name.split()[0]}", layer, (training, validation, test), args)
        rows += [{"detector": name, **row} for row in of_this]
    return rows


def rendered_command(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A trained detector on rendered boards, as made_boards.write_data_set writes them."""
    detector = open_detector(args.detector)
    parts = []
    for split in ("train", "val"):
        dataset = open_data(args.data).read(split, detector.class_names)
        kept = args.work / f"found-{split}.json"
        if not kept.is_file():
            detect_once(detector, dataset, kept, args.score)
        # The scenes are made again from their seeds; what was found in their images is put in the place of chance.
        seeds = [int(str(name).removeprefix("board-").removesuffix(".png")) for name in dataset.names]
        boards = make_boards(seeds, None, GOOD, RENDERED_FAULTS, right_share=0.3)
        found = [of_image.filter(SEEN) for of_image in detections_from(read_results(kept), dataset)]
        parts.append(boards._replace(found=found))
    training, test = parts
    rows = [] if args.networks else classical_rows(training, test)
    if args.simulated:
        # Graphs cost nothing but a generator: boards of other designs, with detections as good as the trained one's.
        made = make_boards(range(10_000, 10_000 + args.simulated), None, GOOD, RENDERED_FAULTS, right_share=0.3)
        training = Boards(
            training.scenes + made.scenes, joined(training.dataset, made.dataset), training.found + made.found
        )
    for layer in args.layers:
        rows += _networks(f"rendered-{args.simulated}", layer, (training, test, test), args)
    return rows


def classical_rows(training: Boards, test: Boards) -> list[dict[str, Any]]:
    """All ways without a network."""
    score = best_score(training)
    return [detector_row(test, score), list_row(test), *group_rows(training, test, score)]


def joined(one: Dataset, other: Dataset) -> Dataset:
    """Both as one data set."""
    parts = [(dataset, index) for dataset in (one, other) for index in range(len(dataset))]
    both = Dataset(
        "both",
        CLASSES,
        names=[str(dataset.names[i]) for dataset, i in parts],
        sources=[dataset.source(i) for dataset, i in parts],
        annotations=[dataset.annotations(i) for dataset, i in parts],
        sizes_hw=np.array([dataset.size_hw(i) for dataset, i in parts], np.int32),
    )
    both.right = {**one.right, **other.right}
    return both


def _networks(
    case: str, layer: str, parts: tuple[Boards, Boards, Boards], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Networks that see detections only, and those that also see what the list says of them; one for each seed."""
    rows = []
    fields: dict[str, int]
    told = {"no": _FIELDS[:1], "yes": _FIELDS[1:], "both": _FIELDS}[args.told]
    for (name, fields), seed in product(told, args.seeds):
        kept = args.work / f"{case}-{layer}{name.replace(' ', '-')}-{seed}.json"
        if kept.is_file():
            rows.append(json.loads(kept.read_text()))
            continue
        training, validation, test = [with_list(part) for part in parts] if fields else parts
        shape = {"class_names": CLASSES, "answers": ANSWERS, "fields": fields, "score": SEEN}
        config = replace(published_config(f"relations-{layer}"), shape)
        data = Learned(training.dataset, training.found), Learned(validation.dataset, validation.found)
        changes = {"epochs": args.epochs, "evaluate_every": args.epochs, "augmentation": {"faults": args.faults}}
        started = time.process_time()
        relate = train(config, data, changes, seed)
        seconds = time.process_time() - started
        row = {**network_row(f"network, {layer}{name}", relate, test), "CPU s": seconds}
        args.work.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(row))
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def images_command(args: argparse.Namespace) -> list[dict[str, Any]]:
    """AP before and after on a labelled data set."""
    detector = open_detector(args.detector)
    folder = open_data(args.data)
    splits = folder.train_split(), folder.val_split() or ""
    sets = [folder.read(split, detector.class_names) for split in splits]
    found = []
    for name, dataset in zip(("train", "val"), sets, strict=True):
        kept = args.work / f"found-{name}.json"
        if not kept.is_file():
            detect_once(detector, dataset, kept, args.score)
        found.append(detections_from(read_results(kept), dataset))
    order = np.random.default_rng(0).permutation(len(sets[0]))
    held, learned = (sorted(part.tolist()) for part in np.split(order, [len(order) // 10]))
    rows = [{"way": "detector", **_coco(sets[1], found[1])}]
    for layer in args.layers:
        config = replace(
            published_config(f"relations-{layer}"),
            {"class_names": detector.class_names, "answers": tuple(args.answers), "score": args.score},
        )
        changes = {"epochs": args.epochs, "evaluate_every": args.epochs, "loss": {"quality": args.quality}}
        data = [Learned(sets[0].subset(part, "train"), [found[0][i] for i in part]) for part in (learned, held)]
        relate = train(config, (data[0], data[1]), changes)
        after = [relate(one).detections for one in found[1]]
        rows.append({"way": f"network, {layer}", **_coco(sets[1], after)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _coco(dataset: Dataset, found: Sequence[Detections]) -> dict[str, Any]:
    report = evaluate_coco(dataset, list(found))
    return {"ap": report.ap, "ap50": report.ap50, "ap75": report.ap75}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["boards", "product", "rendered", "images"])
    parser.add_argument("--layers", nargs="+", default=["attention"], choices=get_args(Layer))
    parser.add_argument("--train", type=int, default=1500, help="boards to train on")
    parser.add_argument("--test", type=int, default=200, help="boards to measure on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--networks", action="store_true", help="rendered: nothing but the networks")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--told", choices=("no", "yes", "both"), default="both", help="whether networks see the list")
    parser.add_argument("--faults", type=float, default=0.0, help="share of right boards that learning puts a fault in")
    parser.add_argument("--simulated", type=int, default=0, help="rendered: boards without images to learn from, too")
    parser.add_argument("--only", choices=["poor", "good"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--detector")
    parser.add_argument("--answers", nargs="+", default=["score"])
    parser.add_argument("--score", type=float, default=0.01)
    parser.add_argument("--quality", action="store_true", help="scores learn overlaps, as COCO's AP counts them")
    parser.add_argument("--work", type=Path, default=Path("relations-work"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    logging.getLogger("phidet").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    designs = {"boards": None, "product": 7}
    commands = {"rendered": rendered_command, "images": images_command}
    run = commands.get(args.what, lambda given: boards_command(given, designs[args.what]))
    rows = run(args)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    by_way: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for row in rows:
        by_way.setdefault((row.get("detector"), row["way"]), []).append(row)
    shown = [[_text([row.get(column) for row in of_way]) for column in columns] for of_way in by_way.values()]
    print(table(columns, shown))


def _text(values: list[Any]) -> str:
    """A value, or mean ± standard deviation of several seeds."""
    if len(values) == 1 or isinstance(values[0], str):
        return values[0] if isinstance(values[0], str) else or_dash(values[0], "{:.3f}")
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


if __name__ == "__main__":
    main()
