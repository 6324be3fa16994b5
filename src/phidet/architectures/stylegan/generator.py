"""The generator: mapping, truncation, mixing of styles, synthesis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phidet.architectures.model import Model
from phidet.architectures.program import GraphWriter
from phidet.architectures.stylegan.config import StyleGanConfig
from phidet.architectures.stylegan.graph import write_mapping, write_synthesis
from phidet.architectures.stylegan.mapping import Mapping
from phidet.architectures.stylegan.synthesis import Synthesis


class Generator(Model):
    """From latents, and classes where it takes them, to images.

    Args:
        config: what to build; kept as ``config`` and saved with the weights.

    Attributes:
        style_average: the running mean of w in training, (style_size,), which truncation moves towards.
    """

    style_average: Tensor

    def __init__(self, config: StyleGanConfig) -> None:
        super().__init__()
        self.config: StyleGanConfig = config
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)
        self.register_buffer("style_average", torch.zeros(config.style_size))

    def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (N, latent_size) and one-hot labels (N, classes) → the same w for each layer, (N, L, style_size)."""
        w: Tensor = self.mapping(latents, labels)
        return w[:, None].expand(-1, self.config.num_layers, -1)

    def render(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Styles (N, L, style_size), and noise for each layer (N or 1, 1, H, W) → images at the full resolution."""
        images: Tensor = self.synthesis(styles, noise)
        return images

    def stored_noise(self) -> list[Tensor]:
        """The noise that is kept with the weights."""
        return self.synthesis.stored_noise()

    def write_mapping(self, graph: GraphWriter) -> str:
        """Adds the mapping to an ONNX graph."""
        return write_mapping(graph, self)

    def write_synthesis(self, graph: GraphWriter) -> str:
        """Adds the synthesis to an ONNX graph."""
        return write_synthesis(graph, self)

    def truncated(self, styles: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """Styles moved towards their average (appendix B): w̄ + psi · (w − w̄).

        Args:
            styles: (N, L, style_size).
            psi: 1 changes nothing, 0 gives the average.
            cutoff: layers before this one are changed; all unless given.
        """
        # Layers from the cutoff on, which are about details, stay as they are.
        layers = torch.arange(styles.shape[1], device=styles.device)[:, None]
        factor = torch.where(layers < (styles.shape[1] if cutoff is None else cutoff), psi, 1.0).to(styles.dtype)
        return torch.lerp(self.style_average, styles, factor)

    def forward(self, latents: Tensor, labels: Tensor | None = None, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Images (N, 3, R, R), about −1 to 1, without truncation; ``noise`` is drawn unless given."""
        noise = self.synthesis.draw_noise(len(latents)) if noise is None else noise
        images: Tensor = self.synthesis(self.styles(latents, labels), noise)
        return images


def mixed(styles: Tensor, others: Tensor, crossover: int) -> Tensor:
    """Styles of which layers from ``crossover`` on are those of ``others``; both (N, L, style_size)."""
    return torch.cat([styles[:, :crossover], others[:, crossover:]], 1)
