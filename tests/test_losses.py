"""Losses: equal to the official values, to effdet's and torchvision's where they mean the same, and to hand sums."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phidet.architectures.efficientdet import losses
from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.config import AnchorConfig
from phidet.architectures.efficientdet.loss_config import LossConfig
from phidet.architectures.efficientdet.losses import DetectionLoss, box_iou_loss, detection_loss, focal_loss, huber_loss
from phidet.architectures.efficientdet.network import RawOutputs
from phidet.architectures.efficientdet.targets import Targets
from phidet.core.errors import ConfigError, InputError
from phidet.detections.boxes import IOU_KINDS, IouKind, decode

with warnings.catch_warnings():  # effdet compiles itself with what PyTorch calls deprecated
    warnings.simplefilter("ignore")
    import effdet.loss

LEVELS = range(3, 8)
TORCHVISION = {
    "giou": torchvision.ops.generalized_box_iou_loss,
    "diou": torchvision.ops.distance_box_iou_loss,
    "ciou": torchvision.ops.complete_box_iou_loss,
}


def targets_of(class_ids: Tensor, box_deltas: Tensor) -> Targets:
    positive = class_ids >= 0
    return Targets(class_ids, box_deltas * positive[..., None], torch.where(positive, 0, -1), positive.sum(1))


def random_case(
    batch: int = 2, anchors: int = 50, classes: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[RawOutputs, Targets, Tensor]:
    """Outputs that carry gradients, targets with about a fifth positive, and anchors of 10 to 60 pixels."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, anchors, classes, generator=g, dtype=torch.float64) * 3
    deltas, wanted = torch.randn(2, batch, anchors, 4, generator=g, dtype=torch.float64) * 0.2
    ids = torch.randint(0, classes, (batch, anchors), generator=g)
    ids[torch.rand(batch, anchors, generator=g) > 0.2] = -1
    corner, side = torch.rand(2, anchors, 2, generator=g, dtype=torch.float64) * 50
    outputs = RawOutputs(logits.to(dtype).requires_grad_(), deltas.to(dtype).requires_grad_())
    boxes = torch.cat([corner, corner + 10 + side], 1)
    return outputs, targets_of(ids, wanted.to(dtype)), boxes.to(dtype)


def gradients(loss: Tensor, outputs: RawOutputs) -> tuple[Tensor, Tensor]:
    logits, deltas = torch.autograd.grad(loss, tuple(outputs), materialize_grads=True)
    return logits, deltas


def definition(logits: Tensor, class_ids: Tensor, alpha: float, gamma: float, smoothing: float) -> Tensor:
    """The focal loss as the papers write it: one-hot targets, probabilities, powers."""
    wanted = F.one_hot(class_ids + 1, logits.shape[-1] + 1)[..., 1:].to(logits.dtype)
    p = logits.sigmoid()
    p_t = wanted * p + (1 - wanted) * (1 - p)
    alpha_t = wanted * alpha + (1 - wanted) * (1 - alpha)
    smooth = wanted * (1 - smoothing) + smoothing / 2
    cross_entropy = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    return (alpha_t * (1 - p_t) ** gamma * cross_entropy).sum()


# --- oracles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("smoothing", "key"), [(0.0, "class_loss"), (0.1, "class_loss_smoothing_0.1")])
def test_official_values(shared: Path, smoothing: float, key: str) -> None:
    reference = np.load(shared / "reference/official-reference.npz")

    def flat(name: str, *last: int) -> Tensor:
        return torch.tensor(np.concatenate([reference[f"{name}_{level}"].reshape(1, -1, *last) for level in LEVELS], 1))

    outputs = RawOutputs(flat("class_logits", 3), flat("box_deltas", 4))
    targets = targets_of(flat("class_targets").long(), flat("box_targets", 4))
    anchors = torch.tensor(generate_anchors((256, 256), LEVELS, AnchorConfig()))
    config = LossConfig(label_smoothing=smoothing)
    positives = float(reference["num_positives"])
    assert targets.num_positives.tolist() == [positives]
    found = detection_loss(outputs, targets, anchors, config)
    assert found.class_loss.item() == pytest.approx(float(reference[key]), rel=1e-5)
    # The reference box loss is divided by 4 × positives; the official training step, like ours, adds 1 here too.
    box_loss = float(reference["box_loss_unweighted"])
    plain = detection_loss(outputs, targets, anchors, config, normalizer=torch.tensor(positives))
    assert plain.box_loss.item() == pytest.approx(box_loss, rel=1e-5)
    assert found.box_loss.item() == pytest.approx(box_loss * positives / (positives + 1), rel=1e-5)


