"""Box arithmetic: what undoes what, hand-computed values, and agreement with torchvision."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st

from phidet.core.errors import ConfigError
from phidet.detections import boxes

KINDS = boxes.IOU_KINDS
LOSSES = {
    "giou": torchvision.ops.generalized_box_iou_loss,
    "diou": torchvision.ops.distance_box_iou_loss,
    "ciou": torchvision.ops.complete_box_iou_loss,
}


def random_boxes(*shape: int, seed: int = 0, extent: float = 100.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * extent
    return torch.cat([corner, corner + 1 + torch.rand(*shape, 2, generator=generator) * extent / 2], -1)


def box_strategy() -> st.SearchStrategy[list[float]]:
    place = st.floats(-500, 500, width=32)
    side = st.floats(0.5, 500, width=32)
    return st.tuples(place, place, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


def test_encode_and_decode_a_case_computed_by_hand() -> None:
    anchor = np.array([10.0, 20.0, 30.0, 60.0], np.float32)  # centre (20, 40), 20 wide, 40 high
    box = np.array([15.0, 30.0, 35.0, 110.0], np.float32)  # centre (25, 70), 20 wide, 80 high
    deltas = np.array([30 / 40, 5 / 20, np.log(2), 0.0], np.float32)
    np.testing.assert_allclose(boxes.encode(box, anchor), deltas, rtol=1e-6)
    np.testing.assert_allclose(boxes.decode(deltas, anchor), box, rtol=1e-6)


@given(box_strategy(), box_strategy())
def test_decode_undoes_encode(box: list[float], anchor: list[float]) -> None:
    a, b = np.array(anchor), np.array(box)  # float64
    np.testing.assert_allclose(boxes.decode(boxes.encode(b, a), a), b, rtol=1e-9, atol=1e-9)
    single = boxes.decode(boxes.encode(b.astype(np.float32), a.astype(np.float32)), a.astype(np.float32))
    np.testing.assert_allclose(single, b, rtol=1e-4, atol=2e-3)


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), box_strategy())
def test_encode_undoes_decode(deltas: list[float], anchor: list[float]) -> None:
    d, a = np.array(deltas), np.array(anchor)
    np.testing.assert_allclose(boxes.encode(boxes.decode(d, a), a), d, rtol=1e-7, atol=1e-7)


def test_deltas_do_not_change_when_box_and_anchor_move_and_grow_together() -> None:
    box, anchor = random_boxes(50).double(), random_boxes(50, seed=1).double()
    expected = boxes.encode(box, anchor)
    torch.testing.assert_close(boxes.encode(3 * box + 7, 3 * anchor + 7), expected)


def test_decode_broadcasts_anchors_over_the_batch() -> None:
    deltas, anchors = torch.randn(3, 7, 4), random_boxes(7)
    together = boxes.decode(deltas, anchors)
    for one, image in zip(deltas, together, strict=True):
        torch.testing.assert_close(boxes.decode(one, anchors), image, rtol=0, atol=0)


def test_decode_of_absurd_deltas_is_finite_and_sizes_stop_at_e_to_the_10() -> None:
    anchor = torch.tensor([0.0, 0.0, 32.0, 64.0])
    for sign in (1, -1):
        assert boxes.decode(torch.full((4,), sign * 1e4), anchor).isfinite().all()
    wide = boxes.xyxy_to_cxcywh(boxes.decode(torch.tensor([0.0, 0.0, 1e4, 11.0]), anchor))
    torch.testing.assert_close(wide, torch.tensor([16.0, 32.0, 32 * np.exp(10), 64 * np.exp(10)]).float())


def test_encode_of_a_box_without_area_is_finite() -> None:
    assert np.isfinite(boxes.encode(np.array([3.0, 3, 3, 3]), np.array([5.0, 5, 5, 5]))).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_coarse_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    box, anchor = random_boxes(20).to(dtype), random_boxes(20, seed=1).to(dtype)
    for function in (boxes.encode, boxes.pairwise_iou):
        result = function(box, anchor)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, function(box.float(), anchor.float()), rtol=0, atol=0)


def test_float64_keeps_its_digits() -> None:
    box, anchor = random_boxes(20).double(), random_boxes(20, seed=1).double()
    back = boxes.decode(boxes.encode(box, anchor), anchor)
    assert (back - box).abs().max() < 1e-12


@pytest.mark.parametrize(
    "function",
    [
        boxes.encode,
        boxes.decode,
        boxes.pairwise_iou,
        lambda a, _: boxes.clip(a, (60, 70)),
        lambda a, _: boxes.area(a),
        lambda a, _: boxes.xyxy_to_cxcywh(a),
        *(lambda a, b, kind=kind: boxes.elementwise_iou(a, b, kind) for kind in KINDS),
    ],
)
def test_numpy_and_torch_agree(function) -> None:  # type: ignore[no-untyped-def]
    a, b = random_boxes(30), random_boxes(30, seed=1)
    a[0] = b[0]
    a[1, 2:] = a[1, :2]
    if function is boxes.decode:
        a = torch.randn(30, 4)
    from_numpy = function(a.numpy(), b.numpy())
    assert isinstance(from_numpy, np.ndarray)
    assert from_numpy.dtype == np.float32
    np.testing.assert_allclose(from_numpy, function(a, b).numpy(), rtol=2e-5, atol=2e-5)


def test_numpy_and_torch_do_not_mix() -> None:
    with pytest.raises(TypeError):
        boxes.encode(np.ones((1, 4), np.float32), torch.ones(1, 4))


def test_decode_compiles_whole_and_exports() -> None:
    class Decoder(torch.nn.Module):
        def forward(self, deltas: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
            return boxes.clip(boxes.decode(deltas, anchors), (90, 80))

    deltas, anchors = torch.randn(2, 9, 4), random_boxes(9)
    expected = Decoder()(deltas, anchors)
    compiled = torch.compile(Decoder(), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(deltas, anchors), expected)
    for strict in (True, False):
        exported = torch.export.export(Decoder(), (deltas, anchors), strict=strict).module()
        torch.testing.assert_close(exported(deltas, anchors), expected)


def test_boxes_and_anchors_do_not_import_torch() -> None:
    code = (
        "import sys, phidet.detections.boxes as b; from phidet.architectures.efficientdet.anchors import *;"
        "a = generate_anchors((64, 64), (3, 4), AnchorConfig()); b.pairwise_iou(b.decode(a, a), a);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_clip_cuts_at_the_borders_and_leaves_inner_boxes_alone() -> None:
    given_boxes = np.array([[-5, -6, 50, 70], [1, 2, 3, 4], [200, 200, 300, 300]], np.float32)
    np.testing.assert_array_equal(boxes.clip(given_boxes, (60, 40)), [[0, 0, 40, 60], [1, 2, 3, 4], [40, 60, 40, 60]])


def test_area_of_boxes_with_and_without() -> None:
    given_boxes = np.array([[1, 2, 4, 6], [1, 2, 1, 6], [4, 2, 1, 6], [4, 6, 1, 2]], np.float32)
    np.testing.assert_array_equal(boxes.area(given_boxes), [12, 0, 0, 0])


def test_pairwise_iou_computed_by_hand() -> None:
    a = np.array([[0, 0, 2, 2], [5, 5, 5, 9]], np.float32)
    b = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2], [5, 5, 5, 9]], np.float32)
    np.testing.assert_allclose(boxes.pairwise_iou(a, b), [[1, 1 / 3, 0, 0], [0, 0, 0, 0]], rtol=1e-7)


def test_pairwise_iou_agrees_with_torchvision_and_is_symmetric() -> None:
    a, b = random_boxes(40), random_boxes(60, seed=1)
    ours = boxes.pairwise_iou(a, b)
    torch.testing.assert_close(ours, torchvision.ops.box_iou(a, b))
    torch.testing.assert_close(boxes.pairwise_iou(b, a).T, ours, rtol=0, atol=0)
    assert (ours > 0).any()


def test_pairwise_iou_of_a_batch_is_that_of_its_images() -> None:
    a, b = random_boxes(3, 5), random_boxes(8, seed=1)
    batch = boxes.pairwise_iou(a, b)
    for i in range(3):
        torch.testing.assert_close(batch[i], boxes.pairwise_iou(a[i], b), rtol=0, atol=0)


def test_pairwise_iou_of_nothing_is_empty() -> None:
    assert boxes.pairwise_iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)


def test_elementwise_iou_is_the_diagonal_of_pairwise_iou() -> None:
    a, b = random_boxes(40), random_boxes(40, seed=1)
    torch.testing.assert_close(boxes.elementwise_iou(a, b, "iou"), boxes.pairwise_iou(a, b).diagonal())


def test_generalised_measures_computed_by_hand() -> None:
    a, b = np.array([[0.0, 0, 2, 2]]), np.array([[4.0, 0, 6, 4]])  # apart: union 12, hull 6 × 4
    np.testing.assert_allclose(boxes.elementwise_iou(a, b, "iou"), [0])
    np.testing.assert_allclose(boxes.elementwise_iou(a, b, "giou"), [-(24 - 12) / 24])
    diou = -(4**2 + 1**2) / (6**2 + 4**2)
    np.testing.assert_allclose(boxes.elementwise_iou(a, b, "diou"), [diou])
    v = 4 / np.pi**2 * (np.arctan(2 / 4) - np.arctan(2 / 2)) ** 2
    np.testing.assert_allclose(boxes.elementwise_iou(a, b, "ciou"), [diou - v / (1 + v) * v])


@pytest.mark.parametrize("kind", LOSSES)
def test_generalised_measures_and_their_gradients_agree_with_torchvision(kind: boxes.IouKind) -> None:
    a, b = random_boxes(200).double(), random_boxes(200, seed=1).double()
    ours, theirs = a.clone().requires_grad_(), a.clone().requires_grad_()
    loss = 1 - boxes.elementwise_iou(ours, b, kind)
    expected = LOSSES[kind](theirs, b)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
def test_gradients_are_the_slopes(kind: boxes.IouKind) -> None:
    a, b = random_boxes(10).double().requires_grad_(), random_boxes(10, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: boxes.elementwise_iou(x, y, kind), (a, b))


@settings(max_examples=50)
@given(box_strategy(), box_strategy(), st.floats(0.1, 10), st.floats(-100, 100))
def test_likeness_laws(first: list[float], second: list[float], scale: float, shift: float) -> None:
    a, b = np.array(first), np.array(second)
    values = [float(boxes.elementwise_iou(a, b, kind)) for kind in KINDS]
    assert 0 <= values[0] <= 1
    assert all(-1 <= value <= values[0] + 1e-12 for value in values[1:3])
    assert -2 <= values[3] <= values[2] + 1e-12
    for kind, value in zip(KINDS, values, strict=True):
        assert float(boxes.elementwise_iou(b, a, kind)) == pytest.approx(value, abs=1e-9)
        moved = boxes.elementwise_iou(scale * a + shift, scale * b + shift, kind)
        assert float(moved) == pytest.approx(value, abs=1e-7)
        assert float(boxes.elementwise_iou(a, a, kind)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_finite_for_boxes_without_area(kind: boxes.IouKind) -> None:
    point, line, box = [1.0, 1, 1, 1], [0.0, 0, 0, 5], [0.0, 0, 5, 5]
    a = torch.tensor([point, point, point, line, line, line, box, box, box], requires_grad=True)
    b = torch.tensor([point, line, box] * 3)
    value = boxes.elementwise_iou(a, b, kind)
    assert value.isfinite().all()
    assert boxes.elementwise_iou(a, b, "iou").tolist() == [0] * 8 + [1]
    value.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert a.grad.abs().max() < 10


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigError, match=r"IoU kind 'gIoU'.*giou"):
        boxes.elementwise_iou(np.zeros(4), np.zeros(4), "gIoU")  # type: ignore[arg-type]


def test_other_orders_computed_by_hand() -> None:
    box = np.array([[10.0, 20, 40, 80]])
    np.testing.assert_array_equal(boxes.xyxy_to_xywh(box), [[10, 20, 30, 60]])
    np.testing.assert_array_equal(boxes.xyxy_to_cxcywh(box), [[25, 50, 30, 60]])
    np.testing.assert_array_equal(boxes.xyxy_to_yxyx(box), [[20, 10, 80, 40]])


def test_there_and_back() -> None:
    box = random_boxes(3, 20).double()
    torch.testing.assert_close(boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(box)), box)
    torch.testing.assert_close(boxes.xyxy_to_yxyx(boxes.xyxy_to_yxyx(box)), box)


def test_unsigned_integers_do_not_wrap() -> None:
    np.testing.assert_array_equal(boxes.xyxy_to_xywh(np.array([[9, 9, 4, 4]], np.uint8)), [[9, 9, -5, -5]])


def test_kinds_grow_stricter() -> None:
    a, b = random_boxes(100), random_boxes(100, seed=1)
    by_kind = [boxes.elementwise_iou(a, b, kind) for kind in ("iou", "diou", "ciou")]
    assert all((later <= earlier).all() for earlier, later in pairwise(by_kind))
