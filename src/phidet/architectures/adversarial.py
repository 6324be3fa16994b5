"""What an architecture brings to the training of a generator: its adversary, the losses of both, and a schedule.

:mod:`phidet.training.adversarial` steps the two networks in turns and knows them through this interface alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from phidet.architectures.adversarial_config import GeneratorConfig
from phidet.architectures.model import Model
from phidet.architectures.processes import Processes
from phidet.architectures.program import GraphWriter

Augment: TypeAlias = Callable[[Tensor], Tensor]
"""A random change of images (N, 3, H, W), differentiable: what the discriminator sees instead of them."""


class GeneratorModel(Protocol):
    """A style-based generator, a :class:`phidet.architectures.model.Model`, in PyTorch."""

    config: GeneratorConfig
    style_average: Tensor

    def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (N, latent_size) and one-hot labels (N, classes) → w for each layer (N, num_layers, style_size)."""

    def render(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """w for each layer, and noise for each (N or 1, 1, H, W) → images (N, 3, R, R), about −1 to 1."""

    def stored_noise(self) -> list[Tensor]:
        """The noise that is kept with the weights, for each layer (1, 1, H, W)."""

    def write_mapping(self, graph: GraphWriter) -> str:
        """Adds the way from "latents" (N, latent_size) and "labels" (N, classes) to w (N, style_size); its name."""

    def write_synthesis(self, graph: GraphWriter) -> str:
        """Adds the way from "styles" (N, layers, style_size) and "noise0" … (N or 1, 1, H, W) to images; its name."""


class Phase(NamedTuple):
    """How training goes on from a number of real images shown.

    Attributes:
        batch_size: images per step, over all processes.
        rate: learning rate.
        detail: level of detail; 0 is the full resolution.
        networks: a key of what is trained: the optimizers start afresh where it changes.
    """

    batch_size: int
    rate: float
    detail: float
    networks: tuple[int, ...]


class Chance:
    """Random numbers of one step, drawn for the whole batch, of which each process takes its share.

    So a step is the same however many processes share it, and depends on nothing but seed and step.

    Args:
        device: where tensors are made.
        seed: of this step.
        rank, size: of this process, and of all.
    """

    def __init__(self, device: torch.device, seed: int, rank: int = 0, size: int = 1) -> None:
        self.tensors = torch.Generator(device).manual_seed(seed)
        self.numbers = torch.Generator().manual_seed(seed)  # on the CPU: read without waiting for the device
        self.rank, self.size = rank, size

    def normal(self, *shape: int) -> Tensor:
        """A standard normal; ``shape`` begins with this process's images."""
        # Every process draws the numbers of the whole batch, so that a step is the same however many share it.
        whole = torch.randn(shape[0] * self.size, *shape[1:], generator=self.tensors, device=self.tensors.device)
        return self.share(whole)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1); ``shape`` begins with this process's images."""
        whole = torch.rand(shape[0] * self.size, *shape[1:], generator=self.tensors, device=self.tensors.device)
        return self.share(whole)

    def share(self, whole: Tensor) -> Tensor:
        """This process's rows of a tensor for the whole batch."""
        return whole[self.rank :: self.size]

    def coin(self, probability: float) -> bool:
        """The same for the whole batch."""
        # On the CPU, without waiting for the device: every process takes the same branch.
        return float(torch.rand((), generator=self.numbers)) < probability

    def integer(self, low: int, high: int) -> int:
        """low ≤ … < high, the same for the whole batch."""
        return int(torch.randint(low, high, (), generator=self.numbers))


class Adversarial(Protocol):
    """Two networks that learn from each other."""

    @property
    def discriminator(self) -> nn.Module:
        """Scores images, high for real ones; it is not part of the model file."""

    @property
    def epoch_images(self) -> int:
        """Real images shown in an epoch."""

    def phase(self, shown: int, batch_size: int, rate: float) -> Phase:
        """The phase after ``shown`` real images.

        Args:
            shown: over all processes.
            batch_size, rate: the recipe's, which an architecture may vary by resolution.
        """

    def real_images(self, pixels: Tensor, phase: Phase) -> Tensor:
        """Training images (N, 3, H, W) uint8 as the discriminator takes them in this phase."""

    def fake_images(
        self, generator: Model, labels: Tensor | None, phase: Phase, chance: Chance, processes: Processes
    ) -> Tensor:
        """Images of ``generator`` for these one-hot labels, or for as many images as the phase has."""

    def discriminator_losses(
        self, real: Tensor, fake: Tensor, labels: tuple[Tensor, Tensor] | None, phase: Phase
    ) -> dict[str, Tensor]:
        """Losses by name from real and fake images as they are augmented.

        ``loss`` is minimised; ``real_sign`` is the mean sign of the scores of real images, which tells overfitting.
        """

    def generator_loss(self, fake: Tensor, labels: Tensor | None, phase: Phase) -> Tensor:
        """What the generator minimises."""

    def average_decay(self, images: int) -> float:
        """The share of its average that a generator keeps over ``images`` images."""