@pytest.mark.parametrize(("smoothing", "legacy"), [(0.0, False), (0.1, False), (0.0, True)])
def test_effdet_values_and_gradients(smoothing: float, legacy: bool) -> None:
    batch, classes, per_cell, sides = 3, 5, 9, (8, 4)
    outputs, targets, anchors = random_case(batch, per_cell * sum(s * s for s in sides), classes, seed=3)

    def levels(flat: Tensor) -> list[Tensor]:
        parts = flat.split([per_cell * s * s for s in sides], 1)
        return [part.reshape(batch, s, s, -1) for part, s in zip(parts, sides, strict=True)]

    total, class_loss, box_loss = effdet.loss.loss_fn(
        [level.permute(0, 3, 1, 2) for level in levels(outputs.class_logits)],
        [level.permute(0, 3, 1, 2) for level in levels(outputs.box_deltas)],
        levels(targets.class_ids),
        levels(targets.box_deltas),
        targets.num_positives.float(),
        num_classes=classes,
        alpha=0.3,
        gamma=1.7,
        delta=0.2,
        box_loss_weight=30.0,
        label_smoothing=smoothing,
        legacy_focal=legacy,
    )
    config = LossConfig(alpha=0.3, gamma=1.7, delta=0.2, box_weight=30.0, label_smoothing=smoothing)
    found = detection_loss(outputs, targets, anchors, config)
    torch.testing.assert_close(found.class_loss, class_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.box_loss, box_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.total, total, rtol=1e-5, atol=0)
    for ours, theirs in zip(gradients(found.total, outputs), gradients(total, outputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.25, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_torchvision_focal_values(alpha: float, gamma: float) -> None:
    outputs, targets, _ = random_case(dtype=torch.float64)
    wanted = F.one_hot(targets.class_ids + 1, 5)[..., 1:].double()
    theirs = torchvision.ops.sigmoid_focal_loss(outputs.class_logits, wanted, alpha, gamma, reduction="sum")
    ours = focal_loss(outputs.class_logits, targets.class_ids, LossConfig(alpha=alpha, gamma=gamma))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradients(ours, outputs)[0], gradients(theirs, outputs)[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", TORCHVISION)
def test_torchvision_iou_losses(kind: IouKind) -> None:
    outputs, targets, anchors = random_case(dtype=torch.float64)
    ours = box_iou_loss(outputs.box_deltas, targets, anchors, kind)
    positive = targets.class_ids >= 0
    answer, wanted = (decode(deltas, anchors)[positive] for deltas in (outputs.box_deltas, targets.box_deltas))
    theirs = TORCHVISION[kind](answer, wanted, reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients(ours, outputs)[1], gradients(theirs, outputs)[1], rtol=1e-5, atol=1e-6)


@settings(max_examples=60)
@given(
    logits=st.lists(st.floats(-12, 12), min_size=6, max_size=6),
    ids=st.lists(st.integers(-1, 2), min_size=2, max_size=2),
    alpha=st.floats(0, 1),
    gamma=st.floats(0, 5),
    smoothing=st.floats(0, 0.9),
)
def test_the_definition(logits: list[float], ids: list[int], alpha: float, gamma: float, smoothing: float) -> None:
    z = torch.tensor(logits, dtype=torch.float64).reshape(2, 3).requires_grad_()
    config = LossConfig(alpha=alpha, gamma=gamma, label_smoothing=smoothing)
    ours = focal_loss(z, torch.tensor(ids), config)
    theirs = definition(z, torch.tensor(ids), alpha, gamma, smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)
    (mine,), (other,) = torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)
    torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)


# --- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_by_hand(smoothing: float) -> None:
    """Two classes, the second is true; p = 0.8 and 0.4."""
    logits = torch.tensor([[math.log(0.8 / 0.2), math.log(0.4 / 0.6)]], dtype=torch.float64)
    yes, no = 1 - smoothing / 2, smoothing / 2
    wrong = 0.75 * 0.8**2 * -(no * math.log(0.8) + yes * math.log(0.2))  # should be 0: 1 − p_t = p
    right = 0.25 * 0.6**2 * -(yes * math.log(0.4) + no * math.log(0.6))  # should be 1: 1 − p_t = 1 − p
    config = LossConfig(alpha=0.25, gamma=2.0, label_smoothing=smoothing)
    assert focal_loss(logits, torch.tensor([1]), config).item() == pytest.approx(wrong + right, rel=1e-9)
    background = 0.75 * 0.4**2 * -(no * math.log(0.4) + yes * math.log(0.6))
    assert focal_loss(logits, torch.tensor([-1]), config).item() == pytest.approx(wrong + background, rel=1e-9)


def test_huber_loss_on_both_sides_of_delta() -> None:
    """Errors 0.05, −0.1, 0.3 and −2 at a positive anchor, δ 0.1; a background anchor next to it."""
    wanted = torch.tensor([[[1.0, 2.0, 0.0, -1.0], [0.0] * 4]])
    answer = wanted + torch.tensor([0.05, -0.1, 0.3, -2.0])
    answer.requires_grad_()
    loss = huber_loss(answer, targets_of(torch.tensor([[3, -1]]), wanted), 0.1)
    expected = 0.05**2 / 2 + 0.1**2 / 2 + 0.1 * (0.3 - 0.05) + 0.1 * (2.0 - 0.05)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    (slope,) = torch.autograd.grad(loss, answer)
    torch.testing.assert_close(slope[0, 0], torch.tensor([0.05, -0.1, 0.1, -0.1]), rtol=1e-5, atol=1e-7)
    assert not slope[0, 1].any()


def test_a_wanted_zero_counts_unlike_in_the_official_code() -> None:
    """An object in perfect line with its anchor: effdet and the official code would let any answer pass."""
    targets = targets_of(torch.tensor([[0]]), torch.zeros(1, 1, 4))
    assert huber_loss(torch.full((1, 1, 4), 0.05), targets, 0.1).item() == pytest.approx(4 * 0.05**2 / 2, rel=1e-5)


@pytest.mark.parametrize(("kind", "expected"), [("iou", 2 / 3), ("giou", 2 / 3), ("diou", 2 / 3 + 25 / 325)])
def test_iou_loss_by_hand(kind: IouKind, expected: float) -> None:
    """A square of side 10 answered half its side to the right: a third in common, hull 15 × 10, nothing empty."""
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    answer = torch.tensor([[[0.0, 0.5, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]])
    targets = targets_of(torch.tensor([[0, -1]]), torch.zeros(1, 2, 4))
    assert box_iou_loss(answer, targets, anchors, kind).item() == pytest.approx(expected, rel=1e-5)


# --- what is summed and divided --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, *IOU_KINDS])
def test_sums_are_divided_by_positives_plus_one_and_weighted(kind: IouKind | None) -> None:
    outputs, targets, anchors = random_case()
    config = LossConfig(iou_kind=kind, iou_weight=2.5, box_weight=7.0)
    found = detection_loss(outputs, targets, anchors, config)
    count = int((targets.class_ids >= 0).sum()) + 1
    assert count > 10
    sums = focal_loss(outputs.class_logits, targets.class_ids, config), huber_loss(outputs.box_deltas, targets, 0.1)
    torch.testing.assert_close(found.class_loss, sums[0] / count)
    torch.testing.assert_close(found.box_loss, sums[1] / (4 * count))
    if kind is not None:
        torch.testing.assert_close(
            found.iou_loss, box_iou_loss(outputs.box_deltas, targets, anchors, kind) / (4 * count)
        )
    assert (found.iou_loss > 0) == (kind is not None)
    torch.testing.assert_close(found.total, found.class_loss + 7 * found.box_loss + 2.5 * found.iou_loss)
    halved = detection_loss(outputs, targets, anchors, config, normalizer=torch.tensor(2.0 * count))
    for whole, half in zip(found, halved, strict=True):
        torch.testing.assert_close(half, whole / 2)


@pytest.mark.parametrize("kind", [None, *IOU_KINDS])
def test_without_positives_only_the_classes_learn(kind: IouKind | None) -> None:
    outputs, targets, anchors = random_case()
    nothing = targets_of(torch.full_like(targets.class_ids, -1), targets.box_deltas)
    found = detection_loss(outputs, nothing, anchors, LossConfig(iou_kind=kind))
    assert found.box_loss == found.iou_loss == 0
    assert found.total == found.class_loss > 0
    class_gradient, box_gradient = gradients(found.total, outputs)
    assert (class_gradient > 0).all()  # every logit should fall
    assert not box_gradient.any()


@pytest.mark.parametrize("kind", [None, *IOU_KINDS])
@pytest.mark.parametrize("broken", [1e30, math.inf, math.nan])
def test_boxes_of_background_neither_count_nor_learn(kind: IouKind | None, broken: float) -> None:
    outputs, targets, anchors = random_case()
    config = LossConfig(iou_kind=kind)
    background = targets.class_ids < 0
    elsewhere = outputs.box_deltas.detach().masked_fill(background[..., None], broken).requires_grad_()
    found = detection_loss(outputs, targets, anchors, config)
    other = detection_loss(RawOutputs(outputs.class_logits, elsewhere), targets, anchors, config)
    assert torch.equal(found.total, other.total)
    (slope,), (other_slope,) = (
        torch.autograd.grad(found.total, outputs.box_deltas), torch.autograd.grad(other.total, elsewhere)
    )  # fmt: skip
    assert torch.equal(slope, other_slope)
    assert not slope[background].any()
    assert slope[~background].any(-1).all()


@pytest.mark.parametrize("seed", range(3))
def test_order_does_not_matter_and_parts_add_up(seed: int) -> None:
    outputs, targets, anchors = random_case(4, 30, 3, seed, torch.float64)
    config = LossConfig(iou_kind="ciou", label_smoothing=0.1)
    one = torch.ones(())

    def loss_of(images: Tensor, places: Tensor) -> DetectionLoss:
        def take(value: Tensor) -> Tensor:
            return value[images][:, places]

        chosen = targets_of(take(targets.class_ids), take(targets.box_deltas))
        return detection_loss(RawOutputs(*map(take, outputs)), chosen, anchors[places], config, one)

    images, places = torch.arange(4), torch.arange(30)
    whole = loss_of(images, places)
    mixed = loss_of(images[[2, 0, 3, 1]], torch.randperm(30, generator=torch.Generator().manual_seed(seed)))
    by_image = [loss_of(images[i : i + 1], places) for i in range(4)]
    by_place = [loss_of(images, places[:11]), loss_of(images, places[11:])]
    for i, value in enumerate(whole):
        torch.testing.assert_close(mixed[i], value)
        torch.testing.assert_close(sum(part[i] for part in by_image), value)
        torch.testing.assert_close(sum(part[i] for part in by_place), value)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 13, 1 << 30])
