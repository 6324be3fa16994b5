"""Whether the appearance of objects, from the detector's own feature maps, would help the tracker.

    python benchmarks/track_appearance.py ../shared/data/coco128      needs SciPy, TrackEval and onnx

People that were cut out of photographs (COCO's panoptic masks) walk before other photographs, past each other and
behind pillars, where they wait and may turn round; the longer they are hidden, the less their movement says who comes
out. Their pixels stay the same but for brightness, direction and size: real
people change more, so that appearance is worth less than it is here. Boxes are the true ones with noise, misses and
false ones, since the bundled detector finds few of such people; its maps are those of the image.

Appearance is the mean of a map in a box, as in ``architectures/appearance.py``, kept for each track as a running
mean. It is used where the tracker without it gives up: a detection that would begin a track is given the id of a lost
one that could have come there, if their cosine is high enough, for which several thresholds are tried; ``place`` takes
the nearest without looking.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from PIL import Image, ImageEnhance

from phidet import Detections, Detector, Tracker, TrackerSettings
from phidet.detections.boxes import pairwise_iou

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from tracking_data import Truth, noisy, score

Floats = npt.NDArray[np.float32]
SIZE_HW, RATE, SECONDS, PEOPLE = (540, 960), 8.0, 12, 6
HIDDEN_S = (0.5, 2.0)
THRESHOLDS = (0.5, 0.8, 0.95)
ERRORS = (0.03, 0.05, 0.1)  # of boxes in sides, share of misses, false boxes a frame
PILLARS = ((250, 360), (600, 720))
KINDS = ("feature network", "backbone", "colours", "place")
BUNDLED = Path(__file__).resolve().parents[1] / "src/phidet/inference/bundled/person.onnx"


class Photographs(NamedTuple):
    """People with alpha, RGBA, and photographs without people."""

    people: list[Image.Image]
    grounds: list[Image.Image]


def read(folder: Path) -> Photographs:
    """From a folder as COCO128's with panoptic masks."""
    people, grounds = [], []
    for part in ("train2017", "val2017"):
        about = json.loads((folder / f"panoptic_segmentation/annotations/panoptic_{part}.json").read_text())
        for entry in about["annotations"]:
            file = next((folder / "images" / part).glob(f"{entry['image_id']:012d}.*"))
            image = Image.open(file).convert("RGB")
            found = [s for s in entry["segments_info"] if s["category_id"] == 1]
            if not found and image.width > image.height:
                grounds.append(image.resize(SIZE_HW[::-1], Image.Resampling.BICUBIC))
            masks = next((folder / "panoptic_segmentation").rglob(entry["file_name"]))
            ids = np.asarray(Image.open(masks).convert("RGB")).astype(int) @ (1, 256, 65536)
            for segment in found:
                x, y, w, h = segment["bbox"]
                if h >= 130 and h >= 1.6 * w and segment["area"] >= 0.35 * w * h and not segment["iscrowd"]:
                    cut = image.crop((x, y, x + w, y + h))
                    alpha = (ids[y : y + h, x : x + w] == segment["id"]).astype(np.uint8) * 255
                    cut.putalpha(Image.fromarray(alpha))
                    people.append(cut)
    return Photographs(people, grounds)


def walk(rng: np.random.Generator, hidden_s: float) -> npt.NDArray[np.float64]:
    """Where one person is, x in each frame: to a pillar, there for a while, out again on either side."""
    middles = [sum(pillar) / 2 for pillar in PILLARS]
    x, places = float(rng.uniform(60, 900)), list[float]()
    while len(places) < SECONDS * RATE:
        step = rng.uniform(90, 170) / RATE
        behind = float(rng.choice(middles)) + rng.uniform(-8, 8)
        for goal in (behind, float(np.clip(behind + rng.choice((-1, 1)) * rng.uniform(170, 330), 50, 910))):
            frames = max(1, round(abs(goal - x) / step))
            places += np.linspace(x, goal, frames + 1)[1:].tolist()
            x = goal
            if goal == behind:
                places += [x] * round(hidden_s * RATE)
    return np.array(places[: int(SECONDS * RATE)])


