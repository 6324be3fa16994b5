"""What the config of a generator says, without PyTorch."""

from __future__ import annotations

from typing import Protocol

from phidet.architectures.base import NetworkConfig


class GeneratorConfig(NetworkConfig, Protocol):
    """What the config of a style-based generator says, besides what every config does."""

    @property
    def labelled(self) -> bool:
        """Whether the class of an image is chosen."""

    @property
    def latent_size(self) -> int:
        """Length of z."""

    @property
    def num_layers(self) -> int:
        """Layers that take a style, two for each resolution from 4×4 on."""

    @property
    def noise_sides(self) -> tuple[int, ...]:
        """Side of the noise of each layer in pixels; empty where the generator takes none."""

    @property
    def context(self) -> float:
        """How much longer the sides of its training images are than those of the objects in their middle."""
