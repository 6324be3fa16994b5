"""The synthesis network: from a style for each layer to an image (arXiv 1812.04948 section 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phidet.architectures.stylegan.config import StyleGanConfig
from phidet.architectures.stylegan.layers import (
    GAIN,
    Convolution,
    ConvolutionUp,
    Dense,
    blur,
    instance_norm,
    leaky_relu,
    pixel_norm,
    upscale,
)


class Layer(nn.Module):
    """An optional convolution, then noise, bias, activation, normalisation and style, in this order.

    The style comes after the activation and the bias after the noise, as in the networks that the paper reports.
    """

    def __init__(self, config: StyleGanConfig, convolution: nn.Module | None, channels: int, blurred: bool) -> None:
        super().__init__()
        self.convolution, self.blurred = convolution, blurred
        self.noise_strength = nn.Parameter(torch.zeros(channels)) if config.noise else None
        self.bias = nn.Parameter(torch.zeros(channels))
        self.style = Dense(2 * channels, config.style_size, gain=1.0) if config.styles else None

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """x (N, in, H, W), w (N, style_size) and noise (N or 1, 1, H, W) → (N, channels, H, W)."""
        if self.convolution is not None:
            x = self.convolution(x)
        if self.blurred:
            x = blur(x)
        if self.noise_strength is not None and noise is not None:
            x = x + noise * self.noise_strength[:, None, None]
        x = leaky_relu(x + self.bias[:, None, None])
        if self.style is None:
            return pixel_norm(x)
        scale, shift = self.style(style)[:, :, None, None].chunk(2, 1)
        styled: Tensor = instance_norm(x) * (scale + 1) + shift
        return styled


class Synthesis(nn.Module):
    """Two layers for each resolution from 4×4 on, and an output in RGB for each of them.

    The noise of layer i is kept as the buffer ``noise{i}``, (1, 1, H, W), for images that shall not change.
    """

    def __init__(self, config: StyleGanConfig) -> None:
        super().__init__()
        self.config = config
        self.constant: nn.Parameter | None = None
        self.dense: Dense | None = None
        first = config.channels(4)
        if config.constant_input:
            self.constant = nn.Parameter(torch.ones(1, first, 4, 4))
        else:
            # The gain is a quarter of the usual one, so that the 16 pixels of a channel together have its variance.
            self.dense = Dense(first * 16, config.style_size, bias=False, gain=GAIN / 4)
        self.layers, self.to_rgb = nn.ModuleList(), nn.ModuleList()
        before = first
        for resolution in config.resolutions:
            channels = config.channels(resolution)
            opening: ConvolutionUp | None = None
            if resolution > 4:
                opening = ConvolutionUp(channels, before, 3, 3, bias=False)
                opening.fused = config.is_fused(resolution)
            self.layers.append(Layer(config, opening, channels, blurred=config.blur and resolution > 4))
            closing = Convolution(channels, channels, 3, 3, bias=False)
            self.layers.append(Layer(config, closing, channels, blurred=False))
            self.to_rgb.append(Convolution(3, channels, 1, 1, gain=1.0))
            before = channels
        # Stored with the weights, so that a latent always gives the same image.
        if config.noise:
            for i, noise in enumerate(self.draw_noise(1)):
                self.register_buffer(f"noise{i}", noise)

    def draw_noise(self, count: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """Noise of ``count`` images: for each layer (count, 1, H, W) of a standard normal, on the network's device."""
        like = next(self.parameters())
        return [
            torch.randn(count, 1, side, side, generator=generator, device=like.device, dtype=like.dtype)
            for side in self.config.noise_sides
        ]

    def stored_noise(self) -> list[Tensor]:
        """The noise that is kept with the weights, for each layer (1, 1, H, W)."""
        return [self.get_buffer(f"noise{i}") for i in range(self.config.num_layers)] if self.config.noise else []

    def forward(self, styles: Tensor, noise: Sequence[Tensor], detail: float = 0.0) -> Tensor:
        """A style for each layer → images, not clamped, about −1 to 1.

        Args:
            styles: w (N, num_layers, style_size).
            noise: for each layer (N or 1, 1, H, W); empty for none.
            detail: level of detail (arXiv 1710.10196 section 2): 0 is the full resolution, each level halves it, and
                between two levels both images are mixed.

        Returns:
            (N, 3, resolution, resolution), enlarged by nearest neighbours where ``detail`` ≥ 1.
        """
        level = int(detail)
        top = len(self.config.resolutions) - 1 - level
        if self.constant is not None:
            x = self.constant.expand(len(styles), -1, -1, -1)
        else:
            assert self.dense is not None
            x = self.dense(styles[:, 0]).reshape(len(styles), -1, 4, 4)
        below: Tensor | None = None
        for i in range(2 * top + 2):
            # The image of the level below is mixed in, while the top level fades in.
            if i == 2 * top and top > 0 and detail > level:
                below = upscale(self.to_rgb[top - 1](x))
            x = self.layers[i](x, styles[:, i], noise[i] if noise else None)
        image: Tensor = self.to_rgb[top](x)
        if below is not None:
            image = torch.lerp(image, below, detail - level)
        return upscale(image, 2**level)
