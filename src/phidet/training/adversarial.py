"""Training of a generator: two networks in turns, each with its own optimizer, and an average of the generator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from phidet.architectures.adversarial import Adversarial, Augment, Chance, Phase
from phidet.architectures.model import Model
from phidet.architectures.processes import Processes
from phidet.training.augmentation.adaptive import (
    AdaptiveProbability,
    change_images,
    draw_colour,
    draw_geometry,
)
from phidet.training.learner import Moment, check_finite
from phidet.training.recipe import Recipe
from phidet.training.task import total_over_processes

_READ = 16  # steps between two looks at the losses on an accelerator, which each wait for it


class GeneratorAverage:
    """Exponential average of a generator's parameters; its buffers, noise and the average of w, are copied."""

    def __init__(self, model: nn.Module) -> None:
        self.values = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self._averaged = [name for name, _ in model.named_parameters()]
        self._copied = [name for name, _ in model.named_buffers()]

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """Moves the average towards the model, keeping ``decay`` of it."""
        state = model.state_dict()
        ours, theirs = ([of[name] for name in self._averaged] for of in (self.values, state))
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for name in self._copied:
            self.values[name].copy_(state[name])

    def copy_to(self, model: nn.Module) -> None:
        """Puts the average into ``model``."""
        model.load_state_dict(self.values)


