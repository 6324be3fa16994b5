"""COCO's metrics against pycocotools, and against what can be worked out by hand."""

from __future__ import annotations

import contextlib
import io

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from metrics_data import (
    a_dataset,
    detections,
    joined,
    nothing,
    perfect,
    rescored,
    shuffled,
    some_detections,
    thing,
    truth,
    with_worst,
)  # fmt: skip
from phidet.cli.metrics import summarise
from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.evaluation.coco_metrics import METRICS, CocoReport, evaluate_coco
from phidet.evaluation.measure import measure

seeds = st.integers(0, 2**32 - 1)


def oracle(dataset: Dataset, found: list[Detections]) -> tuple[list[float], list[float], list[float]]:
    """pycocotools' twelve metrics, its AP by class, its AP50 by class."""
    target, results, annotations = COCO(), [], []
    for i in range(len(dataset)):
        a = dataset.annotations(i)
        for box, c, area, crowd in zip(a.boxes_xyxy.astype(float), a.class_ids, a.areas, a.crowd, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": i + 1, "category_id": int(c) + 1, "area": float(area),
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "iscrowd": int(crowd),
                }
            )  # fmt: skip
        for (x1, y1, x2, y2), score, c, _ in found[i]:
            box_xywh = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": i + 1, "category_id": c + 1, "bbox": box_xywh, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        target.dataset = {
            "images": [{"id": i + 1} for i in range(len(dataset))],
            "annotations": annotations,
            "categories": [{"id": c + 1} for c in range(len(dataset.class_names))],
        }
        target.createIndex()
        answer = target.loadRes(results) if results else COCO()  # it refuses an empty list
        evaluator = COCOeval(target, answer, "bbox")
        if not results:
            answer.dataset = {**target.dataset, "annotations": []}
            answer.createIndex()
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]

    def means(p: np.ndarray) -> list[float]:
        by_class = [p[..., c][p[..., c] > -1] for c in range(p.shape[-1])]
        return [float(values.mean()) if values.size else -1.0 for values in by_class]

    return list(evaluator.stats), means(precision), means(precision[0])


def values(report: CocoReport) -> list[float]:
    return [or_minus(getattr(report, name)) for name in METRICS]


def or_minus(value: float | None) -> float:
    return -1.0 if value is None else value


def assert_equal_to_pycocotools(dataset: Dataset, found: list[Detections]) -> CocoReport:
    stats, ap, ap50 = oracle(dataset, found)
    report = evaluate_coco(dataset, found)
    assert values(report) == pytest.approx(stats, abs=1e-12)
    assert [or_minus(c.ap) for c in report.classes] == pytest.approx(ap, abs=1e-12)
    assert [or_minus(c.ap50) for c in report.classes] == pytest.approx(ap50, abs=1e-12)
    return report


@settings(max_examples=60)
@given(seeds, st.integers(2, 6), st.integers(1, 40), st.booleans())
def test_the_metrics_are_pycocotools(seed: int, classes: int, most: int, ties: bool) -> None:
    dataset = a_dataset(seed, images=6, classes=classes, most=10, difficult=0.1)
    report = assert_equal_to_pycocotools(dataset, some_detections(dataset, seed + 1, most, ties))
    assert report.classes[-1].ap is None  # a class without objects counts nowhere
    assert report.objects == sum(c.objects for c in report.classes) == (~dataset.all_annotations.crowd).sum()


def test_more_than_100_detections_of_a_class_and_80_classes() -> None:
    crowded = a_dataset(1, images=3, classes=2, most=60)
    found = some_detections(crowded, 2, most=2)
    extra = some_detections(crowded, 3, most=400)
    both = [joined(f, e) for f, e in zip(found, extra, strict=True)]
    assert max(np.bincount(f.class_ids).max() for f in both) > 100
    assert_equal_to_pycocotools(crowded, both)
    many = a_dataset(4, images=10, classes=80, most=40)
    assert_equal_to_pycocotools(many, some_detections(many, 5, most=60))


def test_the_hundred_and_first_detection_does_not_count() -> None:
    dataset = truth([thing((10, 10, 60, 60))])
    false = [((100.0, 100.0, 150.0, 150.0), 0.9, 0)] * 100
    report = evaluate_coco(dataset, [detections(*false[:99], ((10, 10, 60, 60), 0.5, 0))])
    assert report.ar_100 == 1.0
    assert report.ap == pytest.approx(0.01)
    assert evaluate_coco(dataset, [detections(*false, ((10, 10, 60, 60), 0.5, 0))]).ar_100 == 0.0


def test_no_detections_find_nothing() -> None:
    report = assert_equal_to_pycocotools(a_dataset(0), nothing(12))
    assert (report.ap, report.ap50, report.ar_100) == (0.0, 0.0, 0.0)