def test_the_chunk_size_does_not_show(chunk: int, smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, targets, _ = random_case()
    config = LossConfig(label_smoothing=smoothing)
    before = focal_loss(outputs.class_logits, targets.class_ids, config)
    monkeypatch.setattr(losses, "_CPU_CHUNK", chunk)
    after = focal_loss(outputs.class_logits, targets.class_ids, config)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradients(after, outputs)[0], gradients(before, outputs)[0], rtol=1e-6, atol=1e-7
    )  # a piece's end may fall outside the vectorised loops


def test_a_view_in_another_memory_order_gives_the_same() -> None:
    outputs, targets, anchors = random_case()
    turned = RawOutputs(*(part.detach().mT.contiguous().mT.requires_grad_() for part in outputs))
    found, other = (detection_loss(each, targets, anchors, LossConfig()).total for each in (outputs, turned))
    torch.testing.assert_close(found, other)
    for ours, theirs in zip(gradients(found, outputs), gradients(other, turned), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_inputs_are_left_as_they_were() -> None:
    outputs, targets, anchors = random_case()
    inputs = [value for value in (*outputs, *targets, anchors) if value is not None]  # labels have no soft classes
    before = [value.detach().clone() for value in inputs]
    detection_loss(outputs, targets, anchors, LossConfig(iou_kind="giou", label_smoothing=0.1)).total.backward()
    for value, kept in zip(inputs, before, strict=True):
        assert torch.equal(value, kept)


# --- gradients and precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", [None, "iou", "giou", "diou"])  # ciou holds its α constant, unlike differences
def test_gradients_are_slopes(kind: IouKind | None, smoothing: float) -> None:
    outputs, targets, anchors = random_case(2, 6, 3, seed=4, dtype=torch.float64)
    config = LossConfig(iou_kind=kind, label_smoothing=smoothing)
    assert (targets.class_ids >= 0).any()

    def total(logits: Tensor, deltas: Tensor) -> Tensor:
        return detection_loss(RawOutputs(logits, deltas), targets, anchors, config).total

    assert torch.autograd.gradcheck(total, tuple(outputs))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 5.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_answers_have_finite_losses_and_gradients(gamma: float, smoothing: float, dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 20, 50, 90, 100, 1000, 60000])
    logits = torch.cat([values, -values]).to(dtype).reshape(-1, 1, 1).repeat(1, 2, 2).requires_grad_()
    ids = torch.tensor([[0, -1]] * 14)
    deltas = (torch.cat([values, -values])[:, None, None] * torch.ones(2, 4)).to(dtype).requires_grad_()
    targets = targets_of(ids, torch.full((14, 2, 4), 0.1))
    anchors = torch.tensor([[0.0, 0, 30, 40], [10, 20, 90, 90]])
    for kind in IOU_KINDS:
        config = LossConfig(gamma=gamma, label_smoothing=smoothing, iou_kind=kind)
        found = detection_loss(RawOutputs(logits, deltas), targets, anchors, config)
        assert all(value.isfinite() for value in found)
        assert all(slope.isfinite().all() for slope in torch.autograd.grad(found.total, (logits, deltas)))


