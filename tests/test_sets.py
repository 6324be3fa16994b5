"""Set prediction: matching and losses, beside the values of the official DETR and by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from phidet.architectures.base import Processes
from phidet.architectures.batch import Batch
from phidet.architectures.sets.losses import box_losses, matched_classes, softmax_class_loss
from phidet.architectures.sets.matching import (
    CostWeights,
    Matched,
    focal_class_cost,
    match,
    matching_cost,
    softmax_class_cost,
)
from phidet.architectures.sets.targets import SetTargets, num_objects, set_targets
from phidet.detections.boxes import elementwise_iou
from phidet.training.loading import pad_objects

ALONE = Processes(1, lambda value: value)
CASES = ("mixed", "empty", "crowd")


@pytest.fixture(scope="module")
def criterion(shared: Path) -> dict[str, Any]:
    return dict(np.load(shared / "reference" / "detr" / "criterion.npz"))


def case(values: dict[str, Any], name: str) -> tuple[Tensor, Tensor, SetTargets]:
    """Logits (L, B, Q, C + 1), boxes (L, B, Q, 4), in double precision, and targets."""
    logits, boxes = (torch.from_numpy(values[f"{name}_{part}"]).double() for part in ("logits", "boxes"))
    images = range(logits.shape[1])
    wanted = [torch.from_numpy(values[f"{name}_tgt_boxes{i}"]).reshape(-1, 4) for i in images]
    ids = [torch.from_numpy(values[f"{name}_tgt_labels{i}"]) for i in images]
    padded, padded_ids = pad_objects(wanted, ids)
    return logits, boxes, SetTargets(padded_ids, padded)


def costs_of(logits: Tensor, boxes: Tensor, targets: SetTargets) -> Tensor:
    return matching_cost(softmax_class_cost(logits, targets.class_ids), boxes, targets, CostWeights())


def test_giou_is_the_official_one(shared: Path) -> None:
    values = np.load(shared / "reference" / "detr" / "giou.npz")
    a, b = (torch.from_numpy(values[name]) for name in ("a_xyxy", "b_xyxy"))
    for kind in ("iou", "giou"):
        np.testing.assert_allclose(elementwise_iou(a[:, None], b[None], kind).numpy(), values[kind], atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_matching_is_the_official_one(criterion: dict[str, Any], name: str) -> None:
    logits, boxes, targets = case(criterion, name)
    costs = costs_of(logits, boxes, targets)
    # The file's matrix has the objects of all images side by side, whichever image the queries are of.
    counts = targets.counts.tolist()
    for i, count in enumerate(counts):
        own = criterion[f"{name}_cost_matrix"][i][:, sum(counts[:i]) : sum(counts[: i + 1])]
        np.testing.assert_allclose(costs[-1, i, :, :count].numpy(), own, atol=2e-6)
    for layer, matched in enumerate(match(costs, targets)):
        for i in range(len(counts)):
            mine = matched.images == i
            pairs = torch.stack([matched.queries[mine], matched.objects[mine]]).numpy()
            np.testing.assert_array_equal(pairs, criterion[f"{name}_match_l{layer}_b{i}"])


@pytest.mark.parametrize("name", CASES)
def test_losses_are_the_official_ones(criterion: dict[str, Any], name: str) -> None:
    logits, boxes, targets = case(criterion, name)
    wanted = dict(zip(criterion[f"{name}_loss_names"], criterion[f"{name}_loss_values"], strict=True))
    normaliser = num_objects(targets, ALONE)
    for layer, matched in enumerate(match(costs_of(logits, boxes, targets), targets)):
        suffix = "" if layer == len(logits) - 1 else f"_{layer}"
        found = box_losses(boxes[layer], targets, matched, normaliser)
        classes = matched_classes(tuple(logits.shape[1:3]), targets, matched, logits.shape[-1] - 1)
        entropy = softmax_class_loss(logits[layer], classes, 0.1, ALONE)
        assert float(found.l1) == pytest.approx(wanted[f"loss_bbox{suffix}"], rel=1e-6, abs=1e-6)
        assert float(found.giou) == pytest.approx(wanted[f"loss_giou{suffix}"], rel=1e-6, abs=1e-6)
        assert float(entropy) == pytest.approx(wanted[f"loss_ce{suffix}"], rel=1e-6, abs=1e-6)


def test_the_assignment_costs_no_more_than_any_other() -> None:
    costs = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 5, 3)))
    targets = SetTargets(torch.tensor([[0, 1, 2], [4, 4, -1], [-1, -1, -1]]), torch.zeros(3, 3, 4))
    for layer, matched in enumerate(match(costs, targets)):
        for image, count in enumerate((3, 2, 0)):
            mine = matched.images == image
            total = costs[layer, image][matched.queries[mine], matched.objects[mine]].sum()
            others = itertools.permutations(range(5), count)
            least = min(sum(float(costs[layer, image, q, o]) for o, q in enumerate(choice)) for choice in others)
            assert int(mine.sum()) == count
            assert float(total) == pytest.approx(least)


def test_a_prediction_that_is_nan_gives_a_loss_that_is_nan() -> None:
    boxes = torch.full((1, 4, 4), float("nan"), requires_grad=True)
    targets = SetTargets(torch.tensor([[0, 1]]), torch.full((1, 2, 4), 0.5))
    costs = matching_cost(torch.zeros(1, 4, 2), boxes, targets, CostWeights())
    (matched,) = match(costs[None], targets)
    assert bool(box_losses(boxes, targets, matched, torch.tensor(1.0)).l1.isnan())


def test_focal_cost_by_hand() -> None:
    logits = torch.tensor([[[0.0, 2.0]]], dtype=torch.float64)
    cost = focal_class_cost(logits, torch.tensor([[1, 0, -1]]))
    p = 1 / (1 + np.exp(-2))
    expected = [
        0.25 * (1 - p) ** 2 * -np.log(p) - 0.75 * p**2 * -np.log(1 - p),
        (0.25 - 0.75) * 0.25 * np.log(2),
        (0.25 - 0.75) * 0.25 * np.log(2),
    ]
    np.testing.assert_allclose(cost[0, 0].numpy(), expected, rtol=1e-12)


def test_boxes_are_relative_to_the_image_without_padding() -> None:
    boxes = torch.tensor([[[10.0, 20.0, 30.0, 60.0]], [[0.0, 0.0, 50.0, 100.0]]])
    batch = Batch(
        torch.zeros(2, 3, 128, 128, dtype=torch.uint8), torch.tensor([[80, 40], [100, 50]]), boxes, torch.zeros(2, 1)
    )
    found = set_targets(batch).boxes_cxcywh[:, 0]
    np.testing.assert_allclose(found.numpy(), [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 1, 1]], rtol=1e-6)


@pytest.mark.parametrize("counts", [(3, 1), (0, 1), (0, 0)])
def test_the_gradients_of_two_processes_average_to_that_of_one(counts: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    boxes = 0.2 + 0.3 * torch.rand(2, 6, 4, generator=generator, dtype=torch.float64)
    wanted = [0.2 + 0.3 * torch.rand(count, 4, generator=generator) for count in counts]
    padded, ids = pad_objects(wanted, [torch.arange(count) for count in counts])
    targets = SetTargets(ids, padded)

    def gradients(images: slice, processes: Processes) -> list[Tensor]:
        """Of the losses of some of the images."""
        own = SetTargets(targets.class_ids[images], targets.boxes_cxcywh[images])
        z, b = (values[images].clone().requires_grad_() for values in (logits, boxes))
        costs = costs_of(z, b, own)
        matched: Matched = match(costs[None], own)[0]
        classes = matched_classes((len(z), 6), own, matched, 3)
        pairs = box_losses(b, own, matched, num_objects(own, processes))
        loss = softmax_class_loss(z, classes, 0.1, processes) + pairs.l1 + pairs.giou
        return list(torch.autograd.grad(loss, (z, b)))

    def totals() -> list[Tensor]:
        """What the two processes together count: weights of the class loss, and objects."""
        kept: list[Tensor] = []

        def keep(value: Tensor) -> Tensor:
            kept.append(value)
            return value

        for i in range(2):
            gradients(slice(i, i + 1), Processes(1, keep))
        return [kept[0] + kept[2], kept[1] + kept[3]]

    whole = gradients(slice(0, 2), ALONE)

    def share(image: int) -> list[Tensor]:
        together = iter(totals())
        return gradients(slice(image, image + 1), Processes(2, lambda _: next(together)))

    for one, first, second in zip(whole, share(0), share(1), strict=True):
        torch.testing.assert_close(torch.cat([first, second]) / 2, one, rtol=1e-7, atol=1e-12)
