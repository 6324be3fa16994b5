"""Matches, curves, confusion and mistakes: laws on random data, values by hand."""

from __future__ import annotations

import numpy as np
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
from phidet.evaluation.coco_metrics import evaluate_coco
from phidet.evaluation.confusion import confusion_matrix
from phidet.evaluation.curves import best_threshold, pr_curves
from phidet.evaluation.matching import countable, covered, match_all, match_image
from phidet.evaluation.mistakes import KINDS, Mistake, worst_mistakes

A, B, C = (10.0, 10.0, 60.0, 60.0), (100.0, 10.0, 150.0, 60.0), (200.0, 10.0, 250.0, 60.0)
NEAR_A, POOR_A = (12.0, 10.0, 62.0, 60.0), (40.0, 10.0, 90.0, 60.0)  # IoU 48/52 and 20/80
NOWHERE = (100.0, 120.0, 150.0, 190.0)
seeds = st.integers(0, 2**32 - 1)


# Matches


def test_the_best_score_takes_the_object_that_it_overlaps_most() -> None:
    objects = truth([thing(A), thing(NEAR_A)]).annotations(0)
    found = detections((A, 0.5, 0), (A, 0.9, 0), (A, 0.4, 0))
    matches = match_image(found, objects)
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.4])
    assert matches.objects.tolist() == [0, 1, -1]
    assert matches.false.tolist() == [False, False, True]
    assert matches.ious.shape == (3, 2)


def test_of_equal_scores_the_earlier_is_the_better_one() -> None:
    objects = truth([thing(A)]).annotations(0)
    assert match_image(detections((NEAR_A, 0.5, 0), (A, 0.5, 0)), objects).objects.tolist() == [0, -1]


def test_an_object_of_another_class_will_do_only_across_classes_and_second() -> None:
    objects = truth([thing(A, "b"), thing(NEAR_A, "a")]).annotations(0)
    found = detections((A, 0.9, 0), (A, 0.8, 0))
    assert match_image(found, objects).objects.tolist() == [1, -1]
    assert match_image(found, objects, across_classes=True).objects.tolist() == [1, 0]


def test_detections_on_difficult_objects_and_in_crowds_are_ignored_unless_they_find_something() -> None:
    objects = truth([thing(A), thing(B, difficult=True), thing((160, 0, 290, 190), crowd=True)]).annotations(0)
    found = detections((A, 0.9, 0), (B, 0.8, 0), (B, 0.7, 0), (C, 0.6, 0), (C, 0.5, 1), (NOWHERE, 0.4, 0))
    matches = match_image(found, objects)
    assert matches.objects.tolist() == [0, -1, -1, -1, -1, -1]
    assert matches.ignored.tolist() == [False, True, True, True, False, False]
    over = truth([thing(C), thing((160, 0, 290, 190), crowd=True)]).annotations(0)
    assert match_image(detections((C, 0.6, 0)), over).objects.tolist() == [0]


def test_covered_is_the_common_area_over_that_of_the_box() -> None:
    boxes, regions = np.array([[0, 0, 10, 10.0], [5, 5, 5, 5]]), np.array([[5, 0, 100, 100.0], [20, 20, 30, 30]])
    ious = np.array([[50 / (100 + 9500 - 50), 0], [0, 0]])
    assert covered(ious, boxes, regions) == pytest.approx(np.array([[0.5, 0], [0, 0]]))


@settings(max_examples=25)
@given(seeds, st.booleans())
def test_matches_are_one_to_one_overlapping_and_leave_no_pair_unmatched(seed: int, across: bool) -> None:
    dataset = a_dataset(seed, images=4, difficult=0.1)
    for found, objects, (which, ignored, ious) in match_all(dataset, some_detections(dataset, seed), 0.2, across):
        hit = np.flatnonzero(which >= 0)
        assert len(set(which[hit])) == len(hit)
        assert (ious[hit, which[hit]] >= 0.5).all()
        assert countable(objects)[which[hit]].all()
        assert not ignored[hit].any()
        free = countable(objects) & ~np.isin(np.arange(len(objects.areas)), which)
        same = (found.class_ids[:, None] == objects.class_ids[None]) | across
        assert not (same & (ious >= 0.5))[which < 0][:, free].any()
        assert (found.scores >= 0.2).all()


