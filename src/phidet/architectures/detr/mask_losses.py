"""Losses of masks over matched pairs (arXiv 2005.12872, section 4.4): focal loss and DICE, divided by the objects."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from phidet.architectures.layers import wide
from phidet.architectures.sets.matching import Matched

_ALPHA, _GAMMA = 0.25, 2.0
_UNKNOWN = 255  # at every pixel of an object that has a box only


def mask_losses(mask_logits: Tensor, masks: Tensor, matched: Matched, normaliser: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss and DICE of the matched pairs whose masks are known.

    Padding counts as "not the object", as in the official code.

    Args:
        mask_logits: (B, Q, h, w), of the last layer.
        masks: (B, N, H, W) uint8: 1 for the object, 0 for what is not, 255 throughout for one that is not known.
        matched: the pairs.
        normaliser: scalar, of :func:`phidet.architectures.sets.targets.num_objects`.
    """
    wanted = masks[matched.images, matched.objects]  # (P, H, W)
    # A mask that is not known has that value at every pixel, so that one pixel tells.
    known = wanted[:, 0, 0] != _UNKNOWN
    answers = mask_logits[matched.images[known], matched.queries[known]].unsqueeze(1)
    size_hw = wanted.shape[1], wanted.shape[2]
    resized = F.interpolate(wide(answers), size_hw, mode="bilinear", align_corners=False)[:, 0].flatten(1)
    targets = wanted[known].flatten(1).to(resized.dtype)
    return focal_loss(resized, targets).sum() / normaliser, dice_loss(resized, targets).sum() / normaliser


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over pixels of the focal loss (arXiv 1708.02002, equation 5), α ¼, γ 2: (P, n) → (P,)."""
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrong = torch.where(targets > 0, 1 - p, p)
    weight = torch.where(targets > 0, _ALPHA, 1 - _ALPHA)
    return (weight * wrong**_GAMMA * entropy).mean(1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the overlap 2·|P∩T| / (|P| + |T|), both increased by one (arXiv 1606.04797): (P, n) → (P,)."""
    p = logits.sigmoid()
    return 1 - (2 * (p * targets).sum(1) + 1) / (p.sum(1) + targets.sum(1) + 1)
