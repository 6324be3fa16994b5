"""Layers of both networks: equalised weights, scaling, blurring, normalisation (arXiv 1710.10196 sections 4 and 5)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = math.sqrt(2)
"""Of weights in front of a leaky ReLU (arXiv 1502.01852); other layers have 1."""
_EPSILON = 1e-8


class Equalised(nn.Module):
    """A weight that is stored with unit variance and scaled where it is used, so that Adam moves all alike.

    Args:
        shape: of the weight, (out, in, …).
        bias: whether there is one, of ``shape[0]`` values.
        gain: standard deviation of the output for inputs of unit variance.
        rate: of learning, relative to other layers: it divides what is stored and multiplies what is used.
    """

    def __init__(self, *shape: int, bias: bool = True, gain: float = GAIN, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape) / rate)
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        # The factor of He's initialisation, applied here instead of to the stored weights.
        self.rate, self.scale = rate, gain * rate / math.sqrt(math.prod(shape[1:]))

    @property
    def scaled_weight(self) -> Tensor:
        """The weight as it is used."""
        return self.weight * self.scale

    @property
    def scaled_bias(self) -> Tensor | None:
        """The bias as it is used."""
        return None if self.bias is None else self.bias * self.rate


class Dense(Equalised):
    """(N, in) → (N, out)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.scaled_weight, self.scaled_bias)


class Convolution(Equalised):
    """(N, in, H, W) → (N, out, H, W), padded with zeros."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.scaled_weight, self.scaled_bias, padding=self.weight.shape[-1] // 2)


class ConvolutionUp(Equalised):
    """(N, in, H, W) → (N, out, 2H, 2W): nearest neighbours and a convolution, or one transposed convolution.

    With equal weights the two differ: the transposed convolution applies its kernel turned by 180°. Weights go with the
    way in which they were trained.
    """

    fused: bool = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.fused:
            return F.conv2d(upscale(x), self.scaled_weight, self.scaled_bias, padding=1)
        kernel = widened(self.scaled_weight).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, self.scaled_bias, stride=2, padding=1)


class ConvolutionDown(Equalised):
    """(N, in, H, W) → (N, out, H/2, W/2): a convolution and the mean of 2×2 pixels, or one with a stride of 2."""

    fused: bool = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            return F.conv2d(x, widened(self.scaled_weight) / 4, self.scaled_bias, stride=2, padding=1)
        # The bias after the mean: the sum is the same, over a quarter of the pixels.
        y = downscale(F.conv2d(x, self.scaled_weight, padding=1))
        return y if self.scaled_bias is None else y + self.scaled_bias[:, None, None]


def widened(kernel: Tensor) -> Tensor:
    """(…, 3, 3) → (…, 4, 4): the sum of the kernel at its four places, as a box of 2×2 pixels spreads it."""
    padded = F.pad(kernel, (1, 1, 1, 1))
    return padded[..., 1:, 1:] + padded[..., :-1, 1:] + padded[..., 1:, :-1] + padded[..., :-1, :-1]


def leaky_relu(x: Tensor) -> Tensor:
    """With a slope of 0.2 below zero."""
    return F.leaky_relu(x, 0.2)


def pixel_norm(x: Tensor) -> Tensor:
    """Divides by the root mean square over channels, dimension 1 (arXiv 1710.10196 section 4.2)."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + _EPSILON)


def instance_norm(x: Tensor) -> Tensor:
    """(N, C, H, W): mean 0 and variance 1 over the pixels of each channel and image."""
    x = x - x.mean((2, 3), keepdim=True)
    return x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + _EPSILON)


def blur(x: Tensor) -> Tensor:
    """Each channel with the kernel [1, 2, 1] × [1, 2, 1] / 16; outside the image is zero, so that edges darken."""
    line = x.new_tensor([1, 2, 1]) / 4
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def upscale(x: Tensor, factor: int = 2) -> Tensor:
    """(N, C, H, W) → (N, C, H·factor, W·factor), nearest neighbours."""
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="nearest")


def downscale(x: Tensor, factor: int = 2) -> Tensor:
    """(N, C, H, W) → (N, C, H/factor, W/factor), means of factor × factor pixels."""
    return x if factor == 1 else F.avg_pool2d(x, factor)
