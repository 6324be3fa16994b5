"""Gradient checkpointing: less memory for a third more arithmetic (arXiv 1604.06174)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError


def recompute_activations(model: Model) -> int:
    """Makes the large blocks of ``model`` forget their activations in training and compute them again in backward.

    Returns:
        How many blocks do so: those that the model's architecture names.

    Raises:
        ConfigError: it names none.
    """
    # Only the architecture knows which blocks hold large activations and are cheap enough to run twice.
    blocks = architecture_of(model.config).recomputed_blocks(model)
    if not blocks:
        raise ConfigError(f"{model.config.name} has no blocks to recompute: leave out --save-memory")
    for block in blocks:
        block.forward = partial(_forward, block, block.forward)
    return len(blocks)


def _forward(block: nn.Module, forward: Any, *inputs: Any) -> Tensor:
    if not block.training:
        result: Tensor = forward(*inputs)
        return result
    # The non-reentrant variant also works where no input needs a gradient, as behind a frozen backbone.
    again: Tensor = checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, block))
    return again


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms must not count a batch twice: the second time their running statistics stay as they are."""
    # Momentum 0 keeps the normalisation by batch statistics but turns the update of the running ones into a no-op.
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
