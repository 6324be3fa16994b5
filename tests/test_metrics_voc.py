"""VOC's AP50 by hand, and against a second, slow and simple, implementation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_data import (
    a_dataset,
    detections,
    nothing,
    perfect,
    rescored,
    shuffled,
    some_detections,
    thing,
    truth,
    with_worst,
)
from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.evaluation.voc_metrics import evaluate_voc

A, B, C = (10.0, 10.0, 60.0, 60.0), (100.0, 10.0, 150.0, 60.0), (200.0, 10.0, 250.0, 60.0)
NOWHERE = (100.0, 120.0, 150.0, 190.0)
seeds = st.integers(0, 2**32 - 1)


def verdict(dataset: Dataset, found: list[Detections], image: int, n: int) -> int | None:
    """Number of the object that detection ``n`` lies on, −1 for none, ``None`` where that does not count."""
    a, c = dataset.annotations(image), found[image].class_ids[n]
    box = found[image].boxes_xyxy[n].astype(float)
    ious, shares = [0.0], [0.0]
    for other, k, crowd in zip(a.boxes_xyxy.astype(float), a.class_ids, a.crowd, strict=True):
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        common = max(width, 0) * max(height, 0) * (k == c)
        own, its = (float((b[2] - b[0]) * (b[3] - b[1])) for b in (box, other))
        ious.append(0.0 if crowd else common / (own + its - common))
        shares.append(common / own if crowd else 0.0)
    best = max(range(len(ious)), key=ious.__getitem__) - 1
    if ious[best + 1] >= 0.5:
        return None if a.difficult[best] else best
    return None if max(shares) >= 0.5 else -1


def oracle(dataset: Dataset, found: list[Detections], c: int, eleven_points: bool) -> float | None:
    """Detection by detection, precision by precision."""
    a = dataset.all_annotations
    objects = sum((a.class_ids == c) & ~a.crowd & ~a.difficult)
    if objects == 0:
        return None
    ranked = sorted(
        (-float(s), i, n) for i, f in enumerate(found) for n, s in enumerate(f.scores) if f.class_ids[n] == c
    )
    taken: set[tuple[int, int]] = set()
    hits = misses = 0
    points = []
    for _, i, n in ranked:
        which = verdict(dataset, found, i, n)
        if which is None:
            continue
        if which < 0 or (i, which) in taken:
            misses += 1
        else:
            taken.add((i, which))
            hits += 1
        points.append((hits, hits / (hits + misses)))
    if eleven_points:
        return sum(max((p for h, p in points if 10 * h >= t * objects), default=0.0) for t in range(11)) / 11
    return sum(max((p for h, p in points if h >= rank), default=0.0) for rank in range(1, objects + 1)) / objects


@settings(max_examples=40)
@given(seeds, st.integers(1, 40), st.booleans(), st.booleans())
def test_voc_is_what_the_simple_implementation_says(seed: int, most: int, ties: bool, eleven: bool) -> None:
    dataset = a_dataset(seed, images=5, difficult=0.2)
    found = some_detections(dataset, seed + 1, most, ties)
    report = evaluate_voc(dataset, found, eleven_points=eleven)
    expected = [oracle(dataset, found, c, eleven) for c in range(4)]
    assert list(report.classes.values()) == pytest.approx(expected, abs=1e-12)
    defined = [value for value in expected if value is not None]
    assert report.ap50 == (pytest.approx(sum(defined) / len(defined), abs=1e-12) if defined else None)


def test_ap_by_hand() -> None:
    dataset = truth([thing(A), thing(B)], [thing(A)])
    found = [detections((A, 0.9, 0), (NOWHERE, 0.8, 0), (B, 0.7, 0)), detections()]
    # Right, false, right of three objects: precision 1 to recall 1/3, 2/3 to recall 2/3, then 0.
    assert evaluate_voc(dataset, found).ap50 == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    # Recalls 0…0.3 have precision 1, 0.4…0.6 have 2/3, four have none.
    assert evaluate_voc(dataset, found, eleven_points=True).ap50 == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_eleven_points_reach_tenths_exactly() -> None:
    rows = [thing((10.0 + 20 * i, 10, 25.0 + 20 * i, 40)) for i in range(10)]
    boxes = [row.box_xyxy for row in rows]
    for count in range(11):
        found = detections(*((box, 0.9 - 0.01 * i, 0) for i, box in enumerate(boxes[:count])))
        report = evaluate_voc(truth(rows), [found], eleven_points=True)
        assert report.ap50 == pytest.approx((count + 1) / 11 if count else 0)


def test_difficult_objects_are_neither_right_nor_wrong() -> None:
    dataset = truth([thing(A), thing(B, difficult=True)])
    for extra in ([], [(B, 0.95, 0)], [(B, 0.95, 0), (B, 0.94, 0)]):
        assert evaluate_voc(dataset, [detections(*extra, (A, 0.9, 0))]).ap50 == 1.0
    assert evaluate_voc(truth([thing(A, difficult=True)]), [detections((NOWHERE, 0.9, 0))]).ap50 is None


def test_crowds_are_neither_right_nor_wrong() -> None:
    dataset = truth([thing(A), thing((90, 0, 290, 190), crowd=True)])
    assert evaluate_voc(dataset, [detections((B, 0.95, 0), (C, 0.94, 0), (A, 0.9, 0))]).ap50 == 1.0
    assert evaluate_voc(dataset, [detections((B, 0.95, 1), (A, 0.9, 0))]).classes == {"a": 1.0, "b": None}


def test_an_object_is_found_once_by_the_best_score() -> None:
    near = (12.0, 10.0, 62.0, 60.0)
    dataset = truth([thing(A), thing(B)])
    doubled = [detections((near, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0))]
    assert evaluate_voc(dataset, doubled).ap50 == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_perfect_none_and_nothing() -> None:
    dataset = a_dataset(0, difficult=0.2)
    for eleven in (False, True):
        assert evaluate_voc(dataset, perfect(dataset), eleven).ap50 == 1.0
        assert evaluate_voc(dataset, nothing(12), eleven).ap50 == 0.0
    assert evaluate_voc(truth([], []), nothing(2)).ap50 is None
    assert evaluate_voc(truth(), []).ap50 is None
    with pytest.raises(InputError, match="each of the 12 images"):
        evaluate_voc(dataset, [])


@settings(max_examples=15)
@given(seeds)
def test_order_and_scale_of_scores_do_not_matter_and_a_false_positive_never_helps(seed: int) -> None:
    dataset = a_dataset(seed, images=5, difficult=0.1)
    found = some_detections(dataset, seed + 1, ties=False)
    expected = evaluate_voc(dataset, found)
    assert evaluate_voc(*shuffled(dataset, found, seed)).classes == pytest.approx(expected.classes, abs=1e-12)
    assert evaluate_voc(dataset, rescored(found)).classes == pytest.approx(expected.classes, abs=1e-12)
    more = evaluate_voc(dataset, with_worst(found, seed))
    for name, ap in expected.classes.items():
        assert (more.classes[name] is None) == (ap is None)
        assert ap is None or (more.classes[name] or 0) <= ap + 1e-12
