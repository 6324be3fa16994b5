"""Activations: values, gradients, and what they keep."""

from __future__ import annotations

import torch
from torch import Tensor

from phidet.architectures.layers import activation


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
