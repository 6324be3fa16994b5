"""Suppression: the official implementation's values, torchvision, ensemble-boxes, and laws."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from ensemble_boxes.ensemble_boxes_nms import cpu_soft_nms_float
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.ops import batched_nms

from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.config import AnchorConfig
from phidet.architectures.efficientdet.decode import find_candidates
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.detections.boxes import clip, decode, xyxy_to_yxyx
from phidet.detections.nms import suppress
from phidet.detections.settings import PostprocessSettings

Boxes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


def some_boxes(count: int, seed: int, classes: int = 3, side: float = 100) -> Boxes:
    """Boxes that overlap a good deal, scores, classes."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, side, (count, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(5, 40, (count, 2))), 1).astype(np.float32)
    return boxes, rng.uniform(0.01, 1, count).astype(np.float32), rng.integers(0, classes, count)


@pytest.mark.parametrize("candidates", ["best_class", "per_class"])
@pytest.mark.parametrize("nms", ["hard", "gaussian"])
def test_the_official_implementation_is_met(shared: Path, nms: Literal["hard", "gaussian"], candidates: str) -> None:
    reference = np.load(shared / "reference" / "official-reference.npz")
    levels = range(3, 8)
    logits = np.concatenate([reference[f"class_logits_{level}"].reshape(-1, 3) for level in levels])
    deltas = np.concatenate([reference[f"box_deltas_{level}"].reshape(-1, 4) for level in levels])
    anchors = generate_anchors((256, 256), levels, AnchorConfig())
    per_class = candidates == "per_class"
    wanted = PostprocessSettings(score=0.01, nms=nms, per_class=per_class, multi_class=per_class)
    found = find_candidates(logits.max(1), logits, wanted)
    boxes = decode(deltas[found.anchors], anchors[found.anchors])
    kept, scores = suppress(boxes, found.scores, found.class_ids, wanted)

    # The official code clips after it has suppressed, and per class not at all.
    kept_boxes = boxes[kept] if per_class else clip(boxes[kept], (256, 256))
    key = f"nms_{nms}_{candidates}"
    valid = int(reference[f"{key}_valid"])
    assert len(kept) == valid
    np.testing.assert_allclose(scores, reference[f"{key}_scores"][:valid], rtol=2e-6)
    np.testing.assert_array_equal(found.class_ids[kept] + 1, reference[f"{key}_classes_1based"][:valid])
    np.testing.assert_allclose(xyxy_to_yxyx(kept_boxes), reference[f"{key}_boxes_yxyx"][:valid], atol=2e-4)


@given(st.integers(0, 200), st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.5, 0.75, 1.0]), st.booleans())
def test_hard_suppression_is_that_of_torchvision(count: int, seed: int, iou: float, per_class: bool) -> None:
    boxes, scores, class_ids = some_boxes(count, seed)
    groups = class_ids if per_class else np.zeros_like(class_ids)
    wanted = batched_nms(*(torch.from_numpy(array) for array in (boxes, scores, groups)), iou)
    kept, kept_scores = suppress(
        boxes, scores, class_ids, PostprocessSettings(score=0, iou=iou, per_class=per_class, max_detections=1000)
    )
    np.testing.assert_array_equal(kept, wanted.numpy())
    np.testing.assert_array_equal(kept_scores, scores[kept])


@pytest.mark.parametrize("crowd", [1, 63, 64, 65, 300, 700])
@pytest.mark.parametrize("most", [3, 40, 1000])
def test_hard_suppression_of_a_crowd_and_then_of_many_apart(crowd: int, most: int) -> None:
    """Blocks grow in the crowd, of which little is left, and must not overflow with those that all stay."""
    near, far = some_boxes(crowd, 1, side=2), some_boxes(500, 2, side=3000)
    boxes, class_ids = np.concatenate([near[0], far[0]]), np.concatenate([near[2], far[2]])
    scores = np.concatenate([near[1] + 1, far[1]])  # the crowd first
    wanted = batched_nms(*(torch.from_numpy(array) for array in (boxes, scores, class_ids)), 0.5)
    kept, _ = suppress(boxes, scores, class_ids, PostprocessSettings(score=0, iou=0.5, max_detections=most))
    np.testing.assert_array_equal(kept, wanted.numpy()[:most])


