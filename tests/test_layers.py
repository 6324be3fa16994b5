"""Activations: values, gradients, and what they keep."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from phidet.architectures.layers import SameConv2d, activation, pad_same


def test_activations() -> None:
    x = torch.tensor([-3.0, -1.0, 0.5, 7.0])
    assert activation("relu")(x.clone()).tolist() == [0, 0, 0.5, 7]
    assert activation("relu6")(x.clone()).tolist() == [0, 0, 0.5, 6]
    torch.testing.assert_close(activation("silu")(x.clone()), x / (1 + torch.exp(-x)))


def test_relu6_keeps_one_map_for_its_gradient_and_learns_the_same_to_the_last_bit() -> None:
    # Values on the borders, where the gradient is 0, among others.
    x = torch.cat([torch.tensor([-1.0, -0.0, 0.0, 6.0, 7.0]), 4 * torch.randn(1000) + 3])
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        before = ours * 1
        found = activation("relu6")(before)
    assert [t.untyped_storage().data_ptr() for t in kept] == [before.untyped_storage().data_ptr()]
    expected = torch.nn.ReLU6(inplace=True)(theirs * 1)
    gradient = torch.randn_like(x)
    found.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(found, expected)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("kernel", "stride", "height", "width"),
    [
        (5, 1, 7, 9),
        (5, 1, 1, 1),
        (5, 1, 4, 2),
        (5, 2, 8, 9),
        (5, 2, 9, 12),
        (5, 2, 2, 3),
        (7, 1, 6, 11),
        (7, 2, 13, 10),
    ],
)
def test_wide_depthwise_convolutions_learn_what_pytorchs_learn(
    kernel: int, stride: int, height: int, width: int
) -> None:
    """Their weights' gradient is computed by columns: the same sums."""
    torch.manual_seed(0)
    conv = SameConv2d(6, 6, kernel, stride, groups=6).double()
    x = torch.randn(3, 6, height, width, dtype=torch.float64, requires_grad=True)
    found = conv(x)
    padded, padding = pad_same(x, kernel, stride)
    expected = F.conv2d(padded, conv.weight, None, stride, padding, groups=6)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gradient = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(y, (x, conv.weight), gradient) for y in (found, expected))
    assert "_Depthwise" in str(found.grad_fn)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    conv.weight.requires_grad_(False)
    assert "_Depthwise" not in str(conv(x).grad_fn), "frozen weights have no gradient to hurry for"


def test_a_wide_depthwise_convolution_learns_in_mixed_precision() -> None:
    conv = SameConv2d(6, 6, 5, groups=6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = conv(torch.randn(2, 6, 9, 9))
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32
