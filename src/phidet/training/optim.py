"""Optimizer, learning rate and running average."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError
from phidet.training.recipe import Recipe


def build_optimizer(model: Model, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """SGD or AdamW over what is not frozen; weight decay on kernels and matrices only, unless the recipe says all."""
    groups = []
    # The backbone may learn more slowly, the more so the earlier, and biases and norms usually take no weight decay.
    rest = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("backbone.")]
    for parameters, factor in [*_backbone_rates(model, recipe), (rest, 1.0)]:
        for kernels in (True, False):
            part = [p for p in parameters if (p.ndim > 1) == kernels]
            decay = recipe.weight_decay if kernels or recipe.decay_all else 0.0
            groups.append({"params": part, "weight_decay": decay, "factor": factor})
    rate = peak_rate(recipe)
    # One pass over each tensor, instead of a dozen small operations; gradients scaled for float16 do not allow it.
    fused = device.type in ("cpu", "cuda") and recipe.precision != "16-mixed"
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, fused=fused)
    return torch.optim.AdamW(groups, lr=rate, fused=fused)


def _backbone_rates(model: Model, recipe: Recipe) -> list[tuple[list[nn.Parameter], float]]:
    """The backbone's parameters and the factor of their learning rate, part by part: one, or one for each depth.

    With ``layer_decay`` d, block k of n has d^(n − k) times the backbone's rate, and what comes before the first block
    d^n times (layer-wise decay as of arXiv 2106.08254, with residual blocks for layers).

    Raises:
        ConfigError: there are no blocks to tell depths by.
    """
    own = [(name, p) for name, p in model.named_parameters() if p.requires_grad and name.startswith("backbone.")]
    if recipe.layer_decay == 1:
        return [([p for _, p in own], recipe.backbone_rate)]
    blocks = set(architecture_of(model.config).recomputed_blocks(model))
    prefixes = [f"{name}." for name, module in model.named_modules() if module in blocks]
    prefixes = [prefix for prefix in prefixes if prefix.startswith("backbone.")]
    if not prefixes:
        raise ConfigError(f"{model.config.name} has no backbone of blocks: train it with layer_decay=1")
    # Parameters come in the order of the network, so that what lies between two blocks belongs to the one before.
    parts: list[list[nn.Parameter]] = [[] for _ in range(len(prefixes) + 1)]
    depth = 0
    for name, parameter in own:
        depth = next((k for k, prefix in enumerate(prefixes, 1) if name.startswith(prefix)), depth)
        parts[depth].append(parameter)
    deepest = len(prefixes)
    return [(part, recipe.backbone_rate * recipe.layer_decay ** (deepest - k)) for k, part in enumerate(parts)]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of every group to ``rate`` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def frozen_parts(model: Model, recipe: Recipe) -> list[nn.Module]:
    """The modules whose weights stay fixed."""
    if recipe.freeze == "none":
        return []
    if recipe.freeze == "detector":
        detector_parts = getattr(model, "detector_parts", None)
        parts: list[nn.Module] = [] if detector_parts is None else detector_parts()
        fixed = {p for part in parts for p in part.parameters()}
        if not parts or all(p in fixed for p in model.parameters()):
            raise ConfigError(f"{model.config.name} has no masks to train beside its detector: use another freeze")
        return parts
    backbone = getattr(model, "backbone", None)
    early_layers = getattr(backbone, "early_layers", None)
    if backbone is None or early_layers is None:
        raise ConfigError(f"{model.config.name} has no backbone to freeze: train it with freeze=none")
    return early_layers() if recipe.freeze == "early" else [backbone]


def raise_batch_norm_momentum(model: nn.Module, recipe: Recipe, steps: int) -> None:
    """Lets batch norms follow a run of fewer than 1,000 steps, whose end they would otherwise evaluate with its start.

    The official momentum forgets over a hundred steps; here that is never more than a tenth of the run.
    """
    least = max(recipe.batch_norm_momentum, min(0.1, 10 / steps))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None:
            module.momentum = max(module.momentum, least)


def peak_rate(recipe: Recipe) -> float:
    """The learning rate after warm-up: linear in the batch for SGD, its square root for AdamW."""
    batches = recipe.batch_size * recipe.accumulate / 64
    return recipe.learning_rate * (batches if recipe.optimizer == "sgd" else math.sqrt(batches))


def rate_at(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """The learning rate of update ``step`` (from 0): a linear warm-up, then the recipe's schedule."""
    peak, total = peak_rate(recipe), steps_per_epoch * recipe.epochs
    # At least one step is left behind it, so that a very short run still reaches its peak rate.
    warmup = min(int(recipe.warmup_epochs * steps_per_epoch), total - 1)
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    if recipe.schedule == "step":
        # Whole epochs, rounded: 2/3 of 300 must not fall in the one before because of a float's last digit.
        return peak if step < round(recipe.step_at * recipe.epochs) * steps_per_epoch else peak / 10
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


class RunningAverage:
    """Exponential average of weights and statistics, which is what is evaluated and saved.

    Its decay grows with the number of updates, ``min(decay, (1 + n) / (10 + n))``: an average that still remembers the
    random start ruins short runs.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.values = {name: tensor.detach().clone() for name, tensor in _floating(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        # One fused call for all tensors: hundreds of small kernels would cost more than the arithmetic.
        torch._foreach_lerp_(list(self.values.values()), [tensor for _, tensor in _floating(model)], 1 - decay)

    def copy_to(self, model: nn.Module) -> None:
        """Puts the average into ``model``."""
        # Integer buffers (batch counts) are not averaged and stay as they are, hence not strict.
        model.load_state_dict(self.values, strict=False)


def _floating(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in model.state_dict().items() if tensor.is_floating_point())