def test_a_confident_mistake_costs_its_logit_and_a_confident_truth_nothing() -> None:
    logits = torch.tensor([[100.0], [-100.0], [100.0], [-100.0]], requires_grad=True)
    config = LossConfig(alpha=0.25, gamma=1.5)
    (slope,) = torch.autograd.grad(focal_loss(logits, torch.tensor([-1, 0, 0, -1]), config), logits)
    torch.testing.assert_close(slope[:, 0], torch.tensor([0.75, -0.25, 0.0, 0.0]))
    each = [
        focal_loss(z[None], n[None], config).item() for z, n in zip(logits, torch.tensor([-1, 0, 0, -1]), strict=True)
    ]
    assert each == pytest.approx([75, 25, 0, 0], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [None, *IOU_KINDS])
def test_half_precision_loses_only_what_its_inputs_lost(dtype: torch.dtype, kind: IouKind | None) -> None:
    config = LossConfig(iou_kind=kind, label_smoothing=0.1)
    exact, targets, anchors = random_case()
    half = RawOutputs(*(value.detach().to(dtype).requires_grad_() for value in exact))
    rounded = RawOutputs(*(value.detach().float().requires_grad_() for value in half))
    found, same, near = (detection_loss(each, targets, anchors, config) for each in (half, rounded, exact))
    for value, equal, close in zip(found, same, near, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, equal)
        torch.testing.assert_close(value, close, rtol=0.02, atol=1e-4)
    for slope, wide in zip(gradients(found.total, half), gradients(same.total, rounded), strict=True):
        assert slope.dtype == dtype
        torch.testing.assert_close(slope.float(), wide, rtol=0.02, atol=1e-5)


