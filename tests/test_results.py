"""Detections: checked and ordered when made, the same numbers in every form that leaves."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phidet.core.errors import ConfigError, InputError, MissingExtraError, UnknownNameError
from phidet.detections.detections import Detection, Detections

NAMES = ("person", "bicycle", "Straße")
BOXES = [(10.0, 20.0, 30.5, 60.0), (0.0, 0.0, 5.0, 5.0), (1.1, 2.2, 3.3, 4.4)]


def three() -> Detections:
    return Detections(np.array(BOXES), np.array([0.5, 0.9, 0.5]), np.array([0, 2, 1]), NAMES, (100, 200))


seeds = st.integers(0, 2**32 - 1)


def random_ones(seed: int, count: int | None = None) -> Detections:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 30)) if count is None else count
    corners = rng.uniform(0, 500, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 300, (count, 2))], axis=1)
    return Detections(boxes, np.round(rng.random(count), 2), rng.integers(0, 3, count), NAMES, (800, 800))


def test_best_first_and_of_equal_scores_the_order_given() -> None:
    found = three()
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.5])
    assert found.class_ids.tolist() == [2, 0, 1]
    assert found.labels == ["Straße", "person", "bicycle"]
    assert (found.boxes_xyxy.dtype, found.scores.dtype, found.class_ids.dtype) == (np.float32, np.float32, np.int64)


def test_it_cannot_be_changed_from_inside_or_outside() -> None:
    boxes = np.array(BOXES, np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 1, 2]))
    boxes[:] = 0
    assert found.boxes_xyxy.tolist() == np.array(BOXES, np.float32).tolist()
    with pytest.raises(ValueError, match="read-only"):
        found.scores[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.scores = boxes[:, 0]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("boxes", "scores", "class_ids", "message"),
    [
        (BOXES, [0.5, 0.5], [0, 0, 0], r"expected boxes \(N, 4\), scores \(N,\), classes \(N,\), got \(3, 4\), \(2,\)"),
        (BOXES, 0.5, 0, r"got \(3, 4\), \(\), \(\)"),
        (np.zeros((1, 5)), [0.5], [0], r"got \(1, 5\)"),
        ([(0, 0, float("nan"), 1)], [0.5], [0], "hold NaN or infinity: the network is broken"),
        (BOXES[:1], [float("inf")], [0], "hold NaN or infinity"),
        (BOXES[:1], [37.0], [0], "expected scores 0…1, got 37…37"),
        ([(5, 5, 4, 9)], [0.5], [0], r"expected x1 ≤ x2 and y1 ≤ y2, got box \[5.0, 5.0, 4.0, 9.0\]"),
        (BOXES[:1], [0.5], [3], "expected classes 0…2, got 3…3"),
        (BOXES[:1], [0.5], [-1], "expected classes 0…2, got -1…-1"),
        (BOXES[:1], [0.5], [0.0], "expected classes as whole numbers, got float64"),
    ],
)
def test_what_cannot_be_is_refused(boxes: object, scores: object, class_ids: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Detections(np.array(boxes), np.array(scores), np.array(class_ids), NAMES)


def test_one_object_several_and_all() -> None:
    found = three()
    assert found[0] == Detection((0.0, 0.0, 5.0, 5.0), pytest.approx(0.9), 2, "Straße")
    assert found[-1].label == found[2].label == "bicycle"
    assert [d.label for d in found] == found.labels
    assert found[1:].labels == ["person", "bicycle"]
    assert found[[2, 0]].labels == ["Straße", "bicycle"]  # best first again
    assert found[found.boxes_xyxy[:, 0] > 5].labels == ["person"]
    assert found[:0] == Detections.empty(NAMES, (100, 200))
    with pytest.raises(IndexError):
        found[3]


def test_nothing_found_works_everywhere() -> None:
    nothing = Detections.empty()
    assert not nothing
    assert list(nothing) == nothing.labels == nothing.to_coco(1) == []
    assert nothing.counts() == {}
    assert nothing.filter(0.5, [7]) == nothing
    assert json.loads(nothing.to_json()) == {"image_size_hw": None, "detections": []}
    assert repr(nothing) == "<Detections: nothing>"


def test_filter_by_score_itself_and_by_name_or_number() -> None:
    found = three()
    assert found.filter(score=0.5).labels == found.labels
    assert found.filter(score=0.51).labels == ["Straße"]
    assert found.filter(classes=["bicycle", 2]).labels == ["Straße", "bicycle"]
    assert found.filter(classes=[]).labels == []
    with pytest.raises(UnknownNameError, match=r"unknown class 'persn'\. Did you mean person"):
        found.filter(classes=["persn"])
    with pytest.raises(ConfigError, match=r"expected a list of classes, got 'person': \['person'\]"):
        found.filter(classes="person")
    with pytest.raises(ConfigError, match="there is no class 3: expected 0…2"):
        found.filter(classes=[3])


@given(seeds, st.floats(0, 1), st.floats(0, 1))
def test_filtering_twice_is_filtering_by_the_higher_score(seed: int, a: float, b: float) -> None:
    found = random_ones(seed)
    assert found.filter(a).filter(b) == found.filter(max(a, b))


@given(seeds)
def test_pickled_it_is_the_same_and_still_closed(seed: int) -> None:
    found = random_ones(seed)
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert not again.boxes_xyxy.flags.writeable


def test_counts_name_the_most_frequent_first() -> None:
    boxes = np.tile(np.array(BOXES[:1]), (4, 1))
    found = Detections(boxes, np.full(4, 0.5), np.array([2, 1, 2, 0]), NAMES)
    assert list(found.counts().items()) == [("Straße", 2), ("person", 1), ("bicycle", 1)]
    assert repr(found) == "<Detections: 2 Straße, 1 person, 1 bicycle>"
    assert Detections(boxes, np.full(4, 0.5), np.array([7, 7, 7, 7])).counts() == {"7": 4}


def test_json_holds_plain_numbers_of_few_digits() -> None:
    assert json.loads(three().to_json()) == {
        "image_size_hw": [100, 200],
        "detections": [
            {"box_xyxy": [0.0, 0.0, 5.0, 5.0], "score": 0.9, "class_id": 2, "label": "Straße"},
            {"box_xyxy": [10.0, 20.0, 30.5, 60.0], "score": 0.5, "class_id": 0, "label": "person"},
            {"box_xyxy": [1.1, 2.2, 3.3, 4.4], "score": 0.5, "class_id": 1, "label": "bicycle"},
        ],
    }


@given(seeds)
def test_json_reads_back_to_the_same_bits(seed: int) -> None:
    found = random_ones(seed)
    read = json.loads(found.to_json())["detections"]
    boxes = np.array([d["box_xyxy"] for d in read]).reshape(-1, 4)
    classes = np.array([d["class_id"] for d in read], np.int64)
    assert Detections(boxes, np.array([d["score"] for d in read]), classes, NAMES, (800, 800)) == found


def test_coco_has_width_and_height_and_categories_from_one() -> None:
    assert three().to_coco(42)[1] == {"image_id": 42, "category_id": 1, "bbox": [10.0, 20.0, 20.5, 40.0], "score": 0.5}
    assert [r["category_id"] for r in three().to_coco(42)] == [3, 1, 2]
    assert [r["category_id"] for r in three().to_coco(42, category_ids=[1, 2, 90])] == [90, 1, 2]
    json.dumps(three().to_coco(42))


@given(seeds)
def test_coco_boxes_are_the_same_to_a_ten_thousandth(seed: int) -> None:
    found = random_ones(seed)
    for result, d in zip(found.to_coco(1), found, strict=True):
        x, y, w, h = result["bbox"]
        assert (x, y, x + w, y + h) == pytest.approx(d.box_xyxy, abs=1e-4)
        assert result["score"] == pytest.approx(d.score, abs=1e-7)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the peer's own imports
def test_supervision_gets_the_same() -> None:
    supervision = pytest.importorskip("supervision")
    found = three()
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    assert theirs.xyxy.tolist() == found.boxes_xyxy.tolist()
    assert theirs.confidence.tolist() == found.scores.tolist()
    assert theirs.class_id.tolist() == found.class_ids.tolist()
    assert theirs["class_name"].tolist() == found.labels
    assert len(Detections.empty(NAMES).to_supervision()) == 0


def test_without_supervision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'phidet\[supervision\]'"):
        three().to_supervision()
