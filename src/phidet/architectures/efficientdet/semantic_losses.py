"""The loss of the classes of pixels: cross entropy, over the pixels whose class the labels tell."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from phidet.architectures.batch import Batch
from phidet.architectures.efficientdet.mask_config import STRIDE
from phidet.architectures.efficientdet.mask_losses import UNKNOWN, inside_boxes
from phidet.architectures.layers import wide

NOT_KNOWN = -100
"""Target of a pixel whose class is not known, which takes no part."""


def semantic_targets(batch: Batch, num_classes: int, has_background: bool) -> Tensor:
    """(B, h, w) int64, the class of each cell from the masks of objects.

    Of several masks the smallest one is on top, as what lies on an object is as a rule smaller than it. What no mask
    covers is background, class C; it is not known in padding, in the box of an object that has a box only, and all
    over where labels are of every pixel and so have no background.

    Args:
        batch: with masks.
        num_classes: C.
        has_background: whether pixels of no object are background.
    """
    assert batch.masks is not None
    masks, there = batch.masks, batch.class_ids >= 0
    size_hw = masks.shape[2:]
    covered = (masks == 1) & there[:, :, None, None]
    # Where no object lies is background, if the labels have any; else nothing is known of it.
    known = torch.ones(len(masks), *size_hw, dtype=torch.bool, device=masks.device) & has_background
    rows, columns = (torch.arange(side, device=masks.device) for side in size_hw)
    valid = batch.valid_hw / STRIDE
    known &= (rows < valid[:, :1])[:, :, None] & (columns < valid[:, 1:])[:, None, :]
    wanted = torch.full((len(masks), *size_hw), num_classes, device=masks.device)
    if masks.shape[1]:
        for i in range(len(masks)):  # an image at a time: all boxes of a batch would be large
            boxed_only = there[i] & (masks[i, :, 0, 0] == UNKNOWN)
            known[i] &= ~inside_boxes(batch.boxes_xyxy[i, boxed_only] / STRIDE, size_hw).bool().any(0)
        # Of objects that overlap, the smallest one is seen.
        areas = covered.sum((2, 3)).float()
        cost = torch.where(covered, areas[:, :, None, None], torch.inf)
        least, top = cost.min(1)
        of_object = batch.class_ids.gather(1, top.flatten(1)).view_as(top)
        wanted = torch.where(least.isfinite(), of_object, wanted)
        known |= least.isfinite()
    return torch.where(known, wanted, NOT_KNOWN)


def semantic_loss(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The summed cross entropy, and the number of pixels it is a sum over.

    Args:
        logits: (B, C + 1, h, w), any floating type.
        wanted: (B, h, w), of :func:`semantic_targets`.

    Returns:
        Scalars in float32 (float64 for float64 logits).
    """
    loss = F.cross_entropy(wide(logits), wanted, ignore_index=NOT_KNOWN, reduction="sum")
    return loss, (wanted != NOT_KNOWN).sum().to(loss.dtype)