class TwoNetworks:
    """A generator and its discriminator; see :class:`phidet.training.learner.Learner`.

    A step is the same however many processes share its batch, but for the order of sums. It depends on seed, number of
    the step, weights and images alone.

    Args:
        fabric: on whose device it runs.
        network: the generator.
        adversary: its discriminator, and the losses of both.
        recipe: how.
        seed: of latents, noise and augmentation.
        num_classes: of the labels; 0 where the networks take none.

    Attributes:
        rate: learning rate of the last step.
        probability: of each augmentation of what the discriminator sees; ``None`` without augmentation.
    """

    def __init__(
        self, fabric: Fabric, network: Model, adversary: Adversarial, recipe: Recipe, seed: int, num_classes: int
    ) -> None:
        self.fabric, self.network, self.adversary, self.recipe = fabric, network, adversary, recipe
        self.seed, self.num_classes = seed, num_classes
        self.discriminator = adversary.discriminator.to(fabric.device)
        # Of the generator, then of the discriminator; states keep this order.
        self.optimizers = [_adam(network, recipe), _adam(self.discriminator, recipe)]
        self.average = GeneratorAverage(network)
        self.processes = Processes(fabric.world_size, total_over_processes)
        adaptive = recipe.augmentation.adaptive
        self.probability = AdaptiveProbability(adaptive, recipe.augmentation.adaptive_span) if adaptive else None
        self.rate, self.shown, self.steps = 0.0, 0, 0
        self.networks: tuple[int, ...] = ()
        self._values: dict[str, float] = {}

    def train(self) -> None:
        """Into training mode."""
        self.network.train()
        self.discriminator.train()

    def step(self, batch: Any, at: Moment) -> dict[str, float]:
        """The discriminator learns to tell real images from made ones, then the generator to deceive it."""
        pixels, class_ids = (tensor.to(self.fabric.device, non_blocking=True) for tensor in batch)
        phase = self.adversary.phase(self.shown, self.recipe.batch_size, self.recipe.learning_rate)
        self._enter(phase)
        labels = F.one_hot(class_ids, self.num_classes).to(torch.get_default_dtype()) if self.num_classes else None
        # Seeded by the number of the step: a resumed run draws what it would have drawn.
        chance = Chance(
            self.fabric.device, self.seed * 1_000_003 + self.steps, self.fabric.global_rank, self.fabric.world_size
        )
        augment = self._augmentation()
        losses = self._discriminator_step((pixels, labels), phase, chance, augment)
        losses |= self._generator_step(labels, phase, chance, augment)
        images = len(pixels) * self.fabric.world_size
        self.average.update(self.network, self.adversary.average_decay(images))
        # A tensor still: to read it would wait for the device in every step.
        sign = self.processes.total(losses.pop("real_sign")) / self.processes.size
        if self.probability is not None:
            self.probability.note(sign, images)
        self.shown, self.steps = self.shown + images, self.steps + 1
        return self._read(losses, sign, phase, at)

    def _discriminator_step(
        self, real_images: tuple[Tensor, Tensor | None], phase: Phase, chance: Chance, augment: Augment
    ) -> dict[str, Tensor]:
        adversary, (pixels, labels) = self.adversary, real_images
        self.discriminator.requires_grad_(True)
        # The generator does not learn here, so that its activations need not be kept.
        with torch.no_grad():
            fake = augment(adversary.fake_images(self.network, labels, phase, chance, self.processes))
            real = augment(adversary.real_images(pixels, phase))
        pair = None if labels is None else (labels, labels)
        losses = adversary.discriminator_losses(real, fake, pair, phase)
        self._update(self.optimizers[1], losses["loss"], self.discriminator)
        return {name: value.detach() for name, value in losses.items()}

    def _generator_step(
        self, labels: Tensor | None, phase: Phase, chance: Chance, augment: Augment
    ) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)  # its own gradient would be computed for nothing
        fake = self.adversary.fake_images(self.network, labels, phase, chance, self.processes)
        loss = self.adversary.generator_loss(augment(fake), labels, phase)
        self._update(self.optimizers[0], loss, self.network)
        return {"generator_loss": loss.detach()}

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor, network: nn.Module) -> None:
        optimizer.zero_grad()
        self.fabric.backward(loss)
        if self.fabric.world_size > 1:
            _mean_gradients(network.parameters(), self.fabric.world_size)
        optimizer.step()

    def _enter(self, phase: Phase) -> None:
        """Sets the rate; moments of other resolutions are forgotten (arXiv 1710.10196 appendix A)."""
        self.rate = phase.rate
        changed, self.networks = phase.networks != self.networks, phase.networks
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = phase.rate
            if changed:
                optimizer.state.clear()

    def _augmentation(self) -> Augment:
        """The change of a step's three batches of images, one after the other, each drawn for the whole batch."""
        if self.probability is None or self.probability.value == 0:
            return lambda images: images
        p, size = self.probability.value, self.network.config.image_size_hw[0]
        rng = np.random.default_rng((self.seed, self.steps))
        rank, world = self.fabric.global_rank, self.fabric.world_size

        def change(images: Tensor) -> Tensor:
            count = len(images) * world
            # Drawn for the whole batch in every process, of which each takes its rows.
            geometry, colour = draw_geometry(count, p, size, rng), draw_colour(count, p, rng)
            return change_images(images, geometry[rank::world], colour[rank::world])

        return change

    def _read(self, losses: dict[str, Tensor], sign: Tensor, phase: Phase, at: Moment) -> dict[str, float]:
        """Losses as numbers; on an accelerator those of a step before, but at some steps."""
        if not self._values or self.fabric.device.type == "cpu" or at.step % _READ == 0 or at.step + 1 == at.steps:
            numbers = torch.stack([value.float() for value in (*losses.values(), sign)]).tolist()
            self._values = dict(zip((*losses, "real_sign"), numbers, strict=True))
            check_finite(self._values, at)
        probability = {} if self.probability is None else {"augmented": self.probability.value}
        return {**self._values, **probability, "detail": phase.detail}

    def state(self) -> dict[str, Any]:
        """Both networks and their moments, the average, and where in the schedule the run is."""
        return {
            "model": self.network.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.values,
            "probability": None if self.probability is None else self.probability.state(),
            "shown": self.shown,
            "steps": self.steps,
            "networks": list(self.networks),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes everything back to where ``state`` was saved."""
        self.network.load_state_dict(state["model"])
        self.discriminator.load_state_dict(state["discriminator"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        # In place: the average's tensors stay on their device.
        for name, tensor in state["average"].items():
            self.average.values[name].copy_(tensor)
        if self.probability is not None:
            self.probability.restore(state["probability"])
        self.shown, self.steps, self.networks = state["shown"], state["steps"], tuple(state["networks"])


def _adam(network: nn.Module, recipe: Recipe) -> torch.optim.Adam:
    """Adam without momentum, as generators are trained (arXiv 1710.10196 appendix A)."""
    return torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, betas=(0.0, 0.99), eps=1e-8, foreach=True)


def _mean_gradients(parameters: Iterable[nn.Parameter], processes: int) -> None:
    """Replaces gradients by their means over all processes, in one exchange.

    Not by DistributedDataParallel: layers beyond the level of detail have no gradient, and R1 differentiates twice.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient) / processes)
