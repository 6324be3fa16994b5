"""Matching: equal to the official code's, to effdet's and to a slow matcher in exact fractions."""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from phidet.architectures.efficientdet import targets
from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.config import ASPECTS_2020, AnchorConfig
from phidet.architectures.efficientdet.targets import Targets, assign_targets
from phidet.core.errors import InputError
from phidet.detections import boxes
from phidet.training.loading import pad_objects

with warnings.catch_warnings():  # effdet compiles itself with what PyTorch calls deprecated
    warnings.simplefilter("ignore")
    import effdet.anchors

LEVELS = range(3, 8)
REFERENCE = Path(__file__).resolve().parents[2] / "shared/reference/official-reference.npz"


def anchors_of(side: int, scale: float = 4.0) -> Tensor:
    return torch.tensor(generate_anchors((side, side), LEVELS, AnchorConfig(scale=scale, aspects_wh=ASPECTS_2020)))


def random_objects(batch: int, most: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(batch, most, 2, generator=generator) * side
    half = torch.exp(torch.rand(batch, most, 2, generator=generator) * 3.5) * side / 160
    corners = torch.cat([(centre - half).clamp(0, side - 2), (centre + half).clamp(2, side)], -1)
    ids = torch.randint(0, 90, (batch, most), generator=generator)
    present = torch.arange(most) < torch.randint(0, most + 1, (batch, 1), generator=generator)
    return corners, torch.where(present, ids, -1)


def exact_owner(anchors: list[list[int]], objects: list[list[int]], ids: list[int]) -> list[int]:
    """The rules, one anchor and one object at a time, in fractions; −1 for background."""

    def iou(a: list[int], b: list[int]) -> Fraction:
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        if width <= 0 or height <= 0:
            return Fraction(0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
        return Fraction(width * height, union)

    owner = [-1] * len(anchors)
    for i, anchor in enumerate(anchors):
        best = Fraction(0)
        for n, box in enumerate(objects):
            overlap = iou(anchor, box)
            if ids[n] >= 0 and overlap > best:
                best = overlap
                owner[i] = n if overlap >= Fraction(1, 2) else -1
    for n in reversed(range(len(objects))):  # backwards, so that the lowest number comes last and stays
        overlaps = [iou(anchor, objects[n]) for anchor in anchors]
        if ids[n] >= 0 and max(overlaps) > 0:
            owner[overlaps.index(max(overlaps))] = n
    return owner


@pytest.mark.skipif(not REFERENCE.exists(), reason="no ../shared")
def test_official_values() -> None:
    reference = np.load(REFERENCE)
    class_ids = np.concatenate([reference[f"class_targets_{level}"].reshape(-1) for level in LEVELS])
    deltas = np.concatenate([reference[f"box_targets_{level}"].reshape(-1, 4) for level in LEVELS])
    anchors = torch.tensor(generate_anchors((256, 256), LEVELS, AnchorConfig()))
    objects = torch.tensor(boxes.xyxy_to_yxyx(reference["gt_boxes_yxyx"]))
    ours = assign_targets(anchors, objects[None], torch.tensor(reference["gt_classes_1based"]).long()[None] - 1)
    np.testing.assert_array_equal(ours.class_ids[0], class_ids)
    np.testing.assert_allclose(ours.box_deltas[0], deltas, rtol=0, atol=2e-6)
    assert ours.num_positives.tolist() == [reference["num_positives"]]
    positive = class_ids >= 0
    decoded = boxes.decode(deltas, anchors.numpy())[positive]
    np.testing.assert_allclose(decoded, objects[ours.matched[0, positive]], rtol=0, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_effdet_values(seed: int) -> None:
    side, batch = 256, 4
    objects, ids = random_objects(batch, 40, side, seed)
    their_anchors = effdet.anchors.Anchors(3, 7, 3, list(ASPECTS_2020), 4.0, (side, side))
    labeler = effdet.anchors.AnchorLabeler(their_anchors, 90)
    their_ids = torch.where(ids >= 0, ids + 1, -1).float()
    class_ids, deltas, positives = labeler.batch_label_anchors(list(boxes.xyxy_to_yxyx(objects)), list(their_ids))
    ours = assign_targets(anchors_of(side), objects, ids)
    assert torch.equal(ours.class_ids, torch.cat([part.reshape(batch, -1) for part in class_ids], 1))
    torch.testing.assert_close(
        ours.box_deltas, torch.cat([part.reshape(batch, -1, 4) for part in deltas], 1), rtol=0, atol=2e-6
    )
    assert torch.equal(ours.num_positives.float(), positives)
    assert (positives > 0).any()


@pytest.mark.parametrize("seed", range(40))
def test_the_rules_in_exact_fractions(seed: int) -> None:
    """Small whole numbers, so that equal overlaps abound; float32 decides them as fractions do."""
    draw = np.random.default_rng(seed)

    def some(count: int) -> np.ndarray:
        corner = draw.integers(0, 10, (count, 2))
        return np.concatenate([corner, corner + draw.integers(1, 7, (count, 2))], 1)

    anchors = some(60)
    most = int(draw.choice([1, 4, 12, 150]))
    objects = np.stack([some(most) for _ in range(3)])
    objects[draw.random((3, most)) < 0.1, 2:] += 500  # far larger than any anchor
    ids = draw.integers(-1, 5, (3, most))
    ids[1] = -1 if seed % 4 == 0 else ids[1]
    ours = assign_targets(torch.tensor(anchors), torch.tensor(objects), torch.tensor(ids))
    for image in range(3):
        expected = exact_owner(anchors.tolist(), objects[image].tolist(), ids[image].tolist())
        assert ours.matched[image].tolist() == expected
        assert ours.class_ids[image].tolist() == [-1 if n < 0 else ids[image, n] for n in expected]
        assert ours.num_positives[image] == sum(n >= 0 for n in expected)


def assert_consistent(found: Targets, anchors: Tensor, objects: Tensor, ids: Tensor) -> None:
    """What holds of any result, checked against the full matrix of overlaps."""
    for image in range(len(ids)):
        overlap = boxes.pairwise_iou(objects[image], anchors)
        overlap[ids[image] < 0] = 0
        positive = found.class_ids[image] >= 0
        assert positive[(overlap >= 0.5).any(0)].all()
        weak = positive & (overlap.amax(0) < 0.5)
        assert weak.sum() <= (ids[image] >= 0).sum()
        owners = found.matched[image]
        for n in (ids[image] >= 0).nonzero()[:, 0].tolist():
            best = int(overlap[n].argmax())
            if overlap[n, best] > 0 and owners[best] != n:  # outbid by a lower number
                assert owners[best] < n
                assert overlap[owners[best]].argmax() == best
        decoded = boxes.decode(found.box_deltas[image], anchors)[positive]
        torch.testing.assert_close(decoded, objects[image][owners[positive]], rtol=1e-4, atol=1e-2)
        assert not found.box_deltas[image][~positive].any()


def test_every_overlapping_object_has_an_anchor_unless_outbid() -> None:
    anchors = anchors_of(256)
    objects, ids = random_objects(4, 150, 256, seed=7)
    found = assign_targets(anchors, objects, ids)
    assert_consistent(found, anchors, objects, ids)
    assert (found.num_positives > 100).any()


ROW = torch.tensor([[0.0, 0, 4, 4], [10, 0, 14, 4], [20, 0, 24, 4], [30, 0, 34, 4]])  # four anchors, apart


def owners(*objects: list[float], anchors: Tensor = ROW) -> list[int]:
    given = torch.tensor(objects).reshape(1, -1, 4)
    return assign_targets(anchors, given, torch.zeros(given.shape[:2], dtype=torch.int64)).matched[0].tolist()


def test_the_threshold_itself_is_positive() -> None:
    wide = torch.tensor([[0.0, 0, 4, 4], [0, 0, 8, 4]])
    assert owners([0, 0, 4, 4], anchors=wide) == [0, 0]  # IoU 1 and exactly ½
    assert owners([0, 0, 3.99, 4], anchors=wide) == [0, -1]


def test_an_object_claims_its_best_anchor_however_small_the_overlap() -> None:
    assert owners([13, 3, 18, 9]) == [-1, 0, -1, -1]


def test_the_first_of_equally_good_anchors_is_claimed() -> None:
    assert owners([13, 0, 21, 4]) == [-1, 0, -1, -1]
    twins = torch.tensor([[0.0, 0, 4, 4], [10, 0, 14, 4], [10, 0, 14, 4]])
    assert owners([10, 3, 14, 9], anchors=twins) == [-1, 0, -1]


def test_the_lowest_numbered_of_several_claims_wins_even_with_less_overlap() -> None:
    assert owners([13, 3, 18, 9], [10, 0, 14, 4]) == [-1, 0, -1, -1]
    assert owners([10, 0, 14, 4], [13, 3, 18, 9]) == [-1, 0, -1, -1]


def test_a_claim_beats_a_larger_overlap() -> None:
    near = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5]])
    # Object 1 fits both; object 0 touches the second alone.
    assert owners([0, 4.5, 4, 9], [0, 0, 4, 4], anchors=near) == [1, 0]


