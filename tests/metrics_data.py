"""Data sets and detections for the tests of measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections

SIZE = (200, 300)
Box = tuple[float, float, float, float]
Found = tuple[Box, float, int]  # box, score, class


def a_dataset(seed: int, images: int = 12, classes: int = 4, most: int = 12, difficult: float = 0.0) -> Dataset:
    """Random objects of all classes but the last, a tenth of them crowds; some images have none."""
    rng = np.random.default_rng(seed)
    names = [f"c{i}" for i in range(classes)]
    collector = Collector("test", Path(), names)
    for i in range(images):
        objects = []
        for j in range(rng.integers(0, most)):
            x1, y1 = rng.uniform(0, 250), rng.uniform(0, 150)
            w, h = rng.uniform(4, 120, 2)
            area = float(w * h * rng.uniform(0.3, 1)) if rng.random() < 0.5 else None
            name = names[rng.integers(0, classes - 1)]
            crowd, hard = bool(rng.random() < 0.1), bool(rng.random() < difficult)
            objects.append(RawObject(f"{i}:{j}", (x1, y1, x1 + w, y1 + h), name, area, crowd, hard))
        collector.add(f"{i}.jpg", Path(f"{i}.jpg"), SIZE, objects)
    return collector.dataset()


def some_detections(dataset: Dataset, seed: int, most: int = 30, ties: bool = True) -> list[Detections]:
    """Shifted truth, some of it of a wrong class, and pure invention; with or without equal scores."""
    rng = np.random.default_rng(seed)
    result = []
    for i in range(len(dataset)):
        a = dataset.annotations(i)
        near = a.boxes_xyxy + rng.normal(0, 3, a.boxes_xyxy.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)  # COCO forgives a box of negative area
        corners = rng.uniform(0, 150, (rng.integers(0, most), 2))
        far = np.concatenate([corners, corners + rng.uniform(5, 100, corners.shape)], 1)
        boxes = np.concatenate([near, far]).astype(np.float32)
        count = len(dataset.class_names)
        classes = np.concatenate([a.class_ids, rng.integers(0, count, len(far))])
        classes = np.where(rng.random(len(classes)) < 0.1, rng.integers(0, count, len(classes)), classes)
        scores = rng.random(len(boxes)).astype(np.float32)
        result.append(Detections(boxes, np.round(scores, 1) if ties else scores, classes))
    return result


def nothing(images: int) -> list[Detections]:
    return [detections()] * images


def detections(*found: Found) -> Detections:
    """As written, best first."""
    return Detections(
        np.array([box for box, _, _ in found], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in found], np.float32),
        np.array([c for _, _, c in found], np.int64),
    )


def truth(*images: Sequence[RawObject], classes: Sequence[str] = ("a", "b")) -> Dataset:
    collector = Collector("test", Path(), classes)
    for i, objects in enumerate(images):
        collector.add(f"{i}.jpg", Path(f"{i}.jpg"), SIZE, objects)
    return collector.dataset()


def thing(box: Box, name: str = "a", crowd: bool = False, difficult: bool = False) -> RawObject:
    return RawObject("", box, name, None, crowd, difficult)


def perfect(dataset: Dataset) -> list[Detections]:
    """Every object that counts, as it is."""
    result = []
    for i in range(len(dataset)):
        a = dataset.annotations(i)
        real = ~(a.crowd | a.difficult)
        result.append(Detections(a.boxes_xyxy[real], np.full(real.sum(), 0.9, np.float32), a.class_ids[real]))
    return result


def shuffled(dataset: Dataset, found: list[Detections], seed: int) -> tuple[Dataset, list[Detections]]:
    """The images in another order, and the detections of each."""
    rng = np.random.default_rng(seed)
    images = rng.permutation(len(dataset)).tolist()
    moved = [found[i][rng.permutation(len(found[i]))] for i in images]
    return dataset.subset(images, "shuffled"), moved


def rescored(found: list[Detections]) -> list[Detections]:
    """Scores bent, their order kept."""
    return [Detections(f.boxes_xyxy, f.scores.astype(np.float64) ** 2 * 0.5, f.class_ids) for f in found]


def with_worst(found: list[Detections], seed: int) -> list[Detections]:
    """One more detection in every image, far from all objects and of a lower score than any."""
    rng = np.random.default_rng(seed)
    lowest = min((float(f.scores.min()) for f in found if len(f.scores)), default=1.0)
    result = []
    for f in found:
        box = np.array([[5000, 5000, 5050, 5060]], np.float32)
        result.append(joined(f, Detections(box, np.array([lowest * 0.5]), rng.integers(0, 3, 1))))
    return result


def joined(first: Detections, second: Detections) -> Detections:
    """All objects of both."""
    return Detections(
        np.concatenate([first.boxes_xyxy, second.boxes_xyxy]),
        np.concatenate([first.scores, second.scores]),
        np.concatenate([first.class_ids, second.class_ids]),
    )