def test_a_loss_scale_saves_small_gradients_in_float16() -> None:
    """At −8 the gradient is about 0.75 · 2.5 · e^(−8 · 2.5) = 4e−9, below float16's least, 6e−8; scaled, it is not."""
    logits = torch.full((1, 1), -8.0, dtype=torch.float16, requires_grad=True)
    loss = focal_loss(logits, torch.tensor([-1]), LossConfig())
    (lost,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (kept,) = torch.autograd.grad(loss * 2.0**20, logits)
    wide = logits.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(focal_loss(wide, torch.tensor([-1]), LossConfig()), wide)
    assert lost == 0
    torch.testing.assert_close(kept.double() / 2**20, expected, rtol=2e-3, atol=0)


def test_float64_stays_float64() -> None:
    outputs, targets, anchors = random_case(dtype=torch.float64)
    found = detection_loss(outputs, targets, anchors, LossConfig(iou_kind="ciou"))
    assert all(value.dtype == torch.float64 for value in found)


def test_autocast_changes_nothing() -> None:
    outputs, targets, anchors = random_case()
    config = LossConfig(iou_kind="ciou")
    plain = detection_loss(outputs, targets, anchors, config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = detection_loss(outputs, targets, anchors, config)
    for value, other in zip(plain, cast, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-6, atol=0)


def test_a_compiler_takes_the_whole_loss() -> None:
    outputs, targets, _ = random_case()
    config = LossConfig(label_smoothing=0.1)
    compiled = torch.compile(
        lambda logits: focal_loss(logits, targets.class_ids, config), backend="aot_eager", fullgraph=True
    )
    found, expected = compiled(outputs.class_logits), focal_loss(outputs.class_logits, targets.class_ids, config)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, outputs)[0], gradients(expected, outputs)[0])