@pytest.mark.parametrize("kind", ["linear", "gaussian"])
@pytest.mark.parametrize("per_class", [True, False])
def test_soft_suppression_is_that_of_ensemble_boxes(kind: Literal["linear", "gaussian"], per_class: bool) -> None:
    boxes, scores, class_ids = some_boxes(150, 5)
    wanted: dict[int, float] = {}
    for group in range(3) if per_class else [None]:
        members = np.arange(150) if group is None else np.flatnonzero(class_ids == group)
        lowered = scores[members].astype(np.float64)  # their function lowers them in place, reordered as it selects
        their_kept = cpu_soft_nms_float(
            boxes[members].astype(np.float64), lowered, 0.5, 0.5, 0.05, {"linear": 1, "gaussian": 2}[kind]
        )
        wanted |= dict(zip(members[their_kept].tolist(), lowered[lowered > 0.05].tolist(), strict=True))
    chosen = PostprocessSettings(score=0.05, iou=0.5, nms=kind, per_class=per_class, max_detections=1000)
    kept, kept_scores = suppress(boxes, scores, class_ids, chosen)
    assert kept.tolist() == sorted(wanted, key=lambda i: -wanted[i])
    np.testing.assert_allclose(kept_scores, [wanted[i] for i in kept.tolist()], rtol=1e-5)


def test_what_soft_suppression_does_to_two_boxes() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)  # they share half
    scores, class_ids = np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64)
    for kind, factor in (("gaussian", np.exp(-0.25 / 0.5)), ("linear", 0.5), ("none", 1.0)):
        chosen = PostprocessSettings(nms=kind, iou=0.4)  # type: ignore[arg-type]
        np.testing.assert_allclose(suppress(boxes, scores, class_ids, chosen)[1], [0.9, 0.8 * factor], rtol=1e-6)
    # It is a threshold for what suppression lowers, too: 0.8 · 0.5 is not 0.41.
    assert len(suppress(boxes, scores, class_ids, PostprocessSettings(nms="linear", iou=0.4, score=0.41))[0]) == 1


@pytest.mark.parametrize("kind", ["hard", "gaussian", "linear", "none"])
def test_no_boxes_no_trouble_and_the_best_come_first(kind: Literal["hard", "gaussian", "linear", "none"]) -> None:
    chosen = PostprocessSettings(score=0, nms=kind, max_detections=7)
    kept, scores = suppress(*some_boxes(0, 0), chosen)
    assert len(kept) == len(scores) == 0
    boxes, all_scores, class_ids = some_boxes(300, 1)
    kept, scores = suppress(boxes, all_scores, class_ids, chosen)
    assert len(set(kept.tolist())) == 7
    assert kept[0] == all_scores.argmax()
    assert (np.diff(scores) <= 0).all()


def test_of_equal_scores_the_earlier_box_stays() -> None:
    boxes = np.repeat(np.array([[0, 0, 10, 10]], np.float32), 3, 0)
    kept, _ = suppress(boxes, np.full(3, 0.5, np.float32), np.zeros(3, np.int64), PostprocessSettings())
    assert kept.tolist() == [0]


def test_boxes_without_area_suppress_nothing() -> None:
    boxes = np.zeros((2, 4), np.float32)
    kept, _ = suppress(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64), PostprocessSettings())
    assert kept.tolist() == [0, 1]


def test_five_thousand_candidates_take_no_square_of_memory() -> None:
    boxes, scores, class_ids = some_boxes(5000, 0, side=3000)
    tracemalloc.start()
    kept, _ = suppress(boxes, scores, class_ids, PostprocessSettings(score=0, max_detections=1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept) == 1000
    assert peak < 50e6  # a square of float32 is 100 MB


@pytest.mark.parametrize("multi_class", [False, True])
def test_candidates_are_the_best_pairs_of_all(multi_class: bool) -> None:
    logits = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    chosen = PostprocessSettings(score=0.4, candidates=60, multi_class=multi_class)
    found = find_candidates(logits.max(1), logits, chosen)
    pool = logits if multi_class else np.where(logits == logits.max(1, keepdims=True), logits, -np.inf)
    best = np.sort(pool.ravel())[-60:]
    np.testing.assert_array_equal(np.sort(logits[found.anchors, found.class_ids]), best)
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(-logits[found.anchors, found.class_ids])), rtol=1e-6)


@given(st.floats(0, 1))
def test_a_score_that_just_reaches_the_threshold_counts(score: float) -> None:
    logits = np.linspace(-20, 20, 101, dtype=np.float32)[:, None]
    found = find_candidates(logits[:, 0], logits, PostprocessSettings(score=score))
    scores = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    assert set(np.flatnonzero(scores >= score + 1e-6)) <= set(found.anchors)  # within the rounding of fp32
    assert set(found.anchors) <= set(np.flatnonzero(scores >= score - 1e-6))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": 1.5}, "score must be in 0…1, got 1.5"),
        ({"iou": -0.1}, "iou must be in 0…1, got -0.1"),
        ({"sigma": 0.0}, "sigma must be > 0, got 0.0"),
        ({"candidates": 0}, "candidates must be a whole number ≥ 1, got 0"),
        ({"max_detections": 2.5}, "max_detections must be a whole number ≥ 1, got 2.5"),
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PostprocessSettings(**wrong)  # type: ignore[arg-type]


def test_an_unknown_kind_of_suppression() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown nms 'gausian'. Did you mean gaussian"):
        PostprocessSettings(nms="gausian")  # type: ignore[arg-type]
