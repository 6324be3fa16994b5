"""Gradient checkpointing: less memory for a third more arithmetic (arXiv 1604.06174)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import mobilenetv2
from torchvision.models.resnet import BasicBlock, Bottleneck

from phidet.architectures.backbones.efficientnet import InvertedResidual
from phidet.architectures.efficientdet.feature_network import FusionNode

_BLOCKS = (InvertedResidual, BasicBlock, Bottleneck, mobilenetv2.InvertedResidual, FusionNode)


def recompute_activations(model: nn.Module) -> int:
    """Makes the large blocks of ``model`` forget their activations in training and compute them again in backward.

    Returns:
        How many blocks do so: residual blocks of the backbone, and nodes of the feature network; 0 for a model that has
        neither, whose memory stays as it is.
    """
    blocks = [module for module in model.modules() if isinstance(module, _BLOCKS)]
    for block in blocks:
        block.forward = partial(_forward, block, block.forward)  # type: ignore[method-assign]
    return len(blocks)


def _forward(block: nn.Module, forward: Any, *inputs: Any) -> Tensor:
    if not block.training:
        result: Tensor = forward(*inputs)
        return result
    again: Tensor = checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, block))
    return again


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms must not count a batch twice: the second time their running statistics stay as they are."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