def test_the_focal_loss_has_no_second_derivative() -> None:
    outputs, targets, _ = random_case()
    loss = focal_loss(outputs.class_logits, targets.class_ids, LossConfig())
    (slope,) = torch.autograd.grad(loss, outputs.class_logits, create_graph=True)
    assert not slope.requires_grad


def test_no_gradient_is_kept_where_none_is_wanted() -> None:
    outputs, targets, anchors = random_case()
    with torch.no_grad():
        assert not detection_loss(outputs, targets, anchors, LossConfig(iou_kind="giou")).total.requires_grad
    frozen = RawOutputs(outputs.class_logits.detach(), outputs.box_deltas)
    class_gradient, box_gradient = torch.autograd.grad(
        detection_loss(frozen, targets, anchors, LossConfig()).total, outputs, materialize_grads=True
    )
    assert not class_gradient.any()
    assert box_gradient.any()


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_class_id_beyond_the_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"class id 3 .* 3 classes: ids run from 0 to 2"):
        focal_loss(torch.zeros(2, 3), torch.tensor([0, 3]), LossConfig())


@pytest.mark.parametrize("which", ["logits", "deltas", "targets", "anchors"])
def test_other_sizes_than_the_network_saw_are_refused(which: str) -> None:
    outputs, targets, anchors = random_case()
    logits, deltas = outputs
    if which == "logits":
        logits = logits[:, :-1]
    elif which == "deltas":
        deltas = deltas[:1]
    elif which == "targets":
        targets = targets_of(targets.class_ids[:, 1:], targets.box_deltas[:, 1:])
    else:
        anchors = anchors[1:]
    with pytest.raises(InputError, match="make anchors and targets for the size of the images"):
        detection_loss(RawOutputs(logits, deltas), targets, anchors, LossConfig())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("alpha", value) for value in (-0.1, 1.1, math.nan)),
        *(("gamma", value) for value in (-1, math.inf, math.nan)),
        *(("label_smoothing", value) for value in (-0.1, 1)),
        *(("delta", value) for value in (0, -1, math.inf)),
        *((name, value) for name in ("box_weight", "iou_weight") for value in (-1, math.inf, math.nan)),
    ],
)
def test_a_config_without_meaning_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"loss {name} must be"):
        LossConfig(**{name: value})


def test_the_defaults_are_the_papers() -> None:
    config = LossConfig()
    assert (config.alpha, config.gamma, config.delta, config.box_weight) == (0.25, 1.5, 0.1, 50)
    assert config.label_smoothing == 0
    assert config.iou_kind is None
