"""The training of a style-based generator behind the interface of adversarial training."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from phidet.architectures.adversarial import Chance, Phase
from phidet.architectures.model import Model
from phidet.architectures.processes import Processes
from phidet.architectures.stylegan.config import StyleGanConfig
from phidet.architectures.stylegan.discriminator import Discriminator
from phidet.architectures.stylegan.generator import Generator, mixed
from phidet.architectures.stylegan.layers import downscale, upscale
from phidet.architectures.stylegan.losses import discriminator_loss, generator_loss, gradient_penalty
from phidet.architectures.stylegan.settings import AdversarialSettings


class StyleAdversary:
    """Growing, mixing of styles, logistic losses and R1; see :class:`phidet.architectures.adversarial.Adversarial`."""

    def __init__(self, config: StyleGanConfig, settings: AdversarialSettings) -> None:
        self.config, self.settings = config, settings
        self.discriminator = Discriminator(config)

    @property
    def epoch_images(self) -> int:
        """Of the settings."""
        return self.settings.epoch_images

    def phase(self, shown: int, batch_size: int, rate: float) -> Phase:
        """By the resolution that is trained; the key is that of the levels between which images are mixed."""
        detail = self.settings.detail(shown, self.config.resolution)
        level = int(detail)
        resolution = self.config.resolution >> level
        return Phase(
            self.settings.batch_size(resolution, batch_size),
            self.settings.rate(resolution, rate),
            detail,
            (level, level + (detail > level)),
        )

    def real_images(self, pixels: Tensor, phase: Phase) -> Tensor:
        """From −1 to 1, as coarse as the phase."""
        return coarsened(pixels / 127.5 - 1, phase.detail)

    def fake_images(
        self, generator: Model, labels: Tensor | None, phase: Phase, chance: Chance, processes: Processes
    ) -> Tensor:
        """Samples with mixed styles; moves the average of w."""
        network = cast("Generator", generator)
        count = phase.batch_size // processes.size
        styles = network.styles(chance.normal(count, self.config.latent_size), labels)
        # The average that truncation moves to follows the latents that are drawn anyway.
        _follow(network.style_average, styles[:, 0], self.settings.style_decay, processes)
        # One coin and one place for the whole batch, within the layers that this level has.
        layers = self.config.num_layers - 2 * int(phase.detail)
        if chance.coin(self.config.style_mixing):
            others = network.styles(chance.normal(count, self.config.latent_size), labels)
            styles = mixed(styles, others, chance.integer(1, layers))
        noise = [chance.share(layer) for layer in network.synthesis.draw_noise(count * chance.size, chance.tensors)]
        images: Tensor = network.synthesis(styles, noise, phase.detail)
        return images

    def discriminator_losses(
        self, real: Tensor, fake: Tensor, labels: tuple[Tensor, Tensor] | None, phase: Phase
    ) -> dict[str, Tensor]:
        """Logistic loss and R1 on real images."""
        real_labels, fake_labels = labels or (None, None)
        # R1 is the gradient by the real images.
        real = real.detach().requires_grad_()
        real_scores = self.discriminator(real, real_labels, phase.detail)
        fake_scores = self.discriminator(fake, fake_labels, phase.detail)
        loss = discriminator_loss(real_scores, fake_scores).mean()
        penalty = gradient_penalty(real, real_scores).mean()
        weight = self.settings.penalty_weight(self.config.resolution, phase.batch_size)
        return {
            "loss": loss + weight / 2 * penalty,
            "penalty": penalty.detach(),
            "real_score": real_scores.detach().mean(),
            "fake_score": fake_scores.detach().mean(),
            "real_sign": real_scores.detach().sign().mean(),
        }

    def generator_loss(self, fake: Tensor, labels: Tensor | None, phase: Phase) -> Tensor:
        """The non-saturating loss."""
        return generator_loss(self.discriminator(fake, labels, phase.detail)).mean()

    def average_decay(self, images: int) -> float:
        """By the half-life in images."""
        decay: float = 0.5 ** (images / self.settings.average_half_life)
        return decay


def coarsened(images: Tensor, detail: float) -> Tensor:
    """Full-sized images (N, C, H, W) as they look at a level of detail: coarser pixels of the same size."""
    level = int(detail)
    images = downscale(images, 2**level)
    if detail > level:
        # While a level fades in, real images are as sharp as made ones.
        images = torch.lerp(images, upscale(downscale(images)), detail - level)
    return upscale(images, 2**level)


@torch.no_grad()
def _follow(average: Tensor, styles: Tensor, decay: float, processes: Processes) -> None:
    mean = processes.total(styles.detach().mean(0)) / processes.size
    average.copy_(torch.lerp(mean, average, decay))
