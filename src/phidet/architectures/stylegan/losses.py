"""The losses of both networks: logistic, with the gradient penalty R1 (arXiv 1801.04406)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake_scores: Tensor) -> Tensor:
    """softplus(−D(G(z))) for each image: the non-saturating logistic loss (arXiv 1406.2661)."""
    return F.softplus(-fake_scores)


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """softplus(D(G(z))) + softplus(−D(x)) for each pair of images."""
    return F.softplus(fake_scores) + F.softplus(-real_scores)


def gradient_penalty(images: Tensor, scores: Tensor) -> Tensor:
    """‖∂ score / ∂ image‖², (N,), for each of ``images``, from which ``scores`` were computed.

    It is taken at the full resolution: at level of detail l the gradient is spread over 4^⌊l⌋ equal pixels, which
    weakens the penalty by as much.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3))
