"""What changes in training, and one step of it: a network, its optimizer and its average."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from lightning_fabric import Fabric
from torch import nn

from phidet.architectures.model import Model
from phidet.core.errors import TrainingDivergedError
from phidet.training.checkpointing import recompute_activations
from phidet.training.optim import (
    RunningAverage,
    build_optimizer,
    frozen_parts,
    raise_batch_norm_momentum,
    rate_at,
    set_rate,
)
from phidet.training.recipe import Recipe
from phidet.training.sync_norm import share_batch_norms

if TYPE_CHECKING:
    from phidet.training.base import TrainingTask
    from phidet.training.fit import RunSettings

log = logging.getLogger("phidet")


class Moment(NamedTuple):
    """Where in a run a step is: epoch and step, both from 0, and the number of steps of the epoch."""

    epoch: int
    step: int
    steps: int


class Average(Protocol):
    """The running average of a network's weights, which is evaluated and saved."""

    def copy_to(self, model: nn.Module) -> None:
        """Puts the average into ``model``."""


class Learner(Protocol):
    """What a task trains; :class:`OneNetwork` is the usual one."""

    @property
    def network(self) -> Model:
        """What is saved, with the weights of the last step."""

    @property
    def average(self) -> Average:
        """Of the weights of :attr:`network`."""

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""

    def train(self) -> None:
        """Puts the networks into training mode."""

    def step(self, batch: Any, at: Moment) -> dict[str, float]:
        """Learns from a batch; returns losses by name, ``loss`` among them.

        Raises:
            TrainingDivergedError: a loss is not finite; the weights must not be saved.
        """

    def state(self) -> dict[str, Any]:
        """Tensors and plain values by name that :meth:`restore` goes on from, beside those of the progress."""

    def restore(self, state: dict[str, Any]) -> None:
        """Takes everything back to where ``state`` was saved."""


class OneNetwork:
    """A network that minimises the task's loss; see :class:`Learner`.

    Attributes:
        network: the network itself.
        model, optimizer: the network and its optimizer as the engine wraps them.
        average: of the network's weights.
        rate: learning rate of the last step.
        frozen: parts of the network that stay as they are.
    """

    def __init__(
        self, fabric: Fabric, network: Model, wrapped: tuple[Any, Any], task: TrainingTask, recipe: Recipe
    ) -> None:
        self.fabric, self.network, self.task, self.recipe = fabric, network, task, recipe
        self.model, self.optimizer = wrapped
        self.average = RunningAverage(network, recipe.ema_decay)  # of the first process's weights, which all have now
        self.frozen = frozen_parts(network, recipe)
        self.rate = 0.0

    def train(self) -> None:
        """Into training mode, but for what is frozen."""
        self.model.train()
        for part in self.frozen:
            part.eval()  # its statistics stay as they are

    def step(self, batch: Any, at: Moment) -> dict[str, float]:
        """Loss, gradient, update, average."""
        fabric, model, optimizer, recipe = self.fabric, self.model, self.optimizer, self.recipe
        # The last batch of an epoch always updates, so that no gradient is carried over into the next one.
        update = (at.step + 1) % recipe.accumulate == 0 or at.step + 1 == at.steps
        self.rate = rate_at(at.epoch * at.steps + at.step, at.steps, recipe)
        set_rate(optimizer, self.rate)
        # Gradients are exchanged between processes only at the step that uses them.
        with fabric.no_backward_sync(model, enabled=not update):
            losses = self.task.losses(fabric, model, batch, recipe)
            fabric.backward(losses["loss"] / recipe.accumulate)
        # Checked before the update, which keeps bad gradients out of the weights.
        values = {name: float(value.detach()) for name, value in losses.items()}
        check_finite(values, at)
        if update:
            fabric.clip_gradients(model, optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False)
            optimizer.step()
            optimizer.zero_grad()
            self.average.update(self.network)
        return values

    def state(self) -> dict[str, Any]:
        """Weights, moments and averages."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "updates": self.average.updates,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes everything back to where ``state`` was saved."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        # In place: the average's tensors stay on their device.
        for name, tensor in state["average"].items():
            self.average.values[name].copy_(tensor)
        self.average.updates = state["updates"]


def prepare_learner(
    fabric: Fabric, model: Model, task: TrainingTask, recipe: Recipe, settings: RunSettings
) -> OneNetwork:
    """Everything that learns, on the engine's device."""
    model.to(fabric.device)
    raise_batch_norm_momentum(model, recipe, max(1, task.num_images // recipe.batch_size) * recipe.epochs)
    if recipe.sync_batch_norm and fabric.world_size > 1:
        share_batch_norms(model, fabric.device)  # which may put others in their place: frozen are those
    # Frozen parameters must be known before the optimizer and DDP collect those that need gradients.
    for part in frozen_parts(model, recipe):
        part.requires_grad_(False)
    if settings.save_memory and not recompute_activations(model):
        log.warning("save_memory has no effect: %s has no blocks to recompute", model.config.name)
    compiled: Any = torch.compile(model) if settings.compile else model
    wrapped: Any = fabric.setup(compiled, build_optimizer(model, recipe, fabric.device))
    return OneNetwork(fabric, model, wrapped, task, recipe)


def check_finite(values: dict[str, float], at: Moment) -> None:
    """Raises TrainingDivergedError unless every loss is a number."""
    if not all(math.isfinite(value) for value in values.values()):
        raise TrainingDivergedError(
            f"the loss became {values['loss']} in epoch {at.epoch + 1}, step {at.step + 1}: lower the learning rate, "
            "or look at the data with 'phidet doctor'; --resume starts again from the last whole epoch"
        )