def film(photographs: Photographs, hidden_s: float, seed: int) -> tuple[Truth, list[npt.NDArray[np.uint8]]]:
    """A video and its truth: whoever shows at least a quarter."""
    rng = np.random.default_rng((7, seed, int(10 * hidden_s)))
    ground, front = (photographs.grounds[i] for i in rng.choice(len(photographs.grounds), 2, replace=False))
    cast = [photographs.people[i] for i in rng.choice(len(photographs.people), PEOPLE, replace=False)]
    feet = np.sort(rng.uniform(400, 520, PEOPLE))  # the nearest last
    ways = [walk(rng, hidden_s) for _ in cast]
    heights = 120 + (feet - 400) * 0.6 + rng.uniform(0, 60, PEOPLE)
    light = rng.uniform(0.85, 1.15, (PEOPLE, 3)), rng.uniform(0, 6, PEOPLE)
    truth, frames = Truth([], [], SIZE_HW), []
    for frame in range(int(SECONDS * RATE)):
        image, owner = ground.copy(), np.full(SIZE_HW, -1)
        boxes, areas = [], []
        for i, person in enumerate(cast):
            height = heights[i] * (1 + 0.03 * np.sin(frame / 4 + i))  # they bob
            size = max(8, round(height * person.width / person.height)), round(height)
            one = person.resize(size, Image.Resampling.BILINEAR)
            if ways[i][min(frame + 1, len(ways[i]) - 1)] < ways[i][frame]:
                one = one.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            alpha = one.getchannel("A")
            one = ImageEnhance.Brightness(one).enhance(1 + 0.15 * np.sin(frame / 20 + light[1][i]))
            left, top = round(ways[i][frame] - size[0] / 2), round(feet[i] - size[1])
            image.paste(one, (left, top), alpha)
            inside = Image.new("L", SIZE_HW[::-1])
            inside.paste(alpha, (left, top))
            mask = np.asarray(inside) > 127
            owner[mask] = i
            areas.append(max(1, mask.sum()))
            boxes.append((left, top, left + size[0], top + size[1]))
        for first, last in PILLARS:
            image.paste(front.crop((first, 0, last, SIZE_HW[0])), (first, 0))
            owner[:, first:last] = -1
        shown = np.array([(owner == i).sum() / areas[i] for i in range(PEOPLE)]) >= 0.25
        truth.ids.append(np.flatnonzero(shown))
        truth.boxes_xyxy.append(np.array(boxes, np.float32)[shown].reshape(-1, 4))
        frames.append(np.asarray(image))
    return truth, frames


class Maps:
    """The bundled network, which keeps its feature maps of the last image; a ``Network`` for a ``Detector``."""

    name = "feature maps"

    def __init__(self) -> None:
        self.config = Detector("person").config
        model = onnx.load(BUNDLED)
        self._kinds = {kind: _maps(model, kind) for kind in KINDS[:2]}
        for name in (n for group in self._kinds.values() for n in group):
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._last: dict[str, Floats] = {}

    def __call__(self, images: Floats, valid_hw: npt.NDArray[np.int64] | None = None) -> dict[str, Floats]:
        self._last = dict(zip(self._outputs, self._session.run(self._outputs, {"images": images}), strict=True))
        return {name: self._last[name] for name in ("class_logits", "box_deltas")}

    def appearance(self, image: npt.NDArray[np.uint8], boxes: Floats) -> dict[str, Floats]:
        """Of each box of the last image, (N, C) of length 1, of each kind."""
        side = 448
        scaled = boxes * np.float32(side / max(image.shape[:2]))
        found = {}
        for kind, group in self._kinds.items():
            levels = {round(np.log2(side / self._last[name].shape[2])): self._last[name][0] for name in group}
            found[kind] = _unit(_pooled(levels, scaled))
        grid = np.stack([_means(image, box) for box in boxes]) if len(boxes) else np.zeros((0, 24), np.float32)
        return found | {"colours": _unit(grid - 128), "place": np.ones((len(boxes), 1), np.float32)}


def _maps(model: Any, kind: str) -> list[str]:
    """Names of the maps of strides 8 to 128 that the heads begin with, or of those that the feature network does."""
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    uses: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            uses.setdefault(sources.get(node.input[1], node.input[1]), []).append(node)
    # The heads' weights are shared by five levels, and nobody else's are.
    heads = next(nodes for nodes in uses.values() if len(nodes) == 5)
    if kind == "feature network":
        return [node.input[0] for node in heads]

    shapes = onnx.shape_inference.infer_shapes(model).graph.value_info
    sides = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in shapes}
    names = [node.output[0] for node in model.graph.node]
    first = names.index(heads[0].input[0])
    last: dict[int, str] = {}
    for node in list(model.graph.node)[:first]:
        # The last sum or projection of the backbone at each stride; the feature network's maps have the heads' depth.
        shape = sides.get(node.output[0], [])
        if (
            node.op_type in ("Add", "Conv")
            and len(shape) == 4
            and tuple(shape[1:3]) in ((40, 56), (112, 28), (320, 14))
        ):
            last[shape[2]] = node.output[0]
    return list(last.values())