def test_the_lowest_numbered_of_equal_overlaps_wins() -> None:
    doubled = torch.cat([ROW[:1]] * 2)
    # Both objects claim the first of the equal anchors; the second goes by overlap, which is equal.
    assert owners([0, 0, 4, 4], [0, 0, 4, 4], anchors=doubled) == [0, 0]


def test_an_object_that_overlaps_nothing_claims_nothing() -> None:
    assert owners([100, 100, 120, 120]) == [-1] * 4
    assert owners([4, 0, 10, 4]) == [-1] * 4  # only touches
    assert owners([100, 100, 120, 120], [0, 0, 4, 4]) == [1, -1, -1, -1]


@pytest.mark.parametrize("bad", [[2, 2, 2, 4], [2, 2, 4, 2], [3, 3, 1, 1], [4, 0, 0, 4], [0, 0, float("nan"), 4]])
def test_an_object_without_area_claims_nothing(bad: list[float]) -> None:
    assert owners(bad) == [-1] * 4
    assert owners(bad, [20, 0, 24, 4]) == [-1, -1, 1, -1]


def test_padding_is_nothing_wherever_it_stands() -> None:
    anchors = anchors_of(128)
    objects, ids = random_objects(3, 6, 128, seed=1)
    alone = assign_targets(anchors, objects, ids)
    spread = torch.zeros(3, 12, 4)
    spread[:, 1::2] = objects
    spread[:, ::2] = torch.tensor([0.0, 0, 64, 64])  # a real box, but its class says padding
    spread_ids = torch.full((3, 12), -1)
    spread_ids[:, 1::2] = ids
    padded = assign_targets(anchors, spread, spread_ids)
    assert torch.equal(padded.class_ids, alone.class_ids)
    assert torch.equal(padded.box_deltas, alone.box_deltas)
    assert torch.equal(padded.matched, torch.where(alone.matched >= 0, 2 * alone.matched + 1, -1))