def test_no_objects_leave_every_figure_undefined() -> None:
    dataset = truth([], [], [])
    for found in (some_detections(dataset, 2), nothing(3)):
        report = assert_equal_to_pycocotools(dataset, found)
        assert all(getattr(report, name) is None for name in METRICS)
        assert all(c.ap is None and c.objects == 0 for c in report.classes)


def test_crowds_alone_no_images_and_no_classes_have_no_metrics() -> None:
    crowd = truth([thing((0, 0, 100, 100), crowd=True)])
    assert assert_equal_to_pycocotools(crowd, [detections(((10, 10, 50, 50), 0.9, 0))]).ap is None
    assert evaluate_coco(truth(), []).ap is None
    assert evaluate_coco(truth([], classes=()), nothing(1)).classes == ()


def test_perfect_detections_are_perfect_and_a_second_box_is_not_a_second_object() -> None:
    dataset = truth([thing((10, 10, 60, 60)), thing((90, 90, 190, 190))])
    report = evaluate_coco(dataset, perfect(dataset))
    assert (report.ap, report.ar_100, report.ar_1, report.classes[0].objects) == (1.0, 1.0, 0.5, 2)
    # Best first: object, its double, other object. Precision at recall ½ is 1, from there to 1 it is 2/3:
    # 51 of COCO's 101 recalls are at most ½.
    first, second = dataset.all_annotations.boxes_xyxy.tolist()
    double = detections((first, 0.9, 0), (first, 0.8, 0), (second, 0.7, 0))
    assert evaluate_coco(dataset, [double]).ap == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_of_iou_0_6_counts_at_three_of_ten_thresholds() -> None:
    dataset = truth([thing((0, 0, 100, 100))])
    report = evaluate_coco(dataset, [detections(((0, 0, 100, 62), 0.9, 0))])
    assert (report.ap50, report.ap75) == (1.0, 0.0)
    assert report.ap == pytest.approx(0.3)
    assert (report.ap_small, report.ap_medium) == (None, None)
    assert report.ap_large == pytest.approx(0.3)


@settings(max_examples=10)
@given(seeds)
def test_order_and_scale_of_scores_do_not_matter_and_a_false_positive_never_helps(seed: int) -> None:
    dataset = a_dataset(seed, images=5)
    found = some_detections(dataset, seed + 1, ties=False)
    expected = values(evaluate_coco(dataset, found))
    assert values(evaluate_coco(*shuffled(dataset, found, seed))) == pytest.approx(expected, abs=1e-12)
    assert values(evaluate_coco(dataset, rescored(found))) == pytest.approx(expected, abs=1e-12)
    more = values(evaluate_coco(dataset, with_worst(found, seed)))
    assert all(after <= before + 1e-12 for after, before in zip(more, expected, strict=True))
    assert more[6:] == pytest.approx(expected[6:])  # recall does not see it


def test_nothing_is_printed_and_reports_survive_json(capfd: pytest.CaptureFixture[str]) -> None:
    dataset = a_dataset(3)
    report = evaluate_coco(dataset, some_detections(dataset, 4))
    assert capfd.readouterr() == ("", "")
    assert msgspec.json.decode(msgspec.json.encode(report), type=CocoReport) == report


def test_detections_that_do_not_belong_are_refused() -> None:
    dataset = truth([], [])
    with pytest.raises(InputError, match=r"each of the 2 images of 'test', got 1: an image in which nothing is found"):
        evaluate_coco(dataset, nothing(1))
    box = (0.0, 0.0, 9.0, 9.0)
    with pytest.raises(InputError, match=r"image 1 \(1.jpg\) have classes 1…2, expected 0…1"):
        evaluate_coco(dataset, [detections(), detections((box, 0.5, 1), (box, 0.5, 2))])


def test_the_summary_shows_all_metrics_and_the_best_class_first() -> None:
    dataset = truth([thing((10, 10, 60, 60)), thing((90, 90, 190, 190), "b")], classes=("a", "b", "never"))
    text = summarise(measure("m", "d", dataset, [detections(((90, 90, 190, 190), 0.9, 1))]))
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith("1 images, 2 objects\n")
    assert ["AP50", "IoU", "0.50", "0.500"] in lines
    assert next(line for line in text.splitlines() if line.startswith("AP small")).endswith("–")
    assert lines[-6:-2] == [
        ["all", "classes", "2", "1", "0", "1", "1.000", "0.500", "0.667", "0.500", "0.500"],
        ["b", "1", "1", "0", "0", "1.000", "1.000", "1.000", "1.000", "1.000"],
        ["a", "1", "0", "0", "1", "–", "0.000", "0.000", "0.000", "0.000"],
        ["never", "0", "0", "0", "0", "–", "–", "–", "–", "–"],
    ]
    # The one detection of score 0.9 is right: 0.1 less than the share that is.
    assert text.splitlines()[-1].startswith("scores from 0.05 on are 0.100 below the share that is right on average")
