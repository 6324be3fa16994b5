"""The loss of masks: cross entropy and dice inside the labelled box, over a part of the anchors that have an object."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from phidet.architectures.efficientdet.mask_config import STRIDE
from phidet.architectures.efficientdet.targets import Targets

MOST = 100
"""Anchors of a batch's image whose masks are learned in a step, on average (arXiv 1904.02689, section 5)."""
UNKNOWN = 255
"""In a mask that is not labelled; see :class:`phidet.architectures.batch.Batch`."""


def mask_loss(
    coefficients: Tensor, prototypes: Tensor, targets: Targets, masks: Tensor, boxes_xyxy: Tensor
) -> tuple[Tensor, Tensor]:
    """The summed loss of masks, and the number of masks it is a sum over.

    Each mask's loss is the mean cross entropy inside its box, as in arXiv 1904.02689, plus a dice loss there, without
    which small objects and thin parts count little. Objects without a labelled mask take no part.

    Args:
        coefficients: (B, A, K), any floating type.
        prototypes: (B, K, h, w).
        targets: which anchor has which object.
        masks: (B, N, h, w) uint8, 1 for the object, 255 all over where it is not known.
        boxes_xyxy: (B, N, 4) in pixels of the input.

    Returns:
        Scalars in float32; the number has no gradient.
    """
    image, anchor = (targets.class_ids >= 0).nonzero(as_tuple=True)  # (P,) each
    owner = targets.matched[image, anchor]
    known = masks[image, owner, 0, 0] != UNKNOWN if len(image) else image.bool()
    image, anchor, owner = image[known], anchor[known], owner[known]
    limit = MOST * len(masks)
    if len(image) > limit:
        # Evenly spaced, so that which ones needs no chance.
        chosen = torch.arange(limit, device=image.device) * len(image) // limit
        image, anchor, owner = image[chosen], anchor[chosen], owner[chosen]
    count = torch.tensor(float(len(image)), device=masks.device)
    if not len(image):
        # Zero, but through the network: several processes wait for the gradients of all weights.
        return (coefficients.sum() + prototypes.sum()).float() * 0, count
    # In float32 from here on: sums over thousands of pixels lose their small parts in half precision.
    maps = prototypes.float()
    # Image by image, in whose order the anchors are: prototypes for each anchor would be a hundred times as large.
    of_image = [coefficients[i, anchor[image == i]].float() for i in range(len(maps))]
    logits = torch.cat([(c @ m.flatten(1)).unflatten(1, m.shape[1:]) for c, m in zip(of_image, maps, strict=True)])
    wanted = (masks[image, owner] == 1).float()
    # What lies outside of the box is cut off in the end, so nothing is learned there.
    inside = inside_boxes(boxes_xyxy[image, owner] / STRIDE, logits.shape[1:])
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * inside
    area = inside.sum((1, 2)).clamp(min=1)
    likely = logits.sigmoid() * inside
    dice = 1 - (2 * (likely * wanted).sum((1, 2)) + 1) / (likely.sum((1, 2)) + (wanted * inside).sum((1, 2)) + 1)
    return (entropy.sum((1, 2)) / area + dice).sum(), count


def inside_boxes(boxes_xyxy: Tensor, size_hw: torch.Size) -> Tensor:
    """(P, 4) boxes in cells → (P, h, w) float, 1 for the cells that a box touches."""
    columns = torch.arange(size_hw[1], device=boxes_xyxy.device)
    rows = torch.arange(size_hw[0], device=boxes_xyxy.device)
    x1, y1, x2, y2 = boxes_xyxy.t()[..., None]  # (P, 1) each
    across = (columns + 1 > x1) & (columns < x2)
    down = (rows + 1 > y1) & (rows < y2)
    inside: Tensor = (down[:, :, None] & across[:, None, :]).float()
    return inside
