"""Faults that are put into right wholes: one object is changed, its detections with it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import peers  # noqa: F401 - effdet scripts functions, which fails once torch_geometric is imported

pytest.importorskip("torch_geometric")

from phidet.architectures.relations.architecture import RELATIONS
from phidet.core.errors import ConfigError
from phidet.data.dataset import Annotations, Dataset
from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections
from phidet.evaluation.relations import objects_of
from phidet.training.augmentation.faults import Example, with_fault
from phidet.training.recipe import Augmentation
from phidet.training.relations_task import _Examples
from relations_data import NAMES, SIZE_HW, config, objects

BOXES = [[20, 20, 50, 40], [80, 20, 110, 44], [30, 120, 70, 140], [150, 130, 180, 190]]
TRUTH = objects(BOXES, [0, 1, 1, 2], group=[0, 0, 1, 1])


def found(truth: Annotations = TRUTH) -> Detections:
    """Every object, one of them twice and one with another class, too; and a false one."""
    noise = np.random.default_rng(0).uniform(-1, 1, (len(truth.class_ids), 4))
    boxes = np.concatenate((truth.boxes_xyxy + noise, [[22, 21, 53, 42], [82, 20, 110, 44], [250, 20, 270, 40]]))
    scores, class_ids = [0.9, 0.8, 0.7, 0.6, 0.3, 0.2, 0.15], [0, 1, 1, 2, 0, 2, 1]
    return Detections(boxes, scores, class_ids, NAMES, SIZE_HW, {"rows": np.arange(7)})


def fault(seed: int) -> Example:
    made = with_fault(found(), TRUTH, np.random.default_rng(seed))
    assert made is not None
    return made


def kind_of(truth: Annotations) -> str:
    change = len(truth.class_ids) - len(TRUTH.class_ids)
    if change:
        return "extra" if change == 1 else "missing"
    return "class" if (truth.class_ids != TRUTH.class_ids).any() else "moved"


def test_one_object_changes_and_its_detections_follow() -> None:
    kinds = set()
    for seed in range(40):
        seen, truth = fault(seed)
        kind = kind_of(truth)
        kinds.add(kind)
        # Every object that is there is found as before, with its class; the false detection stays.
        assert sorted(objects_of(seen, truth)[objects_of(seen, truth) >= 0]) == list(range(len(truth.class_ids)))
        best = [int(np.flatnonzero(objects_of(seen, truth) == i)[0]) for i in range(len(truth.class_ids))]
        assert seen.class_ids[best].tolist() == truth.class_ids.tolist()
        assert (seen.boxes_xyxy == [250, 20, 270, 40]).all(axis=1).sum() == 1
        kept = [i for i in range(4) if (truth.boxes_xyxy == TRUTH.boxes_xyxy[i]).all(axis=1).any()]
        assert len(kept) == (4 if kind == "extra" else 3)
        if kind == "missing":
            gone = next(i for i in range(4) if i not in kept)
            assert pairwise_iou(seen.boxes_xyxy, TRUTH.boxes_xyxy[[gone]]).max() < 0.3
        if kind == "extra":
            assert truth.fields["group"].tolist() == [0, 0, 1, 1, -1]
            assert pairwise_iou(truth.boxes_xyxy[4:], TRUTH.boxes_xyxy).max() == 0
    assert kinds == {"missing", "moved", "class", "extra"}


def test_faults_depend_on_the_seed_alone_and_leave_what_they_are_made_from() -> None:
    before = found()
    (one, true), (other, also) = fault(3), fault(3)
    assert one == other
    assert (true.boxes_xyxy == also.boxes_xyxy).all()
    assert found() == before
    assert TRUTH.boxes_xyxy.tolist() == np.array(BOXES, np.float32).tolist()
    assert TRUTH.fields["group"].tolist() == [0, 0, 1, 1]


def test_where_nothing_is_found_there_is_no_fault() -> None:
    assert with_fault(Detections.empty(NAMES, SIZE_HW), TRUTH, np.random.default_rng(0)) is None


def test_right_wholes_become_wrong_and_wrong_ones_stay() -> None:
    sources = [Path("a.png"), Path("b.png")]
    sizes = np.array([SIZE_HW] * 2)
    dataset = Dataset("two", NAMES, names=["a", "b"], sources=sources, annotations=[TRUTH] * 2, sizes_hw=sizes)
    dataset.right = {"a": True, "b": False}
    relating = RELATIONS.relating(config())
    share = {}
    for faults in (0.0, 0.3, 1.0):
        examples = _Examples((dataset, [found(), found()]), relating, faults, seed=1)
        right = [examples[epoch, 0][1].right for epoch in range(200)]
        share[faults] = np.mean(right)
        assert examples[5, 1][1].right == 0
        assert examples[5, 1][0].nodes.tolist() == examples[9, 1][0].nodes.tolist()
        assert [examples[epoch, 0][1].right for epoch in range(200)] == right
    assert share[0.0] == 1
    assert share[1.0] == 0
    assert abs(share[0.3] - 0.7) < 0.1
    with pytest.raises(ConfigError, match="faults must be a probability, got 2"):
        Augmentation(faults=2)