def _pooled(levels: dict[int, Floats], boxes: Floats) -> Floats:
    """Means over 7 × 7 bilinear samples on the level of the box's size, as ``architectures/appearance.py`` has them."""
    sides = np.sqrt(np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1e-6))
    which = np.clip(np.floor(4 + np.log2(sides / 224)), min(levels), max(levels)).astype(int)
    found = []
    steps = (np.arange(7) + 0.5) / 7
    for box, level in zip(boxes, which, strict=True):
        of_level = levels[int(level)]
        x = (box[0] + steps * (box[2] - box[0])) / 2.0**level - 0.5
        y = (box[1] + steps * (box[3] - box[1])) / 2.0**level - 0.5
        found.append(_bilinear(of_level, *(v.ravel() for v in np.meshgrid(x, y))).mean(axis=1))
    # Levels have different depths in a backbone: they are put side by side, zeros elsewhere.
    most = max(m.shape[0] for m in levels.values())
    return np.array([np.pad(f, (0, most - len(f))) for f in found], np.float32).reshape(-1, most)


def _bilinear(of_level: Floats, x: Any, y: Any) -> Floats:
    height, width = of_level.shape[1:]
    x, y = np.clip(x, 0, width - 1.001), np.clip(y, 0, height - 1.001)
    x0, y0 = x.astype(int), y.astype(int)
    fx, fy = x - x0, y - y0
    top = of_level[:, y0, x0] * (1 - fx) + of_level[:, y0, x0 + 1] * fx
    bottom = of_level[:, y0 + 1, x0] * (1 - fx) + of_level[:, y0 + 1, x0 + 1] * fx
    pooled: Floats = top * (1 - fy) + bottom * fy
    return pooled


def _means(image: npt.NDArray[np.uint8], box: Floats) -> Floats:
    """Mean colours of eight bands of the middle of a box."""
    x1, y1, x2, y2 = box
    area = (
        int(x1 + 0.25 * (x2 - x1)),
        int(y1),
        max(int(x2 - 0.25 * (x2 - x1)), int(x1) + 2),
        max(int(y2), int(y1) + 8),
    )
    return np.asarray(Image.fromarray(image).crop(area).resize((1, 8), Image.Resampling.BOX), np.float32).reshape(-1)


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return unit


class Seen(NamedTuple):
    """Detections of a frame, and the appearance of each."""

    found: Detections
    looks: dict[str, Floats]


class Linked:
    """A tracker, and ids that are given back by appearance.

    Args:
        kind: of appearance; ``None`` for the tracker alone.
        least: cosine from which a lost track is taken up again.
        memory_s: how long it waits.
    """

    def __init__(self, kind: str | None, least: float, memory_s: float) -> None:
        # Without appearance the tracker itself waits as long.
        self.tracker = Tracker(TrackerSettings(lost_s=1.0) if kind else TrackerSettings(lost_s=memory_s))
        self.kind, self.least, self.memory_s = kind, least, memory_s
        self.fresh = count(10_000)
        self.known: dict[int, int] = {}
        self.looks: dict[int, Floats] = {}
        self.last: dict[int, tuple[float, Floats]] = {}

    def update(self, seen: Seen, time_s: float) -> tuple[list[int], Floats]:
        tracked = self.tracker.update(seen.found, time_s)
        ids = np.asarray(tracked.fields["track_id"]).tolist()
        if self.kind is None:
            return ids, tracked.boxes_xyxy
        rows = [int(np.flatnonzero((seen.found.boxes_xyxy == box).all(axis=1))[0]) for box in tracked.boxes_xyxy]
        looks = seen.looks[self.kind][rows] if rows else np.zeros((0, 1), np.float32)
        for i, box, look in zip(ids, tracked.boxes_xyxy, looks, strict=True):
            if i not in self.known:
                self.known[i] = self._again(box, look, time_s, ids) or i
        named: list[int] = []
        for i in ids:
            # The tracker itself may have found again whom another track has been taken for.
            if self.known[i] in named:
                self.known[i] = next(self.fresh)
            named.append(self.known[i])
        overlaps = pairwise_iou(tracked.boxes_xyxy, tracked.boxes_xyxy) - np.eye(len(ids))
        for row, (name, box, look) in enumerate(zip(named, tracked.boxes_xyxy, looks, strict=True)):
            # Where boxes overlap, a map shows both people.
            if overlaps[row].max(initial=0) < 0.2 and tracked.scores[row] > 0.4:
                old = self.looks.get(name, look)
                self.looks[name] = _unit((0.9 * old + 0.1 * look)[None])[0]
            self.last[name] = time_s, box
        return named, tracked.boxes_xyxy

    def _again(self, box: Floats, look: Floats, time_s: float, ids: list[int]) -> int | None:
        busy = {self.known[i] for i in ids if i in self.known}
        best, best_cosine = None, self.least
        for name, (seen_s, last) in self.last.items():
            gap = time_s - seen_s
            side = (last[2:] - last[:2]).mean()
            far = np.abs((box[:2] + box[2:] - last[:2] - last[2:]) / 2).max() / side
            if name in busy or name not in self.looks or gap > self.memory_s or far > 1.5 + 1.5 * gap:
                continue
            # Looks of which all are equal: the nearest is taken.
            cosine = float(self.looks[name] @ look) if self.kind != "place" else 1.0 - float(far) / 100
            if cosine > best_cosine:
                best, best_cosine = name, cosine
        return best