# Curves


def test_a_curve_by_hand() -> None:
    dataset = truth([thing(A), thing(B)], [thing(A)])
    found = [detections((A, 0.9, 0), (NOWHERE, 0.8, 0), (B, 0.7, 0)), detections((NOWHERE, 0.7, 0))]
    curve, empty = pr_curves(dataset, found)
    assert (curve.class_name, curve.objects) == ("a", 3)
    assert curve.scores == pytest.approx([0.9, 0.8, 0.7])  # equal scores are one point
    assert curve.precision == pytest.approx([1, 1 / 2, 2 / 4])
    assert curve.recall == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert curve.f1 == pytest.approx([1 / 2, 2 / 5, 4 / 7])
    assert curve.best_score == pytest.approx(0.7)
    assert curve.envelope == pytest.approx([1.0] * 34 + [0.5] * 33 + [0.0] * 34)
    assert (empty.objects, empty.best, empty.best_score, len(empty.scores)) == (0, None, None, 0)
    assert empty.envelope.sum() == 0
    assert best_threshold([curve, empty]) == pytest.approx(0.0)  # of equal thresholds the lowest
    assert best_threshold([empty]) == 0.5
    assert best_threshold(pr_curves(dataset, [*found[:1], detections((NOWHERE, 0.4, 0))])) == pytest.approx(0.401)


@settings(max_examples=15)
@given(seeds)
def test_the_envelope_has_the_mean_of_cocos_ap50(seed: int) -> None:
    dataset = a_dataset(seed, images=5)
    found = some_detections(dataset, seed + 1, ties=False)
    report = evaluate_coco(dataset, found)
    for curve, of_class in zip(pr_curves(dataset, found), report.classes, strict=True):
        assert curve.objects == of_class.objects
        assert curve.envelope.mean() == pytest.approx(of_class.ap50 or 0.0, abs=1e-9)


@settings(max_examples=15)
@given(seeds)
def test_curves_do_not_depend_on_order_and_bend_with_the_scores(seed: int) -> None:
    dataset = a_dataset(seed, images=5, difficult=0.1)
    found = some_detections(dataset, seed + 1, ties=False)
    curves = pr_curves(dataset, found)
    for other in (pr_curves(*shuffled(dataset, found, seed)), pr_curves(dataset, rescored(found))):
        for a, b in zip(curves, other, strict=True):
            assert a.precision == pytest.approx(b.precision)
            assert a.recall == pytest.approx(b.recall)
    for a, b in zip(curves, pr_curves(dataset, with_worst(found, seed)), strict=True):
        assert (b.envelope <= a.envelope + 1e-12).all()
    for curve in curves:
        assert (np.diff(curve.recall) >= 0).all()
        assert (np.diff(curve.scores) < 0).all()


# Confusion


def test_a_matrix_by_hand() -> None:
    dataset = truth([thing(A, "a"), thing(B, "b"), thing(C, "b")], [thing(A, "a", difficult=True)])
    found = [
        detections((A, 0.9, 1), (B, 0.8, 1), (NOWHERE, 0.7, 0), (NEAR_A, 0.6, 0), (C, 0.1, 1)),
        detections((A, 0.9, 1)),
    ]
    # a was seen as b, and its second box has no object; one b was seen, one missed.
    assert confusion_matrix(dataset, found, 0.5).tolist() == [[0, 1, 0], [0, 1, 1], [2, 0, 0]]
    assert confusion_matrix(dataset, found, 0.0).tolist() == [[0, 1, 0], [0, 2, 0], [2, 0, 0]]


