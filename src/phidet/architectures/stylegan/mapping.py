"""The mapping network: from latents z to intermediate latents w (arXiv 1812.04948 section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phidet.architectures.stylegan.config import StyleGanConfig
from phidet.architectures.stylegan.layers import Dense, leaky_relu, pixel_norm

RATE = 0.01
"""Learning rate of the mapping network relative to the rest (appendix C)."""


class Mapping(nn.Module):
    """Normalised latents, then dense layers with leaky ReLUs."""

    def __init__(self, config: StyleGanConfig) -> None:
        super().__init__()
        self.label = nn.Parameter(torch.randn(config.label_size, config.latent_size)) if config.labelled else None
        width = config.latent_size * (2 if config.labelled else 1)
        self.layers = nn.ModuleList()
        for i in range(config.mapping_layers):
            out = config.style_size if i + 1 == config.mapping_layers else config.mapping_width
            self.layers.append(Dense(out, width, rate=RATE))
            width = out

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (N, latent_size) and one-hot labels (N, classes) → w (N, style_size)."""
        if self.label is not None:
            assert labels is not None, "this generator takes labels"
            latents = torch.cat([latents, labels @ self.label], 1)
        w = pixel_norm(latents)
        for layer in self.layers:
            w = leaky_relu(layer(w))
        return w