def follow(tracker: Linked, truth: Truth, seen: list[Seen]) -> npt.NDArray[np.float64]:
    """HOTA, MOTA, IDF1 and switches."""
    ids, boxes = zip(*(tracker.update(one, i / RATE) for i, one in enumerate(seen)), strict=True)
    return np.array(score(truth, [np.array(i, np.int64) for i in ids], list(boxes)))


def returns(truth: Truth, seen: list[Seen]) -> Iterator[dict[str, bool]]:
    """For each person that comes back after 0.4 s or more: whether the most similar of all people is them."""
    known: dict[str, dict[int, Floats]] = {kind: {} for kind in KINDS}
    last: dict[int, int] = {}
    for frame, (ids, boxes, one) in enumerate(zip(truth.ids, truth.boxes_xyxy, seen, strict=True)):
        overlaps = pairwise_iou(boxes, one.found.boxes_xyxy)
        for i, row in zip(ids.tolist(), overlaps, strict=True):
            if row.max(initial=0) < 0.6:
                continue
            looks = {kind: one.looks[kind][row.argmax()] for kind in KINDS}
            if i in last and frame - last[i] >= 0.4 * RATE and len(last) == PEOPLE:
                yield {kind: max(known[kind], key=lambda j: float(known[kind][j] @ looks[kind])) == i for kind in KINDS}
            last[i] = frame
            for kind in KINDS:
                old = known[kind].get(i, looks[kind])
                known[kind][i] = _unit((0.9 * old + 0.1 * looks[kind])[None])[0]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=2, help="for each length of hiding")
    parser.add_argument("--first", type=int, default=0, help="number of the first video")
    parser.add_argument("--show", type=Path, help="write a frame there")
    args = parser.parse_args()
    photographs = read(args.folder)
    print(f"{len(photographs.people)} people, {len(photographs.grounds)} grounds")
    maps = Maps()
    detector = Detector(maps)
    for hidden_s in HIDDEN_S:
        rows: dict[str, list[Any]] = {}
        right: list[dict[str, bool]] = []
        for seed in range(args.first, args.first + args.videos):
            truth, frames = film(photographs, hidden_s, seed)
            if args.show:
                Image.fromarray(frames[40]).save(args.show)
            seen = []
            for image, found in zip(frames, noisy(truth, ERRORS, seed), strict=True):
                detector.detect([image])
                seen.append(Seen(found, maps.appearance(image, found.boxes_xyxy)))
            right += returns(truth, seen)
            for wait in (1.0, 3.0):
                rows.setdefault(f"without, waits {wait:g} s", []).append(follow(Linked(None, 0, wait), truth, seen))
            for kind in KINDS:
                for least in THRESHOLDS if kind != "place" else (0.0,):
                    rows.setdefault(f"{kind} {least}", []).append(follow(Linked(kind, least, 3.0), truth, seen))
        shares = {kind: f"{np.mean([r[kind] for r in right]):.0%}" for kind in KINDS}
        print(
            f"hidden for {hidden_s:g} s and more; most similar of {PEOPLE} is right, of {len(right)} returns: {shares}"
        )
        for name, values in rows.items():
            hota, mota, idf1, switches = np.mean(values, axis=0)
            print(
                f"  {name:24} HOTA {hota:5.1f}  MOTA {mota:5.1f}  IDF1 {idf1:5.1f}  switches {switches:5.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