@pytest.mark.parametrize("most", [0, 3])
def test_images_without_objects_are_background(most: int) -> None:
    anchors = anchors_of(128)
    found = assign_targets(anchors, torch.zeros(2, most, 4), torch.full((2, most), -1))
    assert found.class_ids.shape == (2, len(anchors))
    assert found.class_ids.eq(-1).all()
    assert found.matched.eq(-1).all()
    assert not found.box_deltas.any()
    assert found.num_positives.tolist() == [0, 0]


def test_images_of_a_batch_do_not_see_each_other() -> None:
    anchors = anchors_of(128)
    objects, ids = random_objects(5, 8, 128, seed=3)
    order = torch.tensor([3, 0, 4, 2, 1])
    together, permuted = assign_targets(anchors, objects, ids), assign_targets(anchors, objects[order], ids[order])
    for whole, part in zip(together[:4], permuted[:4], strict=True):
        assert torch.equal(whole[order], part)
    for i in range(5):
        for whole, part in zip(
            together[:4], assign_targets(anchors, objects[i : i + 1], ids[i : i + 1])[:4], strict=True
        ):
            assert torch.equal(whole[i : i + 1], part)


@pytest.mark.parametrize("chunk", [1, 40_000, 1 << 30])
def test_the_chunk_size_does_not_show(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    anchors = anchors_of(128)
    objects, ids = random_objects(3, 30, 128, seed=5)
    expected = assign_targets(anchors, objects, ids)
    monkeypatch.setattr(targets, "_CPU_CHUNK", chunk)
    for before, after in zip(expected[:4], assign_targets(anchors, objects, ids)[:4], strict=True):
        assert torch.equal(before, after)


def test_a_higher_threshold_has_fewer_positives_and_keeps_the_claims() -> None:
    anchors = anchors_of(128)
    objects, ids = random_objects(1, 10, 128, seed=2)
    counts = [int(assign_targets(anchors, objects, ids, min_iou).num_positives) for min_iou in (0.3, 0.5, 0.7, 1.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] > 0


def test_targets_carry_no_gradient() -> None:
    objects, ids = random_objects(1, 10, 128, seed=2)
    assert not assign_targets(anchors_of(128), objects.requires_grad_(), ids).box_deltas.requires_grad


def test_padding_lists() -> None:
    one, two = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[1, 1, 2, 2], [3, 3, 4, 4]], dtype=torch.float64)
    padded, ids = pad_objects([one, one[:0], two], [torch.tensor([7]), torch.tensor([]).long(), torch.tensor([0, 5])])
    assert padded.tolist() == [[[0, 0, 1, 1], [0] * 4], [[0] * 4] * 2, [[1, 1, 2, 2], [3, 3, 4, 4]]]
    assert padded.dtype == torch.float32
    assert ids.tolist() == [[7, -1], [-1, -1], [0, 5]]
    empty, no_ids = pad_objects([one[:0]] * 2, [torch.zeros(0)] * 2)
    assert empty.shape == (2, 0, 4)
    assert assign_targets(ROW, empty, no_ids).num_positives.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (([torch.zeros(1, 4)], []), "boxes of 1 images and the class ids of 0"),
        (([torch.zeros(1, 4), torch.zeros(2, 4)], [torch.zeros(1), torch.zeros(1)]), r"image 1: .*\(2, 4\) and \(1,\)"),
        (([torch.zeros(0)], [torch.zeros(0)]), r"image 0: .*without objects has \(0, 4\)"),
        (([torch.zeros(2, 4)], [torch.tensor([3, -1])]), "image 0: class id -1"),
    ],
)
def test_lists_that_do_not_fit_are_refused(lists: tuple[list[Tensor], list[Tensor]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pad_objects(*lists)


@pytest.mark.parametrize(("box_shape", "id_shape"), [((2, 3, 5), (2, 3)), ((3, 4), (3,)), ((2, 3, 4), (2, 4))])
def test_shapes_that_do_not_belong_together_are_refused(box_shape: tuple[int, ...], id_shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected boxes \(B, N, 4\)"):
        assign_targets(ROW, torch.zeros(box_shape), torch.zeros(id_shape, dtype=torch.int64))