@settings(max_examples=25)
@given(seeds, st.sampled_from([0.0, 0.3, 0.9]))
def test_rows_sum_up_to_objects_and_columns_to_detections(seed: int, min_score: float) -> None:
    dataset = a_dataset(seed, images=5, difficult=0.1)
    found = some_detections(dataset, seed + 1)
    matrix = confusion_matrix(dataset, found, min_score)
    objects = dataset.all_annotations
    assert matrix[:-1].sum(axis=1).tolist() == np.bincount(objects.class_ids[countable(objects)], minlength=4).tolist()
    counted = np.zeros(4, np.int64)
    for seen, _, matches in match_all(dataset, found, min_score, across_classes=True):
        counted += np.bincount(seen.class_ids[~matches.ignored], minlength=4)
    assert matrix[:, :-1].sum(axis=0).tolist() == counted.tolist()
    assert matrix[-1, -1] == 0
    assert (matrix >= 0).all()


def test_perfect_detections_lie_on_the_diagonal_and_none_in_the_last_column() -> None:
    dataset = a_dataset(7, difficult=0.1)
    objects = dataset.all_annotations
    counts = np.bincount(objects.class_ids[countable(objects)], minlength=4)
    assert confusion_matrix(dataset, perfect(dataset), 0.5).tolist() == np.diag([*counts, 0]).tolist()
    expected = np.zeros((5, 5), np.int64)
    expected[:4, 4] = counts
    assert confusion_matrix(dataset, nothing(12), 0.5).tolist() == expected.tolist()


# Mistakes


def test_each_kind_of_mistake_by_hand() -> None:
    dataset = truth(
        [thing(A), thing(B, "b"), thing(C)],
        [thing(A), thing(B), thing((160, 100, 290, 190), crowd=True), thing((10, 100, 60, 190), difficult=True)],
    )
    found = [
        detections((A, 0.1, 0), (A, 0.95, 0), (NEAR_A, 0.9, 0), (B, 0.8, 0), (NOWHERE, 0.7, 1)),
        detections((POOR_A, 0.6, 0), (B, 0.4, 0)),
    ]
    mistakes = worst_mistakes(dataset, found, 0.5)
    side = 50 / 96
    assert sorted(mistakes) == [
        Mistake(0, "double", pytest.approx(0.9), 1, 0),
        Mistake(0, "false positive", pytest.approx(0.7), 3, None),
        Mistake(0, "missed", pytest.approx(side), None, 2),
        Mistake(0, "wrong class", pytest.approx(0.8), 2, 1),
        Mistake(1, "missed", pytest.approx(side * 0.6), None, 1),  # found below the threshold after all
        Mistake(1, "poor box", pytest.approx(0.6 * 0.75), 0, 0),
    ]
    # One of each kind first, by severity.
    assert [m.kind for m in mistakes] == ["double", "wrong class", "false positive", "missed", "poor box", "missed"]
    assert worst_mistakes(dataset, found, 0.5, limit=2) == mistakes[:2]


def test_perfect_detections_make_no_mistakes() -> None:
    dataset = a_dataset(7, difficult=0.1)
    assert worst_mistakes(dataset, perfect(dataset), 0.5) == []
    assert worst_mistakes(truth([], []), nothing(2), 0.5) == []


@settings(max_examples=15)
@given(seeds)
def test_mistakes_are_those_of_the_matrix(seed: int) -> None:
    dataset = a_dataset(seed, images=5, difficult=0.1)
    found = some_detections(dataset, seed + 1)
    mistakes = worst_mistakes(dataset, found, 0.5, limit=10_000)
    count = {kind: sum(m.kind == kind for m in mistakes) for kind in KINDS}
    matrix = confusion_matrix(dataset, found, 0.5)
    assert count["wrong class"] == matrix[:-1, :-1].sum() - np.trace(matrix[:-1, :-1])
    assert count["missed"] + count["poor box"] == matrix[:-1, -1].sum()
    assert count["false positive"] + count["poor box"] + count["double"] == matrix[-1].sum()
    for m in mistakes:
        assert 0 <= m.severity <= 1
        assert (m.detection is None) == (m.kind == "missed")
        assert (m.object is None) == (m.kind == "false positive")
        assert m.detection is None or found[m.image].scores[m.detection] >= 0.5
    assert len(set(mistakes)) == len(mistakes)


def test_detections_of_the_threshold_itself_count() -> None:
    ((seen, _, _),) = match_all(truth([thing(A)]), [detections((A, 0.5, 0), (B, 0.25, 0))], 0.5)
    assert seen.scores.tolist() == [0.5]
