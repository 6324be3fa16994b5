"""Layers shared by all networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phidet.architectures.config import Activation
from phidet.architectures.padding import same_padding
from phidet.architectures.weights import BN_EPSILON
from phidet.core.errors import InputError

BN_MOMENTUM = 0.01  # in PyTorch's definition: 1 − TensorFlow's 0.99


def activation(name: Activation) -> nn.Module:
    """The activation named ``name``, in place where that saves something."""
    modules: dict[Activation, type[nn.Module]] = {"silu": SiLU, "relu6": ReLU6, "relu": nn.ReLU}
    return modules[name](inplace=True)


class SiLU(nn.SiLU):
    """In place unless it is learned through: its gradient needs its input, so that PyTorch would copy that first."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        return F.silu(input, inplace=not torch.is_grad_enabled())


class _ClampedInPlace(torch.autograd.Function):
    """ReLU6 over its input, learned through by its output: where that is between 0 and 6, the input was.

    PyTorch's own in-place ReLU6 needs its input for the gradient, and copies it first.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(F.relu6(x, inplace=True))
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (clamped,) = ctx.saved_tensors
        gradient: Tensor = torch.ops.aten.hardtanh_backward(gradients[0], clamped, 0.0, 6.0)
        return gradient


class ReLU6(nn.ReLU6):
    """In place, with half of PyTorch's memory where it is learned through."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        if input.requires_grad and not torch.compiler.is_compiling():
            return _ClampedInPlace.apply(input)  # type: ignore[no-any-return]
        return F.relu6(input, inplace=True)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the constants of the official code, backbone included."""
    return nn.BatchNorm2d(channels, eps=BN_EPSILON, momentum=BN_MOMENTUM)


def check_images(images: Tensor, least: int, limit: str) -> None:
    """Raises InputError unless images are (B, 3, H, W) with sides of ``least`` pixels or more; ``limit`` says why."""
    if torch.compiler.is_compiling():  # a graph has no place for exceptions
        return
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(
            f"expected images as (batch, 3, height, width), got shape {tuple(images.shape)}: colour images, channels "
            "first"
        )
    height, width = images.shape[2:]
    if min(height, width) < least:
        raise InputError(f"images of {height}×{width} pixels are smaller than {limit}")


def wide(values: Tensor) -> Tensor:
    """``values`` in float32, or float64 if they are: losses and boxes lose digits in half precision."""
    return values if values.dtype == torch.float64 else values.float()


def init_convolutions(module: nn.Module, draw: Callable[[nn.Conv2d], object]) -> None:
    """Has ``draw`` draw the weights of each convolution in ``module``, in order; biases start at zero."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            draw(part)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def pad_same(x: Tensor, kernel: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """``x`` and the padding left to the convolution: all of it if symmetric, else none, as ``x`` is padded here."""
    top, bottom = same_padding(x.shape[-2], kernel, stride)
    left, right = same_padding(x.shape[-1], kernel, stride)
    if top == bottom and left == right:
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom)), (0, 0)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of x by (C, 1, k, k), whose weights' gradient is computed three columns at a time.

    oneDNN has kernels for that of up to three columns; for more it multiplies matrices of one row, which takes 2 to 7
    times as long. Equal to PyTorch's own gradient up to the order of sums.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (x, weight), (gradient,) = ctx.saved_tensors, gradients

        def of(which: int, x: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
            """The gradient of x (0) or of the weight (1)."""
            sizes = (list(ctx.stride), list(padding), [1, 1], False, [0, 0], len(weight))
            wanted = [which == 0, which == 1, False]
            found: Tensor = torch.ops.aten.convolution_backward(gradient, x, weight, None, *sizes, wanted)[which]
            return found

        of_x = of(0, x, weight, ctx.padding) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_x, None, None, None
        span = (gradient.shape[-1] - 1) * ctx.stride[1]  # between a column's first place in x and its last
        parts = []
        for first in range(0, weight.shape[-1], 3):
            columns = weight[..., first : first + 3]
            left = ctx.padding[1] - first  # of x; negative where it is cut
            right = span + columns.shape[-1] - x.shape[-1] - left
            parts.append(of(1, F.pad(x, (left, right)), columns, (ctx.padding[0], 0)))
        return of_x, torch.cat(parts, -1), None, None


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME", for any input size.

    With stride 1, or if it is symmetric, the padding is an attribute of the convolution and costs nothing.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) → (B, out, ⌈H / stride⌉, ⌈W / stride⌉)."""
        # With stride 1 the padding is the same on both sides, which PyTorch does by itself.
        if self.stride == (1, 1):
            return self._convolve(x, (self.kernel_size[0] // 2, self.kernel_size[1] // 2))
        if torch.compiler.is_compiling():
            return self._convolve(self._pad_traced(x), (0, 0))
        return self._convolve(*pad_same(x, self.kernel_size[0], self.stride[0]))

    def _convolve(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        if self._is_learned_by_columns(x):
            return _Depthwise.apply(x, self.weight, self.stride, padding)  # type: ignore[no-any-return]
        return F.conv2d(x, self.weight, None, self.stride, padding, self.dilation, self.groups)

    def _is_learned_by_columns(self, x: Tensor) -> bool:
        """Whether it is one of those whose gradient :class:`_Depthwise` computes in less time."""
        is_wide = self.groups == self.in_channels == self.out_channels and self.kernel_size[1] > 3
        is_learned = torch.is_grad_enabled() and self.weight.requires_grad and not torch.compiler.is_compiling()
        # In mixed precision F.conv2d converts its arguments, which this would have to do for itself.
        return is_wide and is_learned and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")

    def _pad_traced(self, x: Tensor) -> Tensor:
        """The same padding in whole numbers and without branches, so that sizes may stay symbols in a traced graph."""
        vertical = _traced_padding(x.shape[-2], self.kernel_size[0], self.stride[0])
        horizontal = _traced_padding(x.shape[-1], self.kernel_size[1], self.stride[1])
        return F.pad(x, (*horizontal, *vertical))


def _traced_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """:func:`same_padding` for kernels that are no smaller than their stride, where it is never negative."""
    total = ((size + stride - 1) // stride - 1) * stride + kernel - size
    return total // 2, total - total // 2


class TransposedConv(nn.Conv2d):
    """A transposed convolution of 3×3 and stride 2, cut at the right and below to the wanted size, as TensorFlow's with
    "SAME" padding: pixel (2i, 2j) has its centre under that of cell (i, j)'s first weight.

    The weight is (out, in, 3, 3), as a convolution's.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 3, 2, bias=bias)

    def forward(self, x: Tensor, size_hw: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """(B, in, h, w) → (B, out, *size_hw); a side of the size is twice the map's, or one less."""
        return enlarged(x, self.weight, self.bias, size_hw)

    def multiply_adds(self, inputs: tuple[Tensor, ...]) -> int:
        """For one image: every cell is multiplied by all weights."""
        return inputs[0][0, 0].numel() * self.weight.numel()


def enlarged(x: Tensor, weight: Tensor, bias: Tensor | None, size_hw: tuple[int, int]) -> Tensor:
    """What :class:`TransposedConv` computes."""
    whole = F.conv_transpose2d(x, weight.transpose(0, 1), bias, stride=2)
    return whole[:, :, : size_hw[0], : size_hw[1]]


def same_max_pool(x: Tensor, stride: int) -> Tensor:
    """Max-pooling by ``stride`` with a kernel of ``stride + 1``, padded with −∞ as TensorFlow's "SAME".

    (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉). The official code resamples maps to coarser levels this way.
    """
    kernel = stride + 1
    if torch.compiler.is_compiling():  # as SameConv2d: no branch on a size
        sides = (*_traced_padding(x.shape[-1], kernel, stride), *_traced_padding(x.shape[-2], kernel, stride))
        return F.max_pool2d(F.pad(x, sides, value=-math.inf), kernel, stride)
    top, bottom = same_padding(x.shape[-2], kernel, stride)
    left, right = same_padding(x.shape[-1], kernel, stride)
    if top == bottom and left == right:
        return F.max_pool2d(x, kernel, stride, (top, left))
    if top == left == 0 and max(bottom, right) < stride:
        # ceil_mode handles the last, partial window without a copy of the map to append one row and column.
        return F.max_pool2d(x, kernel, stride, ceil_mode=True)
    return F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-math.inf), kernel, stride)


class SeparableConv(nn.Module):
    """Depthwise 3×3 without bias, then pointwise 1×1 with bias (EfficientDet's convolution everywhere)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) → (B, out, H, W)."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


class _WithMean(torch.autograd.Function):
    """Maps and their means over height and width, (B, C, 1, 1).

    The mean's part of the gradient is one number for each map. PyTorch's own would write it as whole maps, and add them
    in a pass of their own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.pixels = x.shape[2] * x.shape[3]
        return x.view_as(x), x.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        of_maps, of_means = gradients
        gradient: Tensor = of_maps + of_means / ctx.pixels
        return gradient


class SqueezeExcite(nn.Module):
    """Rescales channels by a gate computed from their mean over the map (arXiv 1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = activation("silu")
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        if x.requires_grad:
            x, means = _WithMean.apply(x)
        else:
            means = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        gate = self.expand(self.act(self.reduce(means)))
        return x * torch.sigmoid(gate)
